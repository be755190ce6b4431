"""The capture table: Hugging Face architectures in small random configurations, in no_grad.

Each compiler has processes of its own, which measure a few models each.

For each: graphs, breaks, the largest difference from eager relative to the largest value (two calls that were recorded
for other values included), the first call by framejit and by torch.compile(backend="eager"), and the steady time
relative to eager. Targets: one graph and no break, except where the model's own code depends on tensor data; equal to
eager within 1e-5; the first call at least 20 times sooner than torch.compile(backend="eager")'s.
usage: python -m benchmarks.coverage [--check] [--write] [--models NAME,...] [--torch-compile all|none|NAME,...]
torch.compile takes most of the time, and may be left out or measured for some of the models alone.
--write puts the table into docs/coverage.md, between its markers.
"""

import argparse
import json
import logging
import sys
import sysconfig
import warnings

import torch

from benchmarks import common
from benchmarks.architectures import ARCHITECTURES
from benchmarks.models_zoo import output_tensors

PAGE = common.ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- begin: architectures -->", "<!-- end: architectures -->"
DATA_BREAKS = ("TensorData", "DataDependent")
TOLERANCE = 1e-5
SOONER = 20
BATCH = 9  # models to a process


def difference(actual: list, expected: list) -> float:
    """Relative to the largest value; infinite where more than values differs."""
    if len(actual) != len(expected):
        return float("inf")
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        if (a.shape, a.dtype, a.stride()) != (e.shape, e.dtype, e.stride()):
            return float("inf")
        if e.numel() > 0:
            a, e = a.double(), e.double()
            same = (a == e) | (a.isnan() & e.isnan())
            scale = e[e.isfinite()].abs().max().item() if bool(e.isfinite().any()) else 0.0
            apart = torch.where(same, 0.0, (a - e).abs()).max().item()
            worst = max(worst, 0.0 if apart == 0 else apart / scale if scale > 0 else float("inf"))
    return worst


