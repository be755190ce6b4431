"""Errors of the kernels against exact values: element by element no larger than eager's by more than one unit in the
last place, over inputs of several scales.

Exact is double precision, whose error is far below the last place of the narrower dtypes, and for float64 mpmath. The
unit is that of the exact result in the dtype; of reductions, and of what cancels in front of them (norms, softmax's
logarithm, products of two factors with a sum), that of the largest term: where terms cancel, no order of additions is
exact, and neither is eager's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import pytest
import torch
from torch import Tensor

import framejit

F = torch.nn.functional
NARROW = (torch.float32, torch.bfloat16, torch.float16)
SCALES = (1e-3, 0.3, 1.0, 4.0, 20.0)
ROWS, COLUMNS = 64, 203


@dataclass(frozen=True)
class Case:
    call: Callable[..., Tensor]
    inputs: int = 1
    domain: Callable[[Tensor], Tensor] = lambda x: x
    # The largest term of an element, from the inputs in double precision; None: the result itself.
    term: Callable[..., Tensor] | None = None
    # In double precision, where what is called cancels there too.
    exact: Callable[..., Tensor] | None = None


def positive(x: Tensor) -> Tensor:
    return x.abs() + torch.finfo(x.dtype).tiny


def inside(x: Tensor) -> Tensor:
    return (x / 25).clamp(-1, 1)


def exact_gelu(x: Tensor) -> Tensor:
    return x * torch.erfc(-x * 0.5**0.5) / 2


def exact_gelu_tanh(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))


def exact_mish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log1p(torch.exp(x)))


POINTWISE = {
    "exp": Case(torch.exp),
    "exp2": Case(torch.exp2),
    "expm1": Case(torch.expm1),
    "log": Case(torch.log, domain=positive),
    "log2": Case(torch.log2, domain=positive),
    "log10": Case(torch.log10, domain=positive),
    "log1p": Case(torch.log1p, domain=positive),
    "tanh": Case(torch.tanh),
    "sigmoid": Case(torch.sigmoid),
    "erf": Case(torch.erf),
    "erfc": Case(torch.erfc),
    "sin": Case(torch.sin),
    "cos": Case(torch.cos),
    "tan": Case(torch.tan),
    "asin": Case(torch.asin, domain=inside),
    "acos": Case(torch.acos, domain=inside),
    "atan": Case(torch.atan),
    "sinh": Case(torch.sinh),
    "cosh": Case(torch.cosh),
    "sqrt": Case(torch.sqrt, domain=positive),
    "rsqrt": Case(torch.rsqrt, domain=positive),
    "reciprocal": Case(torch.reciprocal, domain=positive),
    "pow": Case(torch.pow, 2, positive),
    "powers": Case(lambda x: x.pow(3)),
    "constant exponent": Case(lambda x: x.pow(2.7), domain=positive),
    "constant base": Case(lambda x: 1.3**x),
    "constant divisor": Case(lambda x: torch.fmod(x, 0.7)),
    "atan2": Case(torch.atan2, 2),
    "fmod": Case(torch.fmod, 2),
    "gelu": Case(F.gelu, exact=exact_gelu),
    "gelu (tanh)": Case(lambda x: F.gelu(x, approximate="tanh"), exact=exact_gelu_tanh),
    "silu": Case(F.silu),
    "mish": Case(F.mish, exact=exact_mish),
    "softplus": Case(F.softplus),
    "elu": Case(F.elu),
    "selu": Case(F.selu),
    "hardswish": Case(F.hardswish),
    "lerp": Case(lambda x, y: torch.lerp(x, y, 0.3), 2, term=lambda x, y: x.abs() + y.abs()),
    "addcmul": Case(lambda x, y: torch.addcmul(x, x, y, value=0.7), 2, term=lambda x, y: x.abs() + (x * y).abs()),
}


def largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True)


ROW = {
    "sum": Case(lambda x: x.sum(-1), term=lambda x: x.abs().sum(-1)),
    "sum of columns": Case(lambda x: x.sum(0), term=lambda x: x.abs().sum(0)),
    "sum of all": Case(lambda x: x.sum(), term=lambda x: x.abs().sum()),
    "mean": Case(lambda x: x.mean(-1), term=lambda x: x.abs().mean(-1)),
    "variance": Case(lambda x: x.var(-1)),
    "deviation": Case(lambda x: x.std(-1)),
    "softmax": Case(lambda x: F.softmax(x, -1)),
    "softmax of columns": Case(lambda x: F.softmax(x, 0)),
    "log softmax": Case(
        lambda x: F.log_softmax(x, -1), term=lambda x: torch.maximum(largest(x), F.log_softmax(x, -1).abs())
    ),
    "layer norm": Case(lambda x: F.layer_norm(x, x.shape[-1:]), term=lambda x: largest(F.layer_norm(x, x.shape[-1:]))),
    "rms norm": Case(lambda x: F.rms_norm(x, x.shape[-1:])),
    "log of the sum of exponentials": Case(lambda x: torch.logsumexp(x, -1), term=lambda x: largest(x)[..., 0]),
    "cross entropy": Case(
        lambda x: F.cross_entropy(x, torch.arange(x.shape[0]) % x.shape[1], reduction="none"),
        term=lambda x: largest(x)[..., 0] + F.log_softmax(x, -1).abs().amax(-1),
    ),
    "mean square": Case(lambda x, y: F.mse_loss(x, y), 2),
}


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of torch's own functions, too, which are no Python code."""
    return framejit.compile(lambda *inputs: function(*inputs), fullgraph=True)


