"""Numbers that vary and that tensors are computed with are inputs of the graph: one recording, one graph, for all that
they are worth. Values, dtypes, strides and gradients are eager's."""

import logging

import pytest
import torch
from dynamic_testing import assert_same_as_eager, recordings, traces
from framejit_testing import assert_same
from torch.nn import functional as F

import framejit


def data(rows: int = 6, width: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(rows * width, dtype=torch.float32).reshape(rows, width).sin().to(dtype)


def graphs(compiled) -> list[int]:
    """How many graphs each recording has been compiled to."""
    return [trace["size_variants"] for trace in traces(compiled)]


def written(x, p):
    y = x + 1
    y.mul_(p)
    y[1:] += p
    return y


FUNCTIONS = {
    "mul": lambda x, p: x * p,
    "reflected": lambda x, p: p - x,
    "divide": lambda x, p: x / p,
    "reciprocal": lambda x, p: p / (x + 3),
    "step": lambda x, p: x - p * x.sin(),
    "derived": lambda x, p: x * (1 - p) + p * p,
    "division": lambda x, p: x * (1 / p),
    "compare": lambda x, p: (x > p) | (x * 2 <= p),
    "clamp": lambda x, p: x.clamp(min=p),
    "clamp_both": lambda x, p: x.clamp(-0.5, p),
    "where": lambda x, p: torch.where(x > p, x, x * p),
    "fill": lambda x, p: x.masked_fill(x > 0, p),
    "softmax": lambda x, p: F.softmax(x * p, dim=-1),
    "transposed": lambda x, p: x.t() * p,
    "reduced": lambda x, p: (x * p).sum(0),
    "zero_dim": lambda x, p: x.sum() * p,
    "written": written,
    "twice": lambda x, p: (x * p, x + p, p),
}


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_floats(name, backend):
    function = FUNCTIONS[name]
    compiled = framejit.compile(function, backend=backend)
    for step in range(60):
        assert_same_as_eager(compiled, function, data(), 0.37 * (step + 1))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


@pytest.mark.parametrize("name", ["mul", "reflected", "divide", "reciprocal", "step", "derived", "compare", "twice"])
def test_ints(name):
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)
    for step in range(1, 60):
        assert_same_as_eager(compiled, function, data(), step)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])
@pytest.mark.parametrize("name", ["mul", "derived", "compare", "twice"])
@pytest.mark.parametrize("kind", [int, float])
def test_dtypes(name, dtype, kind):
    """A Python number does not promote a tensor of its own kind."""
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)
    for step in range(1, 40):
        assert_same_as_eager(compiled, function, data(dtype=dtype), kind(step * 3) / 2 if kind is float else step)
    assert recordings(compiled) == 2


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8, torch.complex64])
def test_other_dtypes(dtype):
    """What kernels make of numbers that these do not have is ATen's: each has a graph of its own."""

    def function(x, p):
        return x * p, x + p

    compiled = framejit.compile(function)
    for step in range(1, 12):
        assert_same_as_eager(compiled, function, data().mul(5).to(dtype), step)
        assert_same_as_eager(compiled, function, data().mul(5).to(dtype), step / 4)


def test_special_values():
    def function(x, p):
        return x * p, x.clamp(max=p), x > p, (x + p).sum()

    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, 5e-324, 3.0e38):
        assert_same_as_eager(compiled, function, data(), p)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


def test_a_number_out_of_range():
    """`clamp` raises where the number does not fit the dtype."""

    def function(x, p):
        return x.clamp(max=p) * p

    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 1.5):
        assert_same_as_eager(compiled, function, data(), p)
    with pytest.raises(RuntimeError, match="without overflow"):
        compiled(data(), 1e300)
    assert_same_as_eager(compiled, function, data(), 2.5)


def test_a_thousand_learning_rates():
    def function(x, lr):
        return (x - lr * x.cos()).relu(), lr * 2

    compiled = framejit.compile(function)
    for step in range(1000):
        assert_same_as_eager(compiled, function, data(), 1.0 / (step + 1))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1


def test_with_sizes():
    """A graph for each set of sizes, none for each number."""

    def function(x, p):
        return (x * p).softmax(-1) + p

    compiled = framejit.compile(function)
    for step in range(80):
        assert_same_as_eager(compiled, function, data(4 + step % 5), 0.1 * step)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 5