def short(path: str) -> str:
    """Without where Python and its packages are installed."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        if path.startswith(folder):
            return path[len(folder) + 1 :]
    return path


def seeded(function, inputs):
    """Some models draw random numbers in evaluation too."""
    torch.manual_seed(0)
    return function(**inputs)


def breaks_of(report) -> list[dict]:
    """The places of the breaks, each once. A loop that a break interrupts goes on natively: its iterator has no place
    in a recording that begins inside it, which is not a reason of its own."""
    found = {(b.code, b.file, b.line): b for b in report.breaks}
    return [
        {"code": b.code, "place": f"{short(b.file)}:{b.line}", "function": b.function, "detail": b.detail}
        for b in found.values()
        if len(found) == 1 or not b.detail.startswith("an iterator from outside is advanced")
    ]


def measure_framejit(name: str, rounds: int) -> dict:
    import framejit

    architecture = ARCHITECTURES[name]
    model = architecture.build()
    inputs = [architecture.inputs(seed) for seed in range(3)]
    framejit.compile(torch.nn.Linear(3, 3).eval())(torch.ones(2, 3))
    expected = [output_tensors(seeded(model, i)) for i in inputs]
    compiled = framejit.compile(model)
    result = []
    first = common.seconds(lambda: result.append(seeded(compiled, inputs[0])))
    actual = [output_tensors(result[0]), *(output_tensors(seeded(compiled, i)) for i in inputs[1:])]
    best = common.minimum_seconds(
        {"eager": lambda: model(**inputs[0]), "framejit": lambda: compiled(**inputs[0])}, rounds
    )
    report = framejit.explain(model)(**inputs[0])
    return {
        "graphs": report.graph_count,
        "captured": all(graph.captured for graph in report.graphs),
        "breaks": breaks_of(report),
        "difference": max(difference(a, e) for a, e in zip(actual, expected, strict=True)),
        "first": first,
        "steady": best["framejit"] / best["eager"],
    }


def measure_torch_compile(name: str) -> dict:
    common.warm_imports()
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    inputs = architecture.inputs(0)
    torch.compile(torch.nn.Linear(3, 3).eval(), backend="eager")(torch.ones(2, 3))
    seeded(model, inputs)
    compiled = torch.compile(model, backend="eager")
    try:
        return {"first": common.seconds(lambda: seeded(compiled, inputs))}
    except Exception as error:
        return {"error": type(error).__name__}


def child(names: str, compiler: str, threads: int, rounds: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    rows = {}
    with torch.no_grad():
        for name in names.split(","):
            rows[name] = measure_framejit(name, rounds) if compiler == "framejit" else measure_torch_compile(name)
    print(json.dumps(rows))


def in_child(names: list[str], compiler: str, arguments: argparse.Namespace) -> dict[str, dict]:
    """The rows of these models; where one ends the process, those of the others, and its own says how."""
    if not names:
        return {}
    options = (f"--threads={arguments.threads}", f"--rounds={arguments.rounds or 20}")
    try:
        return common.in_fresh_process("benchmarks.coverage", ",".join(names), compiler, *options)
    except RuntimeError as error:
        if len(names) == 1:
            return {names[0]: {"failed": str(error)}}
    return {k: v for name in names for k, v in in_child([name], compiler, arguments).items()}


def measure(names: list[str], arguments: argparse.Namespace) -> dict[str, dict]:
    rows = in_child(names, "framejit", arguments)
    chosen = names if arguments.torch_compile == "all" else arguments.torch_compile.split(",")
    for name, row in in_child([n for n in names if n in chosen], "torch", arguments).items():
        rows[name]["torch"] = row
    return rows


def check(name: str, row: dict, targets: common.Targets) -> None:
    targets.at_most(f"{name}, difference", row["difference"], TOLERANCE)
    if not any(b["code"] in DATA_BREAKS for b in row["breaks"]):
        targets.exactly(f"{name}, graphs", row["graphs"], 1)
    targets.exactly(f"{name}, graphs that no backend compiled", int(not row["captured"]), 0)
    for b in row["breaks"]:
        if b["code"] not in DATA_BREAKS:
            targets.missed.append(f"{name}: break at {b['place']}: {b['detail']} [{b['code']}]")
    if "first" in row.get("torch", {}):
        targets.at_least(f"{name}, times sooner", row["torch"]["first"] / row["first"], SOONER)


def cells(name: str, row: dict) -> list[str]:
    reference = row.get("torch", {})
    slow = common.milliseconds(reference["first"]) if "first" in reference else reference.get("error", "-")
    sooner = f"{reference['first'] / row['first']:.0f}x" if "first" in reference else "-"
    return [
        name,
        ARCHITECTURES[name].kind,
        str(row["graphs"]),
        str(len(row["breaks"])),
        f"{row['difference']:.1e}",
        common.milliseconds(row["first"]),
        slow,
        sooner,
        f"{row['steady']:.2f}",
    ]


HEADER = [
    "architecture",
    "kind",
    "graphs",
    "breaks",
    "difference",
    "first call, ms",
    'torch.compile(backend="eager"), ms',
    "sooner",
    "steady time / eager",
]


def page_section(rows: dict[str, dict], threads: int) -> str:
    """What stands between the markers of the page."""
    lines = [f"{len(rows)} architectures; {common.environment_line(threads)}.", ""]
    lines += ["| " + " | ".join(HEADER) + " |", "|---|---|" + "--:|" * (len(HEADER) - 2)]
    lines += ["| " + " | ".join(cells(name, row)) + " |" for name, row in rows.items()]
    broken = {name: row for name, row in rows.items() if row["breaks"]}
    if broken:
        lines += ["", "What breaks them:", "", "| architecture | reason | line | what |", "|---|---|---|---|"]
    for name, row in broken.items():
        lines += [
            f"| {name} | [{b['code']}](breaks.md#{b['code'].lower()}) | `{b['place']}` | {b['detail']} |"
            for b in row["breaks"]
        ]
    return "\n".join(lines)


def write_page(section: str) -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}")


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--models", default=",".join(ARCHITECTURES), help="comma-separated names")
    parser.add_argument("--torch-compile", default="all", help="what torch.compile is measured for: all, none or names")
    parser.add_argument("--write", action="store_true", help="write the table to docs/coverage.md")
    arguments = parser.parse_args()
    if arguments.child is not None:
        names, compiler = arguments.child
        child(names, compiler, arguments.threads, arguments.rounds)
        return 0
    targets = common.Targets()
    rows = {}
    names = arguments.models.split(",")
    for first in range(0, len(names), BATCH):
        for name, row in measure(names[first : first + BATCH], arguments).items():
            if "failed" in row:
                targets.missed.append(f"{name}: {row['failed']}")
                continue
            rows[name] = row
            check(name, row, targets)
            print("  ".join(cells(name, row)), flush=True)
    common.print_table(HEADER, [cells(name, row) for name, row in rows.items()])
    if arguments.write:
        write_page(page_section(rows, arguments.threads))
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