def unit(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the last place of numbers of that size, as double precision has them; that of denormal numbers at least."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(size.abs().clamp_min(info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(size, info.eps), exponent)


def worst_errors(case: Case, dtype: torch.dtype, scale: float, seed: int) -> tuple[float, float]:
    """(framejit's, eager's) in units of the last place."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.inputs, ROWS, COLUMNS)
    drawn = torch.randn(shape, dtype=torch.float64, generator=generator) * scale
    inputs = [case.domain(x.to(dtype)) for x in drawn]
    with torch.no_grad():
        wide = [x.double() for x in inputs]
        exact = (case.exact or case.call)(*wide)
        size = exact if case.term is None else case.term(*wide)
        results = compiled(case.call)(*inputs), case.call(*inputs)
    # What overflows does so in both.
    usable = (exact.abs() <= torch.finfo(dtype).max) & results[1].isfinite()
    assert torch.equal(results[0].isfinite() & usable, usable)
    return tuple(((result.double() - exact).abs() / unit(size, dtype))[usable].max().item() for result in results)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", [*POINTWISE, *ROW])
def test_narrow(name, dtype):
    case = {**POINTWISE, **ROW}[name]
    for seed, scale in enumerate(SCALES):
        got, eager = worst_errors(case, dtype, scale, seed)
        assert got <= eager + 1, f"scale {scale}: {got:.3f} units, eager's {eager:.3f}"


def mp_gelu_tanh(x):
    return x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))


def mp_gelu(x):
    return x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2


# Of one number, and of a row.
WIDE = {
    "exp": (torch.exp, mpmath.exp),
    "expm1": (torch.expm1, mpmath.expm1),
    "log": (lambda x: torch.log(x.abs()), lambda x: mpmath.log(abs(x))),
    "log1p": (lambda x: torch.log1p(x.abs()), lambda x: mpmath.log1p(abs(x))),
    "tanh": (torch.tanh, mpmath.tanh),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x))),
    "erf": (torch.erf, mpmath.erf),
    "erfc": (torch.erfc, mpmath.erfc),
    "sin": (torch.sin, mpmath.sin),
    "cos": (torch.cos, mpmath.cos),
    "sqrt": (lambda x: torch.sqrt(x.abs()), lambda x: mpmath.sqrt(abs(x))),
    "rsqrt": (lambda x: torch.rsqrt(x.abs()), lambda x: 1 / mpmath.sqrt(abs(x))),
    "gelu": (F.gelu, mp_gelu),
    "gelu (tanh)": (lambda x: F.gelu(x, approximate="tanh"), mp_gelu_tanh),
    "silu": (F.silu, lambda x: x / (1 + mpmath.exp(-x))),
}


def exact_softmax(row):
    weights = [mpmath.exp(x) for x in row]
    total = mpmath.fsum(weights)
    return [weight / total for weight in weights]


def exact_moments(row):
    mean = mpmath.fsum(row) / len(row)
    return mean, mpmath.fsum((x - mean) ** 2 for x in row)


def exact_layer_norm(row):
    mean, squares = exact_moments(row)
    return [(x - mean) / mpmath.sqrt(squares / len(row) + mpmath.mpf(1e-5)) for x in row]


WIDE_ROWS = {
    "sum": (lambda x: x.sum(-1, keepdim=True), lambda row: [mpmath.fsum(row)], lambda row, _: sum(map(abs, row))),
    "variance": (lambda x: x.var(-1, keepdim=True), lambda row: [exact_moments(row)[1] / (len(row) - 1)], None),
    "softmax": (lambda x: F.softmax(x, -1), exact_softmax, None),
    "log softmax": (
        lambda x: F.log_softmax(x, -1),
        lambda row: [mpmath.log(x) for x in exact_softmax(row)],
        lambda row, result: max(max(map(abs, row)), max(map(abs, result))),
    ),
    "layer norm": (
        lambda x: F.layer_norm(x, x.shape[-1:]),
        exact_layer_norm,
        lambda row, result: max(map(abs, result)),
    ),
}


def wide_inputs(scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(12, 41, dtype=torch.float64, generator=generator) * scale


def compare_wide(function, exact_rows, sizes, x: Tensor) -> None:
    """exact_rows: by row, mpmath numbers. sizes: their units are those of these numbers."""
    with torch.no_grad():
        results = compiled(function)(x), function(x)
    worst = []
    for result in results:
        errors = [0.0]
        for row, exact, size in zip(result.tolist(), exact_rows, sizes, strict=True):
            for got, want, big in zip(row, exact, size, strict=True):
                place = unit(torch.tensor(float(big), dtype=torch.float64), torch.float64).item()
                errors.append(float(abs(mpmath.mpf(got) - want) / place))
        worst.append(max(errors))
    assert worst[0] <= worst[1] + 1, f"{worst[0]:.3f} units, eager's {worst[1]:.3f}"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", WIDE)
def test_double(name, scale):
    function, exact = WIDE[name]
    x = wide_inputs(scale)
    with mpmath.workprec(160):
        rows = [[exact(mpmath.mpf(value)) for value in row] for row in x.tolist()]
        compare_wide(function, rows, rows, x)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", WIDE_ROWS)
def test_double_rows(name, scale):
    function, exact, term = WIDE_ROWS[name]
    x = wide_inputs(scale)
    with mpmath.workprec(160):
        numbers = [[mpmath.mpf(value) for value in row] for row in x.tolist()]
        rows = [exact(row) for row in numbers]
        sizes = rows
        if term is not None:
            sizes = [[term(row, result)] * len(result) for row, result in zip(numbers, rows, strict=True)]
        compare_wide(function, rows, sizes, x)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, *NARROW[1:]), ids=str)
def test_denormal_numbers_and_zeros(dtype):
    """What eager gets right of the smallest numbers and of zeros of both signs."""
    info = torch.finfo(dtype)
    least = info.tiny * info.eps
    x = torch.tensor([0.0, -0.0, least, -least, 3 * least, -3 * least, info.tiny, -info.tiny], dtype=dtype).repeat(5)
    for function in (torch.expm1, torch.tanh, torch.sin, torch.erf, torch.log1p, F.silu, torch.sqrt, torch.sinh):
        with torch.no_grad():
            expected, got = function(x), compiled(function)(x)
            exact = function(x.double())
        right = ((expected.double() - exact).abs() <= least / 2) & exact.isfinite()
        assert torch.equal(got[right].double(), expected[right].double()), function
        assert torch.equal(got[right].signbit(), expected[right].signbit()), function