def gradients(function, x, p, create_graph=False):
    x = x.clone().requires_grad_()
    y = function(x, p)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=create_graph)
    if not create_graph:
        return y.detach(), gradient
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    return y.detach(), gradient.detach(), second


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize(
    "name", ["mul", "reflected", "divide", "reciprocal", "step", "derived", "where", "fill", "softmax", "written"]
)
def test_gradients(name, backend):
    function = FUNCTIONS[name]
    compiled = framejit.compile(function, backend=backend)
    for step in range(1, 100):
        assert_same(gradients(compiled, data(), step / 7), gradients(function, data(), step / 7))
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 1
    assert all(trace["has_backward"] for trace in traces(compiled))


@pytest.mark.parametrize("name", ["mul", "reciprocal", "step", "softmax"])
def test_second_gradients(name):
    """A backward that is differentiated runs the torch-level graph, with the numbers of its own call."""
    function = FUNCTIONS[name]
    compiled = framejit.compile(function)
    for step in range(1, 6):
        actual = gradients(compiled, data(), step / 7, create_graph=True)
        assert_same(actual, gradients(function, data(), step / 7, create_graph=True))
    assert recordings(compiled) == 2


def test_backwards_later():
    """Each call keeps its own number."""

    def function(x, p):
        return (x * p).exp()

    compiled = framejit.compile(function)
    inputs = [data().requires_grad_() for _ in range(5)]
    results = [compiled(x, 0.1 * i) for i, x in enumerate(inputs)]
    for i, (x, y) in enumerate(zip(inputs, results, strict=True)):
        y.sum().backward()
        expected = data().requires_grad_()
        function(expected, 0.1 * i).sum().backward()
        assert_same(x.grad, expected.grad)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, p: F.celu(x, p),
        lambda x, p: F.pad(x, (1, 1), value=p),
        lambda x, p: x.norm(p),
        lambda x, p: F.dropout(x, p / 100, training=False) * p,
        lambda x, p: x + torch.arange(0.0, 4.0, p)[:1],
    ],
)
def test_operators_that_look_at_the_number(function):
    """They have a graph for each value, as before."""
    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 2.0, 1.0, 3.0, 0.5):
        assert_same_as_eager(compiled, function, data(), p)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 5


def test_one_that_is_looked_at_beside_one_that_is_not():
    def function(x, p, q):
        return x**p * q

    compiled = framejit.compile(function)
    for step in range(50):
        assert_same_as_eager(compiled, function, data() + 2, 1.0 + step % 3, step / 3)
    assert recordings(compiled) == 2
    assert graphs(compiled)[0] == 3


def test_a_condition_on_the_number():
    def function(x, p):
        return x * p if p > 0 else x - p

    compiled = framejit.compile(function)
    for step in range(1, 60):
        assert_same_as_eager(compiled, function, data(), step / 8)
        assert_same_as_eager(compiled, function, data(), -step / 8)
    assert recordings(compiled) == 3


def test_log(caplog):
    """Symbols, demands and what fixes a size, each with its place; the stacks of one symbol."""

    def function(x, p):
        if x.shape[0] > 2:
            return x * p + int(f"{x.shape[1]}")
        return x

    framejit.set_logs("symbols")
    framejit._logging.trace_symbols(framejit._C, "s1")
    try:
        with caplog.at_level(logging.INFO, logger="framejit"):
            compiled = framejit.compile(function)
            for step in range(3):
                compiled(data(4 + step), 0.5 * step)
    finally:
        framejit.set_logs("")
        framejit._logging.trace_symbols(framejit._C, "")
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert f"s0 = L['p'], 0.5 here, any float ({__file__}:" in text
    assert f"s1 = L['x'].shape[0], 5 here, 0 or more ({__file__}:" in text
    assert f"demands (L['x'].shape[0] > 2) ({__file__}:" in text
    assert f"demands L['x'].shape[1] == 4 ({__file__}:" in text and "specialised" in text
    traced = [record.getMessage() for record in caplog.records if record.getMessage().startswith("s1 = ")]
    assert traced
    assert f"\n  {__file__}:" in traced[0]
    assert " in test_log.<locals>.function\n" in traced[0]
    assert "frame #" in traced[0]
