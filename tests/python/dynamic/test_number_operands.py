"""Numbers that operators take as numbers, and not as tensors (`alpha`, slopes, bounds, what tensors are filled with),
are inputs of the graph as well. Those for which eager computes otherwise have graphs of their own."""

import random

import pytest
import torch
from dynamic_testing import assert_same_as_eager, recordings, traces
from framejit_testing import assert_same
from torch.nn import functional as F

import framejit

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, float("inf"), float("-inf"), float("nan"), 5e-324, 1.0e38, -7.25, 3)


def data(rows: int = 6, width: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.arange(rows * width, dtype=torch.float32).reshape(rows, width).sin()
    values.view(-1)[:6] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0])
    return values.to(dtype)


def finite(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(-2.5, 2.5, 24).reshape(6, 4).to(dtype)


def graphs(compiled) -> list[int]:
    return [trace["size_variants"] for trace in traces(compiled)]


def lerped(x, p):
    y = x.clone()
    y.lerp_(x.cos(), p)
    return y


ROWS = torch.tensor([0, 3])
PLACES = torch.tensor([[0, 1, 2, 3], [5, 4, 3, 2]])
FUNCTIONS = {
    "add_alpha": lambda x, p: torch.add(x, x.cos(), alpha=p),
    "sub_alpha": lambda x, p: torch.sub(x, x.cos(), alpha=p),
    "add_number_alpha": lambda x, p: torch.add(x, 1.5, alpha=p),
    "add_in_place": lambda x, p: x.clone().add_(x.cos(), alpha=p),
    "rsub": lambda x, p: torch.rsub(x, x.cos(), alpha=p),
    "full": lambda x, p: torch.full((2, 4), p) + x[:2],
    "full_dtype": lambda x, p: torch.full((6, 4), p, dtype=x.dtype),
    "full_like": lambda x, p: torch.full_like(x, p),
    "new_full": lambda x, p: x.new_full((3,), p),
    "fill": lambda x, p: torch.empty_like(x).fill_(p),
    "fill_view": lambda x, p: x.clone()[1:].fill_(p),
    "lerp": lambda x, p: torch.lerp(x, x.cos(), p),
    "lerp_in_place": lerped,
    "leaky_relu": lambda x, p: F.leaky_relu(x, p),
    "elu": lambda x, p: F.elu(x, p),
    "hardtanh": lambda x, p: F.hardtanh(x, -abs(p), abs(p)),
    "hardtanh_one": lambda x, p: F.hardtanh(x, p, 6e4),
    "softplus": lambda x, p: F.softplus(x, p),
    "softplus_threshold": lambda x, p: F.softplus(x, 2.0, p),
    "threshold": lambda x, p: F.threshold(x, p, p * 2),
    "hardshrink": lambda x, p: F.hardshrink(x, p),
    "addcmul": lambda x, p: torch.addcmul(x, x.cos(), x.sin(), value=p),
    "addcdiv": lambda x, p: torch.addcdiv(x, x.cos(), x.sin(), value=p),
    "remainder": lambda x, p: x % p,
    "fmod": lambda x, p: torch.fmod(x, p),
    "where": lambda x, p: torch.where(x > 0, x, p),
    "where_first": lambda x, p: torch.where(x > 0, p, x),
    "clamp_in_place": lambda x, p: x.clone().clamp_(min=p),
    "masked_fill_in_place": lambda x, p: x.clone().masked_fill_(x > 0, p),
    "index_fill": lambda x, p: x.index_fill(0, ROWS, p),
    "index_fill_in_place": lambda x, p: x.clone().index_fill_(1, ROWS[:2], p),
    "scatter": lambda x, p: x.scatter(0, PLACES, p),
    "scatter_in_place": lambda x, p: x.clone().scatter_(0, PLACES, p),
    "addmm_alpha": lambda x, p: torch.addmm(x[:4], x[:4], x[1:5], alpha=p),
    "addmm_beta": lambda x, p: torch.addmm(x[:4], x[:4], x[1:5], beta=p),
    "addmm_both": lambda x, p: torch.addmm(x[0], x, x[1:5], beta=p, alpha=p * 2),
    "baddbmm": lambda x, p: torch.baddbmm(x[None, :4], x[None, :4], x[None, 1:5], beta=p, alpha=p),
}


def of_any_magnitude(numbers: random.Random, least: float = -3, greatest: float = 1.5) -> float:
    """Between powers of ten."""
    return numbers.uniform(0.1, 0.9) * 10 ** numbers.uniform(least, greatest)


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_floats(name, backend):
    """Random numbers of several magnitudes: one graph."""
    function = FUNCTIONS[name]
    compiled = framejit.compile(function, backend=backend)
    numbers = random.Random(name)
    for _ in range(60):
        assert_same_as_eager(compiled, function, finite(), of_any_magnitude(numbers))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


def outcome(function, x, p):
    try:
        return function(x.clone(), p)
    except (RuntimeError, ValueError) as error:
        return str(error)


def assert_same_outcomes(compiled, function, x, p):
    """Also where eager raises."""
    with framejit.disable():
        expected = outcome(function, x, p)
    assert_same(outcome(compiled, x, p), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype):
    """Zeros of either sign, infinities, NaN, ints, and numbers that eager raises for, among infinities and NaNs."""
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)
    for p in (0.3, 0.7, *SPECIAL, 1e300, 0.2, 70000.0, 300.0):
        assert_same_outcomes(compiled, function, data(dtype=dtype), p)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["full_dtype", "full_like", "new_full", "fill", "fill_view", "where", "threshold"])
