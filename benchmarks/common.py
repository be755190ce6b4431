"""Measuring: interleaved rounds whose minimum counts, fresh processes, the environment, tables, checked targets.

A comparison holds within a noise band of 3 %. Every child process has Inductor's caches off and its imports warmed, so
that a first call is a first call.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOISE = 1.03
CHILD_ENVIRONMENT = {
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "CUDA_CACHE_DISABLE": "1",  # NVRTC's and the driver's, of machine code
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def minimum_seconds(candidates: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
    """The least time of one call per candidate. Rounds alternate between candidates, so that drift hits all alike, and
    each begins with another one: who follows a candidate that returns much memory to the system has its pages to fault
    in again, which must not always be the same."""
    best = dict.fromkeys(candidates, float("inf"))
    order = list(candidates.items())
    gc.collect()
    gc.disable()
    try:
        for start_with in range(rounds):
            turn = start_with % len(order)
            for name, function in order[turn:] + order[:turn]:
                start = time.perf_counter()
                for _ in range(calls):
                    function()
                best[name] = min(best[name], (time.perf_counter() - start) / calls)
    finally:
        gc.enable()
    return best


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def warm_imports() -> None:
    """Imports what the first compilation of each compiler would import, so that it is not measured."""
    import torch
    import torch._dynamo
    import torch._inductor.compile_fx

    torch._dynamo.reset()


def in_fresh_process(module: str, *arguments: str) -> dict:
    """Runs `python -m MODULE --child ARGUMENTS` and returns the JSON object on its last line."""
    command = [sys.executable, "-m", module, "--child", *arguments]
    environment = {**os.environ, **CHILD_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-4000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def environment_line(threads: int) -> str:
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return (
        f"{model}, {os.cpu_count()} cores, {threads} thread(s); torch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()}), Python {platform.python_version()}"
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        _print_row(row, widths)


def _print_row(row: Sequence[str], widths: Sequence[int]) -> None:
    cells = [str(cell).ljust(w) if i == 0 else str(cell).rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]  # noqa: B905
    print("  ".join(cells), flush=True)


class GrowingTable:
    """A table whose rows are printed as soon as they are measured; the header comes with the first one.

    label_width: characters of the first column, whose longest cell is not known by then.
    """

    def __init__(self, header: Sequence[str], label_width: int) -> None:
        self.header = header
        self.widths = [label_width, *(max(len(cell), 8) for cell in header[1:])]
        self.empty = True

    def add(self, row: Sequence[str]) -> None:
        if self.empty:
            _print_row(self.header, self.widths)
        self.empty = False
        _print_row(row, self.widths)


@dataclass
class Targets:
    """Collects what was measured against what must be reached."""

    missed: list[str] = field(default_factory=list)

    def at_most(self, what: str, value: float, limit: float) -> None:
        """`value` must not exceed `limit` by more than the noise band."""
        if not value <= limit * NOISE:
            self.missed.append(f"{what}: {value:.4g}, at most {limit:.4g}")

    def at_least(self, what: str, value: float, limit: float) -> None:
        if not value * NOISE >= limit:
            self.missed.append(f"{what}: {value:.4g}, at least {limit:.4g}")

    def exactly(self, what: str, value: int, expected: int) -> None:
        if value != expected:
            self.missed.append(f"{what}: {value}, not {expected}")

    def finish(self, check: bool) -> int:
        for line in self.missed:
            print(f"MISSED  {line}")
        if not self.missed:
            print("all targets reached")
        return int(check and bool(self.missed))


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--check", action="store_true", help="exit non-zero where a target is missed")
    result.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    result.add_argument("--rounds", type=int, default=0, help="rounds of each comparison (0: the script's own)")
    result.add_argument("--quick", action="store_true", help="small sizes and few rounds: does the script work?")
    result.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    return result


def names_among(known: Collection[str]) -> Callable[[str], str]:
    """The type of an argument that is a list of such names, with commas between them."""

    def check(text: str) -> str:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected names among {', '.join(known)}")
        return text

    return check


def model_parser(description: str, names: Sequence[str]) -> argparse.ArgumentParser:
    """For scripts that measure models, each in a fresh process."""
    result = parser(description)
    result.add_argument(
        "--models",
        default=",".join(names),
        type=names_among(names),
        help=f"comma-separated, of {', '.join(names)}",
    )
    result.add_argument("--no-inductor", action="store_true", help="leave torch.compile out (its compilation is slow)")
    return result


def run_child(child: Callable[[str, bool, bool, int, int], None], arguments: argparse.Namespace) -> bool:
    """In such a process: calls child(name, small, inductor, threads, rounds). False in the process that started it."""
    if arguments.child is None:
        return False
    name, size, inductor = arguments.child
    child(name, size == "small", inductor == "inductor", arguments.threads, arguments.rounds)
    return True


def each_model(module: str, arguments: argparse.Namespace, rounds: int) -> Iterator[tuple[str, dict]]:
    """(name, what the child printed) of each model; `rounds` unless the arguments say otherwise."""
    chosen = arguments.rounds or (3 if arguments.quick else rounds)
    print(environment_line(arguments.threads))
    for name in arguments.models.split(","):
        size = "small" if arguments.quick else "full"
        inductor = "none" if arguments.no_inductor else "inductor"
        options = (f"--threads={arguments.threads}", f"--rounds={chosen}")
        yield name, in_fresh_process(module, name, size, inductor, *options)


def microseconds(value: float) -> str:
    return f"{value * 1e6:.1f}"


def milliseconds(value: float) -> str:
    return f"{value * 1e3:.1f}"


def ratio(numerator: float, denominator: float) -> str:
    return f"{numerator / denominator:.2f}x"
