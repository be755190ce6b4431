"""Which of torch's operators and modules framejit captures: torch's own op database and module inputs, call by call.

Each operator is called by a function that does nothing else, in no_grad mode, with the first samples of the op database
(`op_db`; float32 and int64): as a function, as a method, in place, as a Python operator and with `out=`. Each module of
`module_db` is called with its first inputs, in evaluation and in training mode. A call is

  captured   one graph, no break, and everything that can be seen is what eager does: values, strides, memory shared
             with arguments, what became of the arguments; the same on a warm call and on one with other values
  data       broken cleanly because the result depends on tensor data (its size, or a Python value made of it)
  broken     broken cleanly for another reason: equal to eager, but not in one graph
  internal   framejit failed and ran the function in the interpreter
  wrong      something differs from eager
  crash      the process ended, or gave no result in time

A row of the table is what the worst of its calls is. The calls are made in child processes, which may crash.
usage: python -m benchmarks.coverage_ops [ops] [modules] [--only TEXT] [--samples N] [--dtypes A,B] [--jobs N]
                                         [--write] [--check]
--write writes docs/coverage_ops.md. --check fails below 95 % or if anything is wrong, internal or a crash.
"""

import argparse
import collections
import contextlib
import copy
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "python")]

import torch  # noqa: E402

STATUSES = ("captured", "data", "broken", "internal", "wrong", "crash")
DATA_BREAKS = ("TensorData", "DataDependent")
SAMPLES = 4
SECONDS = 120
DTYPES = ("float32", "int64")
# What these return is whatever the memory held: only metadata can be compared.
UNINITIALISED = ("empty", "resize_", "resize_as_")
PAGE = ROOT / "docs" / "coverage_ops.md"


def prepare():
    """Quiet and in one thread; the database's wrapper that seeds is not measured, since every call is seeded here."""
    from torch.testing._internal import common_methods_invocations

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    common_methods_invocations.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)


def worst(results):
    return max(results, key=lambda result: STATUSES.index(result[0]))


# --- one call ---------------------------------------------------------------------------------------------------------


def metadata(value):
    """What of a result is known where its values are not."""
    if isinstance(value, torch.Tensor):
        strides = value.stride() if value.layout == torch.strided else None
        return value.dtype, value.shape, strides, value.layout, value.requires_grad
    return [metadata(part) for part in value] if isinstance(value, (list, tuple)) else type(value)


def difference(actual, expected, values: bool) -> str:
    """How two outcomes differ; empty if they do not."""
    from framejit_testing import assert_same_outcome

    try:
        if values or expected.error is not None:
            assert_same_outcome(actual, expected)
        else:
            assert actual.error is None, repr(actual.error)
            assert metadata(actual.value) == metadata(expected.value), "other metadata"
    except Exception as error:  # what cannot be compared is a finding as well
        return f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else repr(error)
    return ""


