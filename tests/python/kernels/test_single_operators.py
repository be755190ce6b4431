"""Operators that are alone and that ATen does at the speed of memory are left to it, on the CPU; others are not."""

import pytest
import torch
from framejit_testing import vector

import framejit

pytestmark = pytest.mark.cpu

SMALL, LARGE, HUGE = (64, 128), (1024, 1024), (2048, 4096)


def two(dtype, sizes=SMALL):
    """x, y: [*sizes]."""
    return [(vector(*sizes, seed=seed) * 50).to(dtype) for seed in (1, 2)]


def check(function, *tensors):
    """Compares with eager; whether ATen ran the operators."""
    compiled = framejit.compile(function, fullgraph=True)
    expected, actual = function(*tensors), compiled(*tensors)
    assert torch.equal(actual, expected) and actual.dtype == expected.dtype
    assert actual.stride() == expected.stride()
    text = str(framejit.explain(function)(*tensors))
    assert ("call aten::" in text) != ("kernel " in text)
    return "call aten::" in text


MOVES = {"abs": lambda x, y: x.abs(), "neg": lambda x, y: -x, "clone": lambda x, y: x.clone()}
ARITHMETIC = {
    "relu": lambda x, y: torch.relu(x),
    "add": lambda x, y: x + y,
    "sub a number": lambda x, y: x - 3,
    "mul": lambda x, y: x * y,
    "minimum": lambda x, y: torch.minimum(x, y),
    "clamp": lambda x, y: x.clamp(-2, 3),
}


@pytest.mark.parametrize("function", (MOVES | ARITHMETIC).values(), ids=MOVES | ARITHMETIC)
@pytest.mark.parametrize("dtype", [torch.int16, torch.int8, torch.bfloat16, torch.float16, torch.float32, torch.int64])
def test_of_each_type(function, dtype):
    small_moves = dtype in (torch.bfloat16, torch.float16) and function in MOVES.values()
    assert check(function, *two(dtype)) == (dtype in (torch.int16, torch.int8) or small_moves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_beyond_the_caches(dtype):
    """Memory of 16 MB and more comes in huge pages, which ATen does not ask for."""
    x, y = two(dtype, LARGE)
    assert check(lambda x, y: x * y, x, y)
    assert not check(lambda x, y: x * y + y, x, y)
    assert not check(lambda x: x.t() * x, x)
    assert not check(lambda x, y: x * y, *two(dtype, HUGE))


def test_of_other_layouts_and_types():
    x, y = two(torch.int16)
    assert not check(lambda x: x + x[0], x)
    assert not check(lambda x, y: x + y, x[:, ::2], y[:, ::2])
    assert not check(lambda x, y: x + y, x, y.int())
    assert not check(lambda x, y: x > y, x, y)
    assert check(lambda x, y: x + y, x.t(), y.t())


def test_of_few_elements():
    assert not check(lambda x, y: x + y, *two(torch.int16, (3, 5)))


def test_writes_in_place_are_kernels():
    x, y = two(torch.int16)
    expected = x + y
    text = str(framejit.explain(lambda x, y: x.add_(y))(x, y))
    assert "call aten::" not in text and "kernel " in text
    assert torch.equal(x, expected)
