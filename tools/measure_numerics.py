"""Measures the errors of the functions that kernels approximate and writes docs/numerics.md.

Each function runs compiled and in eager mode: on float32, half on bit patterns from the whole range and half on values
where it is not constant (`--all`: on all 2**32 bit patterns, some minutes each); on bfloat16 and float16, on all
values; on float64, on values where it is not constant. What is farthest from its value in double precision is measured
again against mpmath at 160 bits, in units of the last place of the exact result (2**-149 where that is denormal in
float32); of float64, everything is. Special values have to be eager's, or exact.

The list of functions is checked against the table of operators: none that computes other bits than eager's kernel is
left out.

usage: python tools/measure_numerics.py [--check] [--samples N] [--write] [--functions NAME,...] [--all]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mpmath
import numpy as np
import torch
from torch import Tensor

import framejit
from framejit import _C

F = torch.nn.functional
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "numerics.md"
MEASURED_EXACTLY = 300  # of each function and side: those that double precision finds worst
DOUBLES = 2000  # float64 values of each function
CHUNK = 1 << 22


@dataclass(frozen=True)
class Function:
    name: str
    operator: str  # in the table of operators
    call: Callable[[Tensor], Tensor]
    exact: Callable  # of an mpmath number
    low: float = -30.0
    high: float = 30.0
    near: Callable[[Tensor], Tensor] | None = None  # in double precision, where `call` cancels there


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def gelu_slope(x: Tensor) -> Tensor:
    return 2 * (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)


def exact_gelu_tanh(x):
    return x * sigmoid(2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))


def softplus(x):
    return mpmath.log1p(mpmath.exp(x)) if x <= 20 else x


def elu(x):
    return x if x > 0 else mpmath.expm1(x)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

FUNCTIONS = (
    Function("exp", "exp", torch.exp, mpmath.exp, -105, 90),
    Function("exp2", "exp2", torch.exp2, lambda x: mpmath.mpf(2) ** x, -150, 128),
    Function("expm1", "expm1", torch.expm1, mpmath.expm1, -20, 90),
    Function("log", "log", torch.log, mpmath.log, 0, 10),
    Function("log2", "log2", torch.log2, lambda x: mpmath.log(x, 2), 0, 10),
    Function("log10", "log10", torch.log10, mpmath.log10, 0, 10),
    Function("log1p", "log1p", torch.log1p, mpmath.log1p, -1, 10),
    Function("tanh", "tanh", torch.tanh, mpmath.tanh, -10, 10),
    Function("sigmoid", "sigmoid", torch.sigmoid, sigmoid, -105, 20),
    Function("erf", "erf", torch.erf, mpmath.erf, -5, 5),
    Function("erfc", "erfc", torch.erfc, mpmath.erfc, -5, 10),
    Function("sin", "sin", torch.sin, mpmath.sin, -100, 100),
    Function("cos", "cos", torch.cos, mpmath.cos, -100, 100),
    Function("tan", "tan", torch.tan, mpmath.tan, -100, 100),
    Function("asin", "asin", torch.asin, mpmath.asin, -1, 1),
    Function("acos", "acos", torch.acos, mpmath.acos, -1, 1),
    Function("atan", "atan", torch.atan, mpmath.atan),
    Function("sinh", "sinh", torch.sinh, mpmath.sinh, -90, 90),
    Function("cosh", "cosh", torch.cosh, mpmath.cosh, -90, 90),
    Function("sqrt", "sqrt", torch.sqrt, mpmath.sqrt, 0, 10),
    Function("rsqrt", "rsqrt", torch.rsqrt, lambda x: 1 / mpmath.sqrt(x), 0, 10),
    Function("reciprocal", "reciprocal", torch.reciprocal, lambda x: 1 / x),
    Function(
        "gelu",
        "gelu",
        F.gelu,
        lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
        -13,
        10,
        near=lambda x: x * torch.erfc(-x * 0.5**0.5) / 2,
    ),
    Function(
        "gelu (tanh)",
        "gelu",
        lambda x: F.gelu(x, approximate="tanh"),
        exact_gelu_tanh,
        -13,
        10,
        near=lambda x: x * torch.sigmoid(gelu_slope(x)),
    ),
    Function("silu", "silu", F.silu, lambda x: x * sigmoid(x), -80, 10),
    Function("mish", "mish", F.mish, lambda x: x * mpmath.tanh(softplus(x)), -80, 10),
    Function("softplus", "softplus", F.softplus, softplus, -80, 25),
    Function("elu", "elu", F.elu, elu, -20, 10),
    Function("selu", "elu", F.selu, lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mpmath.expm1(x)), -20, 10),
)

# Rules of the table that are no functions of one number. Their errors are in tests/python/numerics.
OTHER_OPERATORS = {
    "of several numbers": "addcmul addcdiv lerp.Scalar lerp.Tensor atan2 fmod.Tensor fmod.Scalar pow.Tensor_Tensor "
    "pow.Scalar xlogy.Tensor _native_batch_norm_legit_no_training native_batch_norm",
    "derivatives": "tanh_backward sigmoid_backward gelu_backward silu_backward mse_loss_backward nll_loss_backward "
    "_softmax_backward_data _log_softmax_backward_data native_layer_norm_backward",
    "of rows": "sum sum.dim_IntList mean mean.dim mse_loss max min max.dim min.dim amax amin any any.dim any.dims all "
    "all.dim all.dims prod prod.dim_int logsumexp linalg_vector_norm binary_cross_entropy_with_logits gather "
    "var.correction std.correction var_mean.correction _softmax _log_softmax native_layer_norm",
}

SPECIAL_VALUES = (0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1.1754942e-38)
DENORMAL_UNIT = 2.0**-149
LARGEST = torch.finfo(torch.float32).max


def missing_operators() -> set[str]:
    """What the table of operators approximates and is measured nowhere."""
    known = {function.operator for function in FUNCTIONS}
    for names in OTHER_OPERATORS.values():
        known.update(names.split())
    return {name.removeprefix("aten::") for name in _C.inexact_operators()} - known


def sampled(function: Function, count: int) -> Iterator[Tensor]:
    """Half of them evenly over all bit patterns, half at random between the function's bounds."""
    patterns = np.arange(count // 2, dtype=np.uint64) * (2**32 // (count // 2)) + 12345
    everywhere = (patterns % 2**32).astype(np.uint32).view(np.float32)
    between = np.random.default_rng(0).uniform(function.low, function.high, count // 2).astype(np.float32)
    yield torch.from_numpy(np.concatenate([everywhere[np.isfinite(everywhere)], between]))


def all_singles() -> Iterator[Tensor]:
    for start in range(-(2**31), 2**31, CHUNK):
        yield torch.arange(start, start + CHUNK, dtype=torch.int64).to(torch.int32).view(torch.float32)


def all_of(dtype: torch.dtype) -> Tensor:
    """Every number of a type of two bytes."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def unit(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the last place in `dtype` of numbers of that size, given in double precision."""
    info = torch.finfo(dtype)
    exponent = (size.abs().view(torch.int64) >> 52).clamp_min(1023 + int(np.log2(info.tiny)))
    return ((exponent + int(np.log2(info.eps))) << 52).view(torch.float64)


class Worst:
    """The results of one side that double precision finds farthest from the exact ones."""

    def __init__(self, function: Function, dtype: torch.dtype) -> None:
        self.function, self.dtype = function, dtype
        self.found: list[tuple[float, float, float]] = []  # (error, argument, result)

    def add(self, x: Tensor, result: Tensor, near: Tensor) -> None:
        error = (result.double() - near).abs() / unit(near, self.dtype)
        usable = near.isfinite() & result.isfinite() & (near.abs() <= torch.finfo(self.dtype).max)
        error = torch.where(usable, error, -1.0)
        top = torch.topk(error, min(MEASURED_EXACTLY, len(error)))
        rows = zip(top.values.tolist(), x[top.indices].tolist(), result[top.indices].tolist(), strict=True)
        self.found = sorted([*self.found, *(row for row in rows if row[0] >= 0)], reverse=True)[:MEASURED_EXACTLY]

    def exactly(self) -> tuple[float, float]:
        """(error in units of the last place, where)"""
        return max(self.measure(x, got) for _, x, got in self.found)

    def measure(self, x: float, got: float) -> tuple[float, float]:
        exact = self.function.exact(mpmath.mpf(x))
        place = unit(torch.tensor([float(exact)], dtype=torch.float64), self.dtype).item()
        return float(abs(mpmath.mpf(got) - exact) / place), x


def measure_values(function: Function, compiled: Callable, dtype: torch.dtype, chunks: Iterator[Tensor]) -> "Row":
    sides = Worst(function, dtype), Worst(function, dtype)
    count = 0
    for x in chunks:
        near = (function.near or function.call)(x.double())
        sides[0].add(x, compiled(x), near)
        sides[1].add(x, function.call(x), near)
        count += len(x)
    return Row(function, count, sides[0].exactly(), sides[1].exactly())


def measure_doubles(function: Function, compiled: Callable) -> "Row":
    """All against mpmath."""
    between = np.random.default_rng(1).uniform(function.low, function.high, DOUBLES)
    x = torch.from_numpy(between)
    sides = []
    for result in (compiled(x), function.call(x)):
        worst = Worst(function, torch.float64)
        rows = [worst.measure(a, r) for a, r in zip(x.tolist(), result.tolist(), strict=True) if np.isfinite(r)]
        sides.append(max(rows))
    return Row(function, DOUBLES, *sides)


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
    count: int
    compiled: tuple[float, float]  # (error, where)
    eager: tuple[float, float]


@dataclass
class Measured:
    single: Row
    double: Row
    bfloat16: Row
    half: Row
    excused: list[str]
    wrong: list[str]

    def faults(self) -> list[str]:
        found = list(self.wrong)
        for dtype in ("single", "double", "bfloat16", "half"):
            row = getattr(self, dtype)
            if row.compiled[0] > row.eager[0] + 1:
                where = f"{row.compiled[0]:.3f} at {row.compiled[1]!r}, eager {row.eager[0]:.3f}"
                found.append(f"{row.function.name}, {dtype}: {where}")
        return found


def measure(function: Function, samples: int, every: bool) -> Measured:
    compiled = framejit.compile(lambda x: function.call(x), dynamic=False, options={"recompile_limit": 100})
    if "kernel" not in str(framejit.explain(lambda x: function.call(x))(torch.ones(8))):
        raise RuntimeError(f"{function.name} is not a kernel")
    excused, wrong = compare_special_values(function, compiled)
    return Measured(
        measure_values(function, compiled, torch.float32, all_singles() if every else sampled(function, samples)),
        measure_doubles(function, compiled),
        measure_values(function, compiled, torch.bfloat16, iter([all_of(torch.bfloat16)])),
        measure_values(function, compiled, torch.float16, iter([all_of(torch.float16)])),
        excused,
        wrong,
    )


HEAD = """# Numerics

Written by `python tools/measure_numerics.py --write`; tests/python/numerics holds kernels to the same limits.

Of every element that a kernel computes the error is at most eager's and one unit in the last place. The exceptions
are none of rounding: what follows says where special values differ.

## Functions

The largest error of each function that kernels approximate, framejit's and eager's, in units of the last place of the
exact result (which is rounded to the dtype; the unit of denormal float32 results is 2^-149), and where in float32 it
was found. float32: so many values, half evenly over all bit patterns and half between the bounds given here; all 2^32
with `--all`. bfloat16 and float16: all values. float64: {doubles:,} values between the bounds. The worst of them, as
double precision sees it (of float64 all), are measured against mpmath at 160 bits. Infinities, NaN, zeros of both
signs, the smallest denormals and the largest numbers give what eager gives, with the exceptions below the table.
Large errors are those of formulas that eager uses as well, where results are denormal or cancel.

{columns}
{rule}
"""

COLUMNS = (
    "function",
    "between",
    "values",
    "float32",
    "at",
    "eager's",
    "at",
    "float64",
    "eager's",
    "bfloat16",
    "eager's",
)
COLUMNS += ("float16", "eager's")

TAIL = """
 Special values of float32 that are not eager's:

{exceptions}
## Sums

Sums, means and the norms add in another order than eager does: in blocks of 4096 elements over several vectors of
accumulators, whose sums are added to totals; along strided dimensions in runs of about the square root of all. So the
error stays near that of a pairwise sum. What `var` and `std` add up of float32 they add up in double precision, as
eager does. float16 and bfloat16 are computed in float32 and rounded where eager rounds. Products and sums of the
program are not contracted.

## strict

`framejit.compile(f, strict=True)` gives eager's very bits on the CPU: nothing is added up in another order,
contracted or approximated otherwise. Each rule of the tables of operators (`backends/native/emitter_*.cc`) says
whether what it emits is exact: `kAlways` for arithmetic, comparisons, roundings, casts, clamps, `where`, `relu` and
its kin, and moves; `kIntegers` for sums and extrema, of integers; `kNever` for the rest, which ATen's own kernels
then compute: every function in the table above but `reciprocal` and, of float32 and float64, `rsqrt`; sums with a
factor (`alpha`), `addcmul` and `lerp`, which eager contracts; reductions, norms, softmax and losses. Square roots are
among them, since eager's are not always the nearest number. Rewrites of the graph that change roundings are not made.
Backends that compute by other means are refused. On a GPU all of floating point is left to ATen.
"""


def cell(error: float) -> str:
    return f"{error:.3f}" if error < 1e4 else f"{error:.3g}"


def table(measured: list[Measured]) -> str:
    lines = []
    for row in measured:
        single, function = row.single, row.single.function
        count = "all" if single.count >= 2**32 else f"{single.count:,}"
        cells = [function.name, f"{function.low:g} and {function.high:g}", count]
        for error, where in (single.compiled, single.eager):
            cells += [cell(error), f"{where:.7g}"]
        for other in (row.double, row.bfloat16, row.half):
            cells += [cell(other.compiled[0]), cell(other.eager[0])]
        lines.append("| " + " | ".join(cells) + " |\n")
    exceptions = "".join(f"- {text}\n" for row in measured for text in row.excused)
    columns, rule = (f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS))
    return (
        HEAD.format(doubles=DOUBLES, columns=columns, rule=rule)
        + "".join(lines)
        + TAIL.format(exceptions=exceptions or "- none\n")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="fail where an error exceeds eager's by more than one unit"
    )
    parser.add_argument("--samples", type=int, default=1 << 21, help="float32 values of each function")
    parser.add_argument("--all", action="store_true", help="all float32 values")
    parser.add_argument("--functions", default="", help="comma-separated; empty: all")
    parser.add_argument("--write", action="store_true", help=f"write {OUTPUT.name}")
    arguments = parser.parse_args()
    mpmath.mp.prec = 160
    if missing := missing_operators():
        raise RuntimeError(f"approximated, and measured nowhere: {', '.join(sorted(missing))}")
    names = arguments.functions.split(",") if arguments.functions else [function.name for function in FUNCTIONS]
    if arguments.write and len(names) != len(FUNCTIONS):
        parser.error("--write needs all functions")
    measured = []
    for function in FUNCTIONS:
        if function.name not in names:
            continue
        start = time.perf_counter()
        row = measure(function, arguments.samples, arguments.all)
        measured.append(row)
        parts = []
        for dtype in ("single", "double", "bfloat16", "half"):
            errors = getattr(row, dtype)
            parts.append(f"{dtype} {cell(errors.compiled[0])} (eager {cell(errors.eager[0])})")
        print(f"{function.name:12} {', '.join(parts)}, {time.perf_counter() - start:.0f} s", flush=True)
    faults = [fault for row in measured for fault in row.faults()]
    for fault in faults:
        print("FAULT ", fault)
    if arguments.write:
        OUTPUT.write_text(table(measured))
    return int(arguments.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