def same_structure(left, right) -> bool:
    """Whether two samples differ in the values of their tensors at most."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        strided = left.layout == right.layout == torch.strided
        return strided and metadata(left) == metadata(right) and left.is_conj() == right.is_conj()
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same_structure, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(map(same_structure, left.values(), right.values()))
    return left is right or left == right


def copied(value):
    """A deep copy; copy.deepcopy cannot copy compressed sparse tensors."""
    if isinstance(value, torch.Tensor) and value.layout != torch.strided:
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return {key: copied(part) for key, part in value.items()} if type(value) is dict else copy.deepcopy(value)


def outcome(target, sample):
    from framejit_testing import run

    args, kwargs = copied(sample)
    torch.manual_seed(0)
    with torch.no_grad():
        return run(target, args, kwargs)


def verdict(reports) -> tuple[str, str]:
    """What the traces of an entry say of how much was captured."""
    broken = [report.graph_break for report in reports if report.graph_break is not None]
    for found in broken:
        if found.code in ("InternalError", "UnknownTensor"):
            return "internal", f"{found.code}: {found.detail}"
    for found in broken:
        status = "data" if found.code in DATA_BREAKS else "broken"
        return status, f"{found.code}: {found.detail}"
    for report in reports:
        if report.fallback or not report.captured:
            return "broken", f"runs in the interpreter: {report.fallback}"
    return ("captured", "") if reports else ("broken", "nothing was recorded")


def judge(make_target, samples, values: bool = True) -> tuple[str, str] | None:
    """(status, detail) of a target called with each of `samples`; None where eager itself raises.

    make_target: gives a fresh target: eager and compiled have state of their own.
    """
    import framejit
    from framejit import _explain

    eager, target = make_target(), make_target()
    compiled = framejit.compile(target)
    entry = getattr(compiled, "_entry", compiled)
    for position, sample in enumerate(samples):
        expected = outcome(eager, sample)
        if position == 0 and expected.error is not None:
            return None
        found = difference(outcome(compiled, sample), expected, values)
        if not found and isinstance(target, torch.nn.Module):
            found = difference(_State(target), _State(eager), values)
        if found:
            return "wrong", f"{('recording', 'warm', 'other values')[position]} call: {found}"
    return verdict(_explain.reports(framejit._C, entry))


class _State:
    """The state of a module as an outcome."""

    def __init__(self, module):
        self.value, self.error, self.arguments = dict(module.state_dict()), None, ()
        self.random_state = None


# --- operators --------------------------------------------------------------------------------------------------------


def calling(operator):
    def function(*args, **kwargs):
        return operator(*args, **kwargs)

    return function


def forms_of(op):
    """(name, callable) of each way to call an operator."""
    names = {"method": op.method_variant, "in place": op.inplace_variant, "operator": op.operator_variant,
             "in-place operator": op.inplace_operator_variant}  # fmt: skip
    yield "function", op.op
    for name, form in names.items():
        if form is not None and form is not op.op:
            yield name, form


def with_out(op, sample):
    """The sample with an `out` of the right kind, or None where there is none."""
    args, kwargs = sample
    result = outcome(op.op, sample)
    if result.error is not None:
        return None
    value = result.value
    tensors = list(value) if isinstance(value, (list, tuple)) else [value]
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        return None
    empty = [torch.zeros_like(tensor) for tensor in tensors]
    return args, {**kwargs, "out": tuple(empty) if isinstance(value, (list, tuple)) else empty[0]}


def samples_of(op, dtype, count):
    """Pairs of samples that differ in values: ((args, kwargs), (args, kwargs) or None)."""
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        samples = []
        for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
            samples.append(((sample.input, *sample.args), dict(sample.kwargs)))
            if len(samples) == count:
                break
        drawn.append(samples)
    first, second = drawn
    second += [None] * (len(first) - len(second))
    return [(a, b if b is not None and same_structure(a, b) else None) for a, b in zip(first, second, strict=False)]


def judge_operator(op, dtype, count):
    """The results of an operator's calls: (status, detail) each."""
    results = []
    values = not any(word in op.name for word in UNINITIALISED)
    for first, second in samples_of(op, dtype, count):
        calls = [first, first] + ([second] if second is not None else [])
        for name, form in forms_of(op):
            found = judge(lambda form=form: calling(form), calls, values)
            if found is not None:
                results.append((found[0], f"{name}: {found[1]}" if found[1] else ""))
        if op.supports_out:
            outs = [with_out(op, call) for call in calls]
            found = None if None in outs else judge(lambda: calling(op.op), outs, values)
            if found is not None:
                results.append((found[0], f"out=: {found[1]}" if found[1] else ""))
    return results


# --- modules ----------------------------------------------------------------------------------------------------------


