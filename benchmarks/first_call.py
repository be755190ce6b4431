"""Compile time: the first call less one steady call, each compiler in a fresh process, caches off, imports warmed.

Models of the zoo; 2,000 additions in one function; an encoder of six layers; and what recording takes for each bytecode
of plain Python code, by framejit's own clock (the stage "record", as FRAMEJIT_LOG=timing shows it).

Targets: BERT-base at least 200 times below Inductor and 50 times below torch.compile(backend="eager"); 2,000 additions
at least 100 times below the latter; the encoder's whole first call under 40 ms; recording under 100 ns per bytecode.
usage: python -m benchmarks.first_call [--check] [--quick] [--models NAME,...] [--no-inductor]
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.models_zoo import MODELS, SEED

COMPILERS = ("framejit", "inductor", "eager")
FIRST_CALL_LIMIT = 40e-3  # seconds, of the encoder
BYTECODE_LIMIT = 100e-9
RUNS = 3  # of framejit's process, whose least counts; the others take seconds


class Additions(nn.Module):
    """One function of many operators."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.count):
            x = x + 1
        return x


def encoder(small: bool) -> nn.Module:
    """Six layers as torch.nn has them. In training mode, without dropout: else each layer is one fused operator."""
    torch.manual_seed(SEED)
    width = 32 if small else 256
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


@dataclass(frozen=True)
class Case:
    build: Callable[[bool], nn.Module]
    inputs: Callable[[bool], dict[str, Tensor]]
    # Least ratios of a compiler's compile time to framejit's. What has none is not measured with that compiler.
    inductor: float | None = None
    eager: float | None = None
    first_call: float | None = None  # seconds


def zoo_case(name: str, inductor: float, eager: float) -> Case:
    return Case(MODELS[name].build, lambda small: MODELS[name].inputs(small, 0, 0), inductor, eager)


CASES = {
    "2000 additions": Case(
        lambda small: Additions(200 if small else 2000), lambda small: {"x": torch.ones(16)}, eager=100
    ),
    "encoder of 6 layers": Case(
        encoder, lambda small: {"src": torch.ones(1, 32, 32 if small else 256)}, eager=1, first_call=FIRST_CALL_LIMIT
    ),
    "bert-base": zoo_case("bert-base", 200, 50),
    **{name: zoo_case(name, 1, 1) for name in ("gpt2", "llama-60m", "vit-s", "resnet18")},
}
DEFAULT = ("2000 additions", "encoder of 6 layers", "bert-base")


def compiled_by(compiler: str, model):
    if compiler == "framejit":
        import framejit

        return framejit.compile(model)
    return torch.compile(model, backend=compiler)


def child(name: str, compiler: str, small: bool, threads: int) -> None:
    """Prints the compile time of one model by one compiler as JSON."""
    torch.set_num_threads(threads)
    common.warm_imports()
    if name == "plain code":
        print(json.dumps({"per_bytecode": seconds_per_bytecode(small)}))
        return
    model = CASES[name].build(small)
    inputs = CASES[name].inputs(small)
    with torch.no_grad():
        # Both compilers warmed on something else, so that what they load once per process is not measured.
        warm = compiled_by(compiler, torch.nn.Linear(3, 3).eval())
        warm(torch.ones(2, 3))
        model(**inputs)
        compiled = compiled_by(compiler, model)
        first = common.seconds(lambda: compiled(**inputs))
        steady = min(common.seconds(lambda: compiled(**inputs)) for _ in range(5))
    print(json.dumps({"first": first, "steady": steady, "compile": first - steady}))


def plain_code(x: Tensor, count: int) -> Tensor:
    """Arithmetic, comparisons, containers and calls of Python, and one operator."""
    seen, total = [], 0
    for i in range(count):
        if i % 3 == 0:
            seen.append(i)
        else:
            total = total + i * 2 - len(seen)
    return x + total


def seconds_per_bytecode(small: bool) -> float:
    import framejit

    best = float("inf")
    for _ in range(5):
        with torch.no_grad():
            report = framejit.explain(plain_code)(torch.ones(4), 2_000 if small else 50_000).traces[0]
        best = min(best, dict(report.compile_times)["record"] * 1e-6 / report.statistics["bytecodes"])
    return best


def measure(name: str, compiler: str, arguments) -> dict[str, float]:
    size = "small" if arguments.quick else "full"
    options = (name, compiler, size, f"--threads={arguments.threads}")
    runs = RUNS if compiler == "framejit" else 1
    found = [common.in_fresh_process("benchmarks.first_call", *options) for _ in range(runs)]
    return min(found, key=lambda row: row.get("compile", 0))


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--models", default=",".join(DEFAULT), help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--no-inductor", action="store_true", help="leave Inductor out (its compilation is slow)")
    arguments = parser.parse_args()
    if arguments.child is not None:
        name, compiler, size = arguments.child
        child(name, compiler, size == "small", arguments.threads)
        return 0
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    header = ["compile time, ms", "framejit", "inductor", 'backend="eager"']
    table = common.GrowingTable([*header, "first call"], max(len(name) for name in CASES))
    for name in arguments.models.split(","):
        case = CASES[name]
        least = {"inductor": None if arguments.no_inductor else case.inductor, "eager": case.eager}
        times = {c: measure(name, c, arguments) for c in COMPILERS if c == "framejit" or least[c] is not None}
        own = times["framejit"]["compile"]
        cells = [common.milliseconds(own)]
        for compiler in ("inductor", "eager"):
            if compiler not in times:
                cells.append("-")
                continue
            ratio = times[compiler]["compile"] / own
            cells.append(f"{common.milliseconds(times[compiler]['compile'])} ({ratio:.0f}x)")
            targets.at_least(f"compile time of {name}, {compiler}/framejit", ratio, least[compiler])
        table.add([name, *cells, common.milliseconds(times["framejit"]["first"])])
        if case.first_call is not None:
            targets.at_most(f"first call of {name}, ms", times["framejit"]["first"] * 1e3, case.first_call * 1e3)
    per_bytecode = measure("plain code", "framejit", arguments)["per_bytecode"]
    print(f"recording plain code: {per_bytecode * 1e9:.0f} ns per bytecode")
    targets.at_most("recording of plain code, ns per bytecode", per_bytecode * 1e9, BYTECODE_LIMIT * 1e9)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
