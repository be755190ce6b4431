"""Measures the errors of vectorised functions on float32 and writes docs/numerics.md.

Each function runs on bit patterns from the whole range of float32 and on values where it is not constant, compiled and
in eager mode. What is farthest from its value in double precision is measured again against mpmath at 120 bits, in
units of the last place of the exact result rounded to float32 (2**-149 where that is denormal). Special values have to
be eager's, or exact.

usage: python tools/measure_numerics.py [--check] [--samples N] [--write]
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath
import numpy as np
import torch

import framejit

F = torch.nn.functional
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "numerics.md"
MEASURED_EXACTLY = 300  # of each function and side: those that double precision finds worst


@dataclass(frozen=True)
class Function:
    name: str
    call: Callable
    exact: Callable  # of an mpmath number
    low: float = -30.0
    high: float = 30.0


def gelu(x):
    return x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))) / 2


def exact_sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


FUNCTIONS = (
    Function("exp", torch.exp, mpmath.exp, -105, 90),
    Function("expm1", torch.expm1, mpmath.expm1, -20, 90),
    Function("log", torch.log, mpmath.log, 0, 10),
    Function("log1p", torch.log1p, mpmath.log1p, -1, 10),
    Function("tanh", torch.tanh, mpmath.tanh, -10, 10),
    Function("sigmoid", torch.sigmoid, exact_sigmoid, -105, 20),
    Function("erf", torch.erf, mpmath.erf, -5, 5),
    Function("sin", torch.sin, mpmath.sin, -100, 100),
    Function("cos", torch.cos, mpmath.cos, -100, 100),
    Function("sqrt", torch.sqrt, mpmath.sqrt, 0, 10),
    Function("rsqrt", torch.rsqrt, lambda x: 1 / mpmath.sqrt(x), 0, 10),
    Function("reciprocal", torch.reciprocal, lambda x: 1 / x),
    Function("gelu", F.gelu, gelu, -3, 10),
    Function("gelu (tanh)", lambda x: F.gelu(x, approximate="tanh"), gelu_tanh, -3, 10),
    Function("silu", F.silu, lambda x: x * exact_sigmoid(x), -80, 10),
)

SPECIAL_VALUES = (0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1.1754942e-38)
DENORMAL_UNIT = 2.0**-149
LARGEST = torch.finfo(torch.float32).max


def samples(function: Function, count: int) -> torch.Tensor:
    """Half of them evenly over all bit patterns, half at random between the function's bounds."""
    patterns = np.arange(count // 2, dtype=np.uint64) * (2**32 // (count // 2)) + 12345
    everywhere = (patterns % 2**32).astype(np.uint32).view(np.float32)
    everywhere = everywhere[np.isfinite(everywhere)]
    between = np.random.default_rng(0).uniform(function.low, function.high, count // 2).astype(np.float32)
    return torch.from_numpy(np.concatenate([everywhere, between]))


def screen(x: torch.Tensor, result: torch.Tensor, near: np.ndarray) -> np.ndarray:
    """Indices of the results that are farthest from `near`, the values in double precision."""
    with np.errstate(all="ignore"):
        ulp = np.spacing(np.abs(near.astype(np.float32))).astype(np.float64)
        error = np.abs(result.double().numpy() - near) / ulp
    usable = np.isfinite(near) & np.isfinite(result.numpy()) & (np.abs(near) <= LARGEST)
    error[~usable] = -1
    worst = np.argpartition(error, -MEASURED_EXACTLY)[-MEASURED_EXACTLY:]
    return worst[error[worst] >= 0]


def exact_error(function: Function, x: float, got: float) -> float:
    exact = function.exact(mpmath.mpf(x))
    ulp = float(np.spacing(np.abs(np.float32(exact))))
    return float(abs(mpmath.mpf(got) - exact) / ulp)


def worst_error(function: Function, x: torch.Tensor, result: torch.Tensor, near: np.ndarray) -> tuple[float, float]:
    """(error in units of the last place, where)"""
    errors = [(exact_error(function, float(x[i]), float(result[i])), float(x[i])) for i in screen(x, result, near)]
    return max(errors)


def is_exact(function: Function, x: float, got: float) -> bool:
    """Whether a result is the exact one (of infinity, the limit), rounded, with the sign of what it is rounded from."""
    if np.isnan(x) or np.isnan(got) or np.isfinite(x) != np.isfinite(got):
        return False
    exact = function.exact(mpmath.mpf(x))
    sign_of = exact if exact != 0 else mpmath.mpf(np.copysign(1.0, x))
    return np.float32(exact) == np.float32(got) and (got != 0 or np.signbit(got) == (sign_of < 0))


def compare_special_values(function: Function, compiled: Callable) -> tuple[list[str], list[str]]:
    """(results that differ from eager's and are exact or the next denormal number, results that are wrong)"""
    x = torch.tensor([*SPECIAL_VALUES, LARGEST, -LARGEST] * 3)
    expected, got = function.call(x).tolist(), compiled(x).tolist()
    excused, wrong = [], []
    for value, want, have in list(zip(x.tolist(), expected, got, strict=True))[: len(SPECIAL_VALUES) + 2]:
        same = (want == have and np.signbit(want) == np.signbit(have)) or (np.isnan(want) and np.isnan(have))
        close = want != 0 and np.isfinite(want) and abs(want - have) <= 2e-7 * abs(want)
        if same or close:
            continue
        text = f"{function.name}({value:.8g}) is {have:.8g}, in eager {want:.8g}"
        if is_exact(function, value, have):
            excused.append(f"{text}: exact")
        elif 0 < abs(want - have) <= DENORMAL_UNIT:
            excused.append(f"{text}: one denormal unit off")
        else:
            wrong.append(text)
    return excused, wrong


@dataclass
class Row:
    function: Function
    compiled: tuple[float, float]
    eager: tuple[float, float]


def measure(function: Function, count: int) -> tuple[Row, list[str], list[str]]:
    compiled = framejit.compile(lambda x: function.call(x))
    if "kernel" not in str(framejit.explain(lambda x: function.call(x))(torch.ones(8))):
        raise RuntimeError(f"{function.name} is not a kernel")
    x = samples(function, count)
    near = function.call(x.double()).numpy()
    row = Row(function, worst_error(function, x, compiled(x), near), worst_error(function, x, function.call(x), near))
    return row, *compare_special_values(function, compiled)


HEAD = """# Numerics

Errors of vectorised functions on float32: the largest, in units of the last place of the exact result (which is
rounded to float32; the unit of denormal results is 2^-149), and where it was found. Written by `python
tools/measure_numerics.py --write`, which takes {count} values of each function: half evenly over all bit patterns, half
between the bounds given here. The worst of them, as double precision sees it, are measured against mpmath at 120 bits.
Infinities, NaN, zeros of both signs, the smallest denormals and the largest numbers give what eager gives, with the
exceptions below the table. Large errors are those of formulas that eager uses as well, where results are denormal or
cancel.

Sums, means and the norms add in another order than eager does: in blocks of 4096 elements over several vectors of
accumulators (128 elements per accumulator along strided dimensions), whose sums are added to totals, so that the error
stays near that of a pairwise sum. float16 and bfloat16 are computed in float32 and rounded where eager rounds. Products
and sums of the program are not contracted.

| function | between | worst error | at | eager's | at |
|---|---|---|---|---|---|
"""


def table(rows: list[Row], excused: list[str], count: int) -> str:
    lines = []
    for row in rows:
        cells = [row.function.name, f"{row.function.low:g} and {row.function.high:g}"]
        for error, where in (row.compiled, row.eager):
            cells += [f"{error:.3f}" if error < 1e4 else f"{error:.3g}", f"{where:.7g}"]
        lines.append("| " + " | ".join(cells) + " |\n")
    exceptions = "".join(f"- {text}\n" for text in excused)
    return HEAD.format(count=f"{count:,}") + "".join(lines) + f"\nSpecial values that are not eager's:\n\n{exceptions}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="fail where an error exceeds eager's by more than one unit"
    )
    parser.add_argument("--samples", type=int, default=1 << 21, help="values of each function")
    parser.add_argument("--write", action="store_true", help=f"write {OUTPUT.name}")
    arguments = parser.parse_args()
    mpmath.mp.prec = 120
    rows, excused, faults = [], [], []
    for function in FUNCTIONS:
        row, differing, wrong = measure(function, arguments.samples)
        rows.append(row)
        excused += differing
        faults += wrong
        if row.compiled[0] > row.eager[0] + 1:
            faults.append(f"{function.name}: {row.compiled[0]:.3f} at {row.compiled[1]!r}, eager {row.eager[0]:.3f}")
        print(f"{function.name:12} {row.compiled[0]:.3f}  eager {row.eager[0]:.3f}", flush=True)
    for fault in faults:
        print("FAULT ", fault)
    if arguments.write:
        OUTPUT.write_text(table(rows, excused, arguments.samples))
    return int(arguments.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