def judge_module(info, training, count):
    results = []
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False,
                                         training=training)  # fmt: skip
        drawn.append([row for row in inputs if row.forward_input is not None][:count])
    for first, second in zip(*drawn, strict=True):
        calls = [(row.forward_input.args, row.forward_input.kwargs) for row in (first, first, second)]
        if not same_structure(calls[0], calls[2]):
            calls.pop()

        def make(made=first.constructor_input, call=calls[0]):
            torch.manual_seed(0)
            module = info.module_cls(*made.args, **made.kwargs)
            if info.is_lazy:
                outcome(module, call)
            return module.train(training)

        found = judge(make, calls)
        if found is not None:
            results.append(found)
    return results


# --- the table --------------------------------------------------------------------------------------------------------


def keys_of(kind: str, only: str, dtypes=DTYPES) -> list[str]:
    """'ops add float32', 'modules nn.Linear eval' and so on."""
    keys = []
    if kind == "ops":
        from torch.testing._internal.common_methods_invocations import op_db

        for op in op_db:
            supported = op.supported_dtypes("cpu")
            keys += [f"ops {op.formatted_name} {name}" for name in dtypes if getattr(torch, name) in supported]
    else:
        from torch.testing._internal.common_modules import module_db

        for info in module_db:
            keys += [f"modules {info.name.replace('_', '.', 1)} {mode}" for mode in ("eval", "train")]
    return [key for key in dict.fromkeys(keys) if only in key]


def evaluate(key: str, count: int):
    """All results of one cell of the table."""
    kind, name, column = key.split(" ")
    if kind == "ops":
        from torch.testing._internal.common_methods_invocations import op_db

        dtype = getattr(torch, column)
        ops = [op for op in op_db if op.formatted_name == name and dtype in op.supported_dtypes("cpu")]
        return [result for op in ops for result in judge_operator(op, dtype, count)]
    from torch.testing._internal.common_modules import module_db

    infos = [info for info in module_db if info.name.replace("_", ".", 1) == name]
    return [result for info in infos for result in judge_module(info, column == "train", count)]


def child(count: int) -> None:
    """Reads keys, one a line, and answers each with a line of JSON."""
    prepare()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what operators print is not an answer
    import framejit

    for line in sys.stdin:
        key = line.rstrip("\n")
        print(json.dumps({"start": key}), file=answers, flush=True)
        try:
            results = evaluate(key, count)
        except Exception:
            results = [("crash", f"the script failed: {traceback.format_exc().splitlines()[-1]}")]
        framejit.reset()
        print(json.dumps({"key": key, "results": results}), file=answers, flush=True)


class Children:
    """Has keys evaluated by a child process, a new one after each crash."""

    def __init__(self, count: int):
        self.count, self.process = count, None

    def start(self):
        command = [sys.executable, "-m", "benchmarks.coverage_ops", "--child", "--samples", str(self.count)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, cwd=ROOT, env=environment, bufsize=0)  # fmt: skip

    def answer(self, seconds: float):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        return json.loads(line) if line.endswith(b"\n") else None

    def evaluate(self, key: str):
        if self.process is None:
            self.start()
        self.process.stdin.write(f"{key}\n".encode())
        started = self.answer(SECONDS)
        answered = self.answer(SECONDS) if started is not None else None
        if answered is not None:
            return [tuple(result) for result in answered["results"]]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        code = self.process.poll()
        self.stop()
        return [("crash", "no result in time" if code is None else f"exit status {code}")]

    def stop(self):
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None


def cell_text(results) -> str:
    status, detail = worst(results)
    good = sum(result[0] == "captured" for result in results)
    if status == "captured":
        return f"captured ({good})"
    detail = detail.replace("|", "\\|")[:110]
    return f"{status} ({good} of {len(results)} captured): {detail}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def summary_rows(table: dict):
    """Per kind: how many rows and calls have which status."""
    for kind in ("ops", "modules"):
        rows = [[result for cell in cells.values() for result in cell] for (k, _), cells in table.items() if k == kind]
        rows = [row for row in rows if row]
        if not rows:
            continue
        by_row = collections.Counter(worst(row)[0] for row in rows)
        by_call = collections.Counter(result[0] for row in rows for result in row)
        for what, counts in (("operators" if kind == "ops" else "modules", by_row), ("calls of " + kind, by_call)):
            total = counts.total()
            yield what, total, counts, counts["captured"] / total, counts["captured"] / max(1, total - counts["data"])


