"""Operators whose results are laid out as plain operands are, for which no metadata kernel runs: where it would matter,
one does. Each case is recorded at layouts beside the plain ones, and compared with eager."""

import operator

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import check

LAYOUTS = {
    "plain": lambda: torch.rand(2, 3, 4),
    "vector": lambda: torch.rand(5),
    "first size one": lambda: torch.rand(1, 3, 4),
    "middle size one": lambda: torch.rand(2, 1, 4),
    "last size one": lambda: torch.rand(2, 1),
    "odd strides of size one": lambda: torch.rand(1, 8).as_strided((1, 8), (3, 1)),
    "empty": lambda: torch.rand(2, 0),
    "number": lambda: torch.rand(()),
    "transposed": lambda: torch.rand(3, 2).t(),
    "channels last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "gaps": lambda: torch.rand(4, 6)[:, ::2],
    "expanded": lambda: torch.rand(3, 1).expand(3, 4),
    "offset": lambda: torch.rand(4, 3)[1:],
    "half": lambda: torch.rand(2, 3).half(),
    "bfloat16": lambda: torch.rand(2, 3).bfloat16(),
    "double": lambda: torch.rand(2, 3, dtype=torch.double),
    "integers": lambda: torch.arange(1, 7).reshape(2, 3),
    "bools": lambda: torch.rand(2, 3) > 0.5,
}
NUMBERS = (2, -3, 0.5, True, 1 + 2j)
BINARY = {"add": operator.add, "mul": operator.mul, "div": operator.truediv, "pow": lambda x, y: (x.abs() + 1) ** y}
UNARY = {"gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "neg": torch.neg, "sqrt": torch.sqrt}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BINARY)
def test_with_numbers(name, layout):
    apply, x = BINARY[name], LAYOUTS[layout]()
    for number in NUMBERS:
        if (isinstance(number, complex) or name == "pow") and x.dtype != torch.float:
            continue
        check(lambda x, number=number: apply(x, number) + 1, x, tolerance=1e-2 if x.dtype.itemsize == 2 else 1e-5)


@pytest.mark.parametrize("left", LAYOUTS)
def test_of_two_layouts(left):
    for right in LAYOUTS.values():
        x, y = LAYOUTS[left](), right()
        if x.dim() == y.dim() and x.shape == y.shape and x.dtype == y.dtype:
            check(lambda x, y: (x + y, x * y, torch.maximum(x, y)), x, y, tolerance=1e-2)


@pytest.mark.parametrize("name", UNARY)
def test_of_one(name):
    for make in LAYOUTS.values():
        x = make()
        if x.is_floating_point():
            check(lambda x: UNARY[name](x), x, tolerance=1e-2 if x.dtype.itemsize == 2 else 1e-5)


def test_a_view_of_a_result():
    def f(x):
        y = x + 1
        z = y.t()
        y.mul_(2)
        return z, y.view(-1), z.storage_offset()

    check(f, torch.rand(3, 4))


def test_a_result_in_inference_mode():
    def f(x):
        with torch.inference_mode():
            y = x * 2
            return y.is_inference(), (y + 1).is_inference()

    check(f, torch.rand(3))


def test_equal_numbers_of_several_types():
    check(lambda x: (x + 0.0, x + 0, x * -0.0, x + False, x + 1, x + 1.0, x + True), torch.tensor([-0.0, 1.0]))


def test_addresses_of_temporaries_come_again():
    def f(x):
        results = []
        for i in range(50):
            x = torch.tanh(x * i) + x
            if i % 7 == 0:
                results.append(x.sin())
        return x, results

    check(f, torch.rand(4))