def test_rounding(name, dtype):
    """A number is rounded to the tensor's type once, or twice, as eager does it."""
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)
    numbers = [1 + 2**-8 + 2**-30, 1 + 2**-11 + 2**-30, 1 + 3 * 2**-8 - 2**-30, 1 + 2**-24 + 2**-50, 2**-149 * 0.75]
    numbers += [1e-8, 6e-8, 65519.9, 65504.1, 3.3e38, 3.39e38]
    for p in (0.3, *numbers):
        actual, expected = outcome(compiled, finite(dtype), p), outcome(function, finite(dtype), p)
        if isinstance(expected, str):
            assert actual == expected
        else:
            assert torch.equal(actual, expected), p


def gradients(function, x, p):
    x = x.clone().requires_grad_()
    y = function(x, p)
    weights = torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)
    (gradient,) = torch.autograd.grad((y * weights).square().sum(), x)
    return y.detach(), gradient


DIFFERENTIABLE = {
    "add_alpha",
    "sub_alpha",
    "add_in_place",
    "rsub",
    "full",
    "leaky_relu",
    "elu",
    "hardtanh",
    "hardtanh_one",
    "softplus",
    "softplus_threshold",
    "threshold",
    "hardshrink",
    "addcmul",
    "remainder",
    "fmod",
    "where",
    "clamp_in_place",
    "masked_fill_in_place",
    "index_fill",
    "index_fill_in_place",
    "scatter",
    "scatter_in_place",
    "addmm_alpha",
    "addmm_beta",
    "addmm_both",
    "baddbmm",
}


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_gradients(name, backend):
    function = FUNCTIONS[name]
    compiled = framejit.compile(function, backend=backend)
    numbers = random.Random(name)
    for _ in range(40):
        p = of_any_magnitude(numbers, -2, 0.5)
        assert_same(gradients(compiled, finite(), p), gradients(function, finite(), p))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1
    assert all(trace["has_backward"] for trace in traces(compiled))


def test_gradient_of_alpha_one():
    """The derivative of `add` multiplies by no alpha of 1: that has a graph of its own, in the same recording."""
    function = FUNCTIONS["add_alpha"]
    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 2.0, 1.0, 3.0, 1.0, 0.125, -1.0, 0.0):
        assert_same(gradients(compiled, finite(), p), gradients(function, finite(), p))
    assert graphs(compiled)[0] == 2
    assert recordings(compiled) == 2


def test_gradients_of_what_is_written_in_place():
    """They raise below zero."""

    def function(x, p):
        return F.leaky_relu_(x * 1, p)

    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 0.125, 0.75):
        assert_same(gradients(compiled, finite(), p), gradients(function, finite(), p))
    assert graphs(compiled)[0] == 1
    for target in (function, compiled):
        with pytest.raises(RuntimeError, match="negative slope"):
            gradients(target, finite(), -0.5)


@pytest.mark.parametrize("name", ["add_alpha", "leaky_relu", "elu", "threshold"])
def test_second_gradients(name):
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)

    def second(function, p):
        x = finite().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x, p).exp().sum(), x, create_graph=True)
        (result,) = torch.autograd.grad(gradient.square().sum(), x)
        return gradient.detach(), result

    for p in (0.5, 0.25, 0.125, 0.75, 0.3):
        assert_same(second(compiled, p), second(function, p))
    assert recordings(compiled) == 2


