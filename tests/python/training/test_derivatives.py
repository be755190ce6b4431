"""Derivatives that framejit has kernels for: special values, reduced precision, layouts that broadcast."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import check as check_call
from framejit_testing import vector
from training_testing import check

pytestmark = pytest.mark.usefixtures("device")

ACTIVATIONS = {
    "relu": F.relu,
    "leaky relu": lambda a: F.leaky_relu(a, 0.1),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "tanh gelu": lambda a: F.gelu(a, approximate="tanh"),
    "silu": F.silu,
    "hardtanh": F.hardtanh,
    "softmax": lambda a: a.softmax(-1),
    "log softmax": lambda a: a.log_softmax(-1),
}
SPECIAL = [
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e30,
    -1e30,
    88.0,
    -88.0,
    1e-40,
    20.0,
    -20.0,
]
# One unit in the last place of the largest value.
UNIT = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float64: 1e-12}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_values(name):
    function = ACTIVATIONS[name]
    # Of infinity, eager's vectorised kernel of gelu makes NaN on some machines, where its scalar one has the limit.
    split = name == "gelu" and bool(F.gelu(torch.full((64,), float("inf"))).isnan().any())
    column = torch.tensor([value for value in SPECIAL if not (split and abs(value) == float("inf"))])
    each_alone = column[:, None].repeat(1, 9)  # softmax sees each beside ordinary values
    each_alone[:, 1:] = vector(len(column), 8)
    check(lambda a: function(a), each_alone.requires_grad_())


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_gelu_of_infinity(value):
    """Eager's scalar kernel runs on what is strided."""
    check_call(lambda x: F.gelu(x), torch.full((66,), value)[::2])


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_other_types(name, dtype):
    function = ACTIVATIONS[name]
    check(lambda a: function(a), (vector(7, 33) * 2).to(dtype).requires_grad_(), steps=2, tolerance=UNIT[dtype])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("layout", ["transposed", "expanded", "empty"])
def test_layouts(name, layout):
    function = ACTIVATIONS[name]
    shapes = {"transposed": (9, 5), "expanded": (1, 9), "empty": (0, 9)}
    views = {"transposed": lambda a: a.t(), "expanded": lambda a: a.expand(5, 9), "empty": lambda a: a * 1}
    check(lambda a: function(views[layout](a)) * 2, vector(*shapes[layout]).requires_grad_())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mean_square(reduction):
    check(
        lambda a, b: F.mse_loss(a, b, reduction=reduction),
        vector(5, 9).requires_grad_(),
        vector(5, 9, seed=2).requires_grad_(),
    )