def summary(table: dict) -> list[str]:
    lines = ["| | total | " + " | ".join(STATUSES) + " | captured | captured, without data |",
             "|---|---|" + "---|" * (len(STATUSES) + 2)]  # fmt: skip
    for what, total, counts, share, share_without_data in summary_rows(table):
        cells = " | ".join(str(counts[status]) for status in STATUSES)
        lines.append(f"| {what} | {total} | {cells} | {100 * share:.1f} % | {100 * share_without_data:.1f} % |")
    return lines


def reasons(table: dict) -> list[str]:
    """The breaks by frequency."""
    found = collections.defaultdict(list)
    for (_, name), cells in table.items():
        for status, detail in {result for cell in cells.values() for result in cell}:
            if status != "captured":
                found[status, detail.split(": ", 1)[-1][:90].replace("|", "\\|")].append(name)
    lines = ["| status | reason | operators |", "|---|---|---|"]
    for (status, reason), names in sorted(found.items(), key=lambda row: (row[0][0], -len(row[1]), row[0][1])):
        names = sorted(set(names))
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        lines.append(f"| {status} | {reason} | {shown} |")
    return lines


def page(table: dict, count: int) -> str:
    intro = __doc__.split("usage:")[0].splitlines()
    lines = ["# Coverage of torch's operators and modules", "",
             f"Made by `python -m benchmarks.coverage_ops --write` with torch {torch.__version__.split('+')[0]}, "
             f"{count} samples each.", "", *intro, "## Summary", "", *summary(table), ""]  # fmt: skip
    lines += ["## What is not captured", "", *reasons(table), ""]
    for kind, title, columns in (("ops", "Operators", DTYPES), ("modules", "Modules", ["eval", "train"])):
        lines += [f"## {title}", "", "| name | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        for (row_kind, name), cells in table.items():
            if row_kind == kind:
                texts = [cell_text(cells[c]) if cells.get(c) else "-" for c in columns]
                lines.append(f"| {name} | " + " | ".join(texts) + " |")
        lines.append("")
    return "\n".join(lines)


def measure(kinds, only: str, count: int, dtypes=DTYPES, jobs: int = 1) -> dict:
    """(kind, name) -> column -> results; prints what is not captured."""
    keys = [key for kind in kinds for key in keys_of(kind, only, dtypes)]
    waiting, found = collections.deque(keys), {}

    def work():
        children = Children(count)
        while waiting:
            try:
                key = waiting.popleft()
            except IndexError:
                break
            results = found[key] = children.evaluate(key)
            if results and worst(results)[0] != "captured":
                print(f"{key}: {cell_text(results)}", flush=True)
        children.stop()

    workers = [threading.Thread(target=work) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    table = collections.defaultdict(dict)
    for key in keys:
        kind, name, column = key.split(" ")
        table[kind, name][column] = found[key]
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=("ops", "modules", []), default=[])
    parser.add_argument("--only", default="", help="only keys that contain this")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="of the operators; the page has the default ones")
    parser.add_argument("--jobs", type=int, default=1, help="child processes at a time")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.samples)
        return 0
    began = time.monotonic()
    table = measure(arguments.kinds or ("ops", "modules"), arguments.only, arguments.samples,
                    arguments.dtypes.split(","), arguments.jobs)  # fmt: skip
    print(*summary(table), sep="\n")
    print(f"{time.monotonic() - began:.0f} s")
    if arguments.write:
        PAGE.write_text(page(table, arguments.samples), encoding="utf-8")
    good = all(share >= 0.95 and not (counts["wrong"] or counts["internal"] or counts["crash"])
               for _, _, counts, share, _ in summary_rows(table))  # fmt: skip
    return 0 if good or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