def test_powers():
    """One graph for those that eager computes with its general formula; others are specialised."""

    def function(x, p):
        return x**p

    compiled = framejit.compile(function)
    numbers = random.Random(0)
    for _ in range(50):
        assert_same_as_eager(compiled, function, finite(), numbers.uniform(-3, 3))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1
    for p in (2.0, 0.5, -1.0, 3.0, 1.0, -0.5, -2.0, 0.0, float("inf"), float("nan"), -0.0, 4.0, 2.0):
        assert_same_as_eager(compiled, function, data(), p)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 8
    for p in (3, 7, -3, 2, 0, 1):
        assert_same_as_eager(compiled, function, data(), p)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32])
@pytest.mark.parametrize("kind", [int, float])
def test_powers_of_dtypes(dtype, kind):
    def function(x, p):
        return x**p, p**x

    compiled = framejit.compile(function)
    for p in (1.5, 4.25, 2.0, 3.0, 5.75, 0.5, 7.0, 1.0, 0.0):
        assert_same_outcomes(compiled, function, finite(dtype).abs() + 1, kind(p))


def test_gradients_of_powers():
    """Their formula looks at the exponent."""

    def function(x, p):
        return (x + 3) ** p

    compiled = framejit.compile(function)
    for p in (1.5, 0.25, 2.0, 3.0, 0.0, 1.0):
        assert_same(gradients(compiled, finite(), p), gradients(function, finite(), p))
    assert recordings(compiled) == 2


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_narrow_integers(dtype):
    """One graph for the ints that the dtype has; eager wraps or raises beyond."""

    def function(x, p):
        return x.clamp(max=p), x * p, x > p

    compiled = framejit.compile(function)
    x = finite().mul(20).abs().to(dtype)
    for p in (3, 5, 7, 11, 100, 0, 127):
        assert_same_as_eager(compiled, function, x, p)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1
    for p in (-1, 128, 255, 256, 300, 32768, -(2**31), 2**31, 2**40, 9):
        assert_same_outcomes(compiled, function, x, p)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("name", ["add_alpha", "full_like", "full_dtype", "fill", "where", "fmod", "remainder", "lerp"])
def test_floats_for_integers(name, dtype):
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 1.75, 1.0, -3.5, 2.25):
        assert_same_outcomes(compiled, function, finite().mul(9).to(dtype), p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
@pytest.mark.parametrize("name", ["full_like", "full_dtype", "fill", "where", "clamp_in_place", "add_in_place"])
def test_ints(name, dtype):
    function = FUNCTIONS[name]
    if name == "add_in_place":

        def function(x, p):
            return x.clone().add_(x, alpha=p)

    compiled = framejit.compile(function)
    for p in range(2, 40):
        assert_same_as_eager(compiled, function, finite().mul(9).to(dtype), p)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


def test_bounds_that_cross():
    """`hardtanh` compares its bounds."""

    def function(x, p, q):
        return F.hardtanh(x, p, q)

    compiled = framejit.compile(function)
    for p, q in ((0.25, 0.5), (-0.5, 0.75), (-2.0, 0.125), (0.5, 0.5), (-1.0, float("nan"))):
        assert_same_as_eager(compiled, function, finite(), p, q)
    with pytest.raises(ValueError, match="min_val cannot be greater"):
        compiled(finite(), 0.5, 0.25)
    assert_same_as_eager(compiled, function, finite(), -0.5, 0.25)
    assert graphs(compiled)[0] == 1


def test_several_numbers():
    """One graph for all of them, one of them used as a tensor and as a number."""

    def function(x, p, q):
        y = torch.add(x, x.cos(), alpha=p) * p + torch.full_like(x, q)
        return F.leaky_relu(y, q), torch.lerp(x, y, p * q)

    compiled = framejit.compile(function)
    numbers = random.Random(0)
    for _ in range(40):
        assert_same_as_eager(compiled, function, finite(), numbers.uniform(-2, 2), numbers.uniform(0, 1))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


def test_with_sizes():
    def function(x, p):
        return F.elu(x, p) + torch.full((x.shape[0], 1), p)

    compiled = framejit.compile(function)
    for step in range(60):
        assert_same_as_eager(compiled, function, data(4 + step % 4), 0.1 * step + 0.05)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_strict(name, dtype):
    """Eager's bits."""
    function = FUNCTIONS[name]
    compiled = framejit.compile(function, strict=True)
    numbers = random.Random(name)
    for _ in range(20):
        p = of_any_magnitude(numbers)
        actual, expected = compiled(finite(dtype), p), function(finite(dtype), p)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1
