"""Arithmetic of plain tensors and numbers is recorded without torch's parser and dispatcher, as what these would come
to. Wherever anything else may have a say in it, it goes their way; either way the results are eager's."""

import enum
import math
import operator
import re

import numpy
import pytest
import torch
from framejit_testing import check
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import framejit

# What the operators are as functions of torch, which always go through the parser and the dispatcher.
FUNCTIONS = {
    "add": (operator.add, torch.add),
    "sub": (operator.sub, torch.sub),
    "mul": (operator.mul, torch.mul),
    "truediv": (operator.truediv, torch.div),
}
NUMBERS = (1, -3, 0, 2**40, 0.5, -0.0, math.inf, math.nan, 1e300, True, False)


def graph_of(function, *arguments) -> str:
    """The recorded graph without the lines of the program."""
    compiled = framejit.compile(function, fullgraph=True)
    compiled(*arguments)
    [trace] = framejit._C.traces(compiled)
    return re.sub(r" *#.*", "", trace["aten"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_graphs_are_those_of_functions(name, dtype):
    infix, function = FUNCTIONS[name]
    x, y = torch.arange(1, 9).to(dtype), torch.arange(2, 10).to(dtype)
    for number in NUMBERS:
        if isinstance(number, bool) and name == "sub":
            continue
        by_infix = graph_of(lambda x, n=number: infix(infix(x, n), n), x)
        assert by_infix == graph_of(lambda x, n=number: function(function(x, n), n), x)
    assert graph_of(lambda x, y: infix(infix(x, y), x), x, y) == graph_of(
        lambda x, y: function(function(x, y), x), x, y
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_on_either_side(name):
    infix = FUNCTIONS[name][0]
    for number in NUMBERS:
        # What rsub's kernel raises for numbers out of range is left to it.
        if name == "sub" and (isinstance(number, bool) or number == 1e300):
            continue
        check(lambda x, n=number: (infix(x, n), infix(n, x)), torch.rand(3, 4) + 1)
    assert graph_of(lambda x: 2 + x, torch.rand(3)) == graph_of(lambda x: x + 2, torch.rand(3))
    assert graph_of(lambda x: 2 * x, torch.rand(3)) == graph_of(lambda x: x * 2, torch.rand(3))


class Level(enum.IntEnum):
    HIGH = 3


class Metres(float):
    def __radd__(self, other):
        return "metres"


@pytest.mark.parametrize(
    "number",
    [-(2**63), 2**63, 1 + 2j, Level.HIGH, Metres(2), numpy.float32(1.5), numpy.float64(1.5), numpy.int32(2)],
    ids=repr,
)
def test_other_numbers(number):
    check(lambda x: x + number, torch.rand(4))
    check(lambda x: number * x, torch.rand(4))


def test_numbers_that_torch_does_not_take():
    for number in (2**70, -(2**64)):
        compiled = framejit.compile(lambda x, n=number: x + 1 + n)
        with pytest.raises(OverflowError) as eager:
            torch.rand(4) + number
        with pytest.raises(OverflowError, match=str(eager.value)):
            compiled(torch.rand(4))


def test_operands_that_are_not_alike():
    x, double, row, number = torch.rand(3, 4), torch.rand(3, 4).double(), torch.rand(4), torch.tensor(2.0)
    for other in (double, row, number, x.half(), x.t().contiguous().t(), torch.arange(4), row > 0.5):
        check(lambda x, y: (x + y, y * x, x / (y + 1)), x, other, tolerance=1e-2)


def test_numbers_that_vary():
    for dynamic in (None, True):
        compiled = framejit.compile(lambda x, n: (x + n) * n, dynamic=dynamic)
        for n in (1, 2, 0.5, 3, 0.25, 7):
            for size in (4, 5, 6):
                x = torch.rand(size)
                torch.testing.assert_close(compiled(x, n), (x + n) * n)


def test_gradients():
    def f(x, w):
        y = (x + 1) * w
        with torch.no_grad():
            scale = w * 2 + 1
        return y, scale, x + 1, (w + 1).requires_grad, scale.requires_grad

    check(f, torch.rand(3), torch.rand(3, requires_grad=True))
    w = torch.rand(3, requires_grad=True)
    framejit.compile(lambda x, w: ((x + 1) * w + w * 2).sum())(torch.ones(3), w).backward()
    torch.testing.assert_close(w.grad, torch.full((3,), 4.0))


def test_parameters():
    p = torch.nn.Parameter(torch.rand(3))
    with torch.no_grad():
        check(lambda p: (p + 1, type(p + 1) is torch.Tensor), p)


class Tagged(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result * 10 if function is torch.Tensor.add else result


class Plain(torch.Tensor):
    pass


@pytest.mark.parametrize("kind", [Plain, Tagged])
def test_subclasses(kind):
    def f(x, y):
        return (y + 1, 1 + y, y * 2, x + y, y + x, x + 1)

    x = torch.rand(3)
    compiled = framejit.compile(f)
    for _ in range(2):
        for actual, expected in zip(compiled(x, x.as_subclass(kind)), f(x, x.as_subclass(kind)), strict=True):
            assert type(actual) is type(expected)
            assert actual.tolist() == expected.tolist()


class Doubling(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return result * 2 if function is torch.Tensor.add else result


class Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        Counting.count += 1
        return function(*args, **(kwargs or {}))


def test_modes():
    def inside(x):
        with Doubling():
            y = x + 1
        return y + 1

    x = torch.rand(3)
    torch.testing.assert_close(framejit.compile(inside)(x), inside(x))
    compiled = framejit.compile(lambda x: x + 1)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), x + 1)
        with Doubling():
            torch.testing.assert_close(compiled(x), (x + 1))
        before = Counting.count
        with Counting():
            compiled(x)
        assert Counting.count == before + 1


def test_a_device_for_everything():
    torch.set_default_device("cpu")
    try:
        check(lambda x: x + 1, torch.rand(3))
    finally:
        torch.set_default_device(None)


def test_methods_that_were_replaced(monkeypatch):
    compiled = framejit.compile(lambda x: x + 1)
    x = torch.rand(3)
    torch.testing.assert_close(compiled(x), x + 1)
    monkeypatch.setattr(torch.Tensor, "__add__", lambda self, other: torch.sub(self, other), raising=False)
    again = framejit.compile(lambda x: x + 2)
    torch.testing.assert_close(again(x), torch.sub(x, 2))


@pytest.mark.cpu
def test_transforms():
    check(lambda x: torch.func.vmap(lambda row: row + 1)(x), torch.rand(3, 4))
    check(lambda x: torch.func.grad(lambda y: (y * 3 + 1).sum())(x), torch.rand(3))
    check(lambda x: torch.func.jvp(lambda y: y * 3 + 1, (x,), (x + 1,)), torch.rand(3))


def test_autocast():
    def f(x, w):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = x @ w
            return y + 1, x + 1, y * 2, y + y

    check(f, torch.rand(4, 4), torch.rand(4, 4), tolerance=1e-2)


def test_views_and_writes_of_results():
    def f(x):
        y = x + 1
        z = y.view(-1) * 2
        y += 1
        z.mul_(3)
        y[0] = 7
        return x, y, z, y + z.view_as(y)

    check(f, torch.rand(3, 4))
