"""torch.autograd.gradcheck in double precision on compiled functions: their gradients against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import vector
from training_testing import reports

import framejit


def x(*shape: int, seed: int = 1) -> torch.Tensor:
    return vector(*shape, dtype=torch.float64, seed=seed).requires_grad_()


def positive(*shape: int, seed: int = 1) -> torch.Tensor:
    return (vector(*shape, dtype=torch.float64, seed=seed).abs() + 0.5).requires_grad_()


FUNCTIONS = {
    "add": (lambda a, b: a + b * 2, x(3, 4), x(4, seed=2)),
    "mul": (lambda a, b: a * b, x(3, 4), x(3, 1, seed=2)),
    "div": (lambda a, b: a / b, x(3, 4), positive(3, 4, seed=2)),
    "exp": (lambda a: a.exp(), x(3, 4)),
    "log": (lambda a: a.log(), positive(3, 4)),
    "sqrt": (lambda a: a.sqrt(), positive(3, 4)),
    "pow": (lambda a: a**3, x(3, 4)),
    "tanh": (lambda a: a.tanh() * a, x(3, 4)),
    "sigmoid": (lambda a: a.sigmoid(), x(3, 4)),
    "gelu": (F.gelu, x(3, 4)),
    "tanh gelu": (lambda a: F.gelu(a, approximate="tanh"), x(3, 4)),
    "silu": (F.silu, x(3, 4)),
    "elu": (F.elu, x(3, 4)),
    "softplus": (F.softplus, x(3, 4)),
    "sin": (lambda a: a.sin() * a.cos(), x(3, 4)),
    "erf": (lambda a: a.erf(), x(3, 4)),
    "where": (lambda a, b: torch.where(a > 0, a * 2, b), x(3, 4), x(3, 4, seed=2)),
    "softmax": (lambda a: a.softmax(-1), x(3, 4)),
    "log softmax": (lambda a: a.log_softmax(-1), x(3, 4)),
    "logsumexp": (lambda a: a.logsumexp(0), x(3, 4)),
    "layer norm": (lambda a, w, b: F.layer_norm(a, (4,), w, b), x(3, 4), x(4, seed=2), x(4, seed=3)),
    "rms norm": (lambda a, w: F.rms_norm(a, (4,), w), x(3, 4), x(4, seed=2)),
    "group norm": (lambda a, w, b: F.group_norm(a, 2, w, b), x(2, 4, 3), x(4, seed=2), x(4, seed=3)),
    "batch norm": (lambda a, w, b: F.batch_norm(a, None, None, w, b, True), x(5, 3), x(3, seed=2), x(3, seed=3)),
    "linear": (F.linear, x(3, 4), x(2, 4, seed=2), x(2, seed=3)),
    "matmul": (lambda a, b: a @ b, x(3, 4), x(4, 2, seed=2)),
    "bmm": (lambda a, b: a @ b, x(2, 3, 4), x(2, 4, 2, seed=2)),
    "conv2d": (lambda a, w: F.conv2d(a, w, padding=1), x(1, 2, 4, 4), x(3, 2, 3, 3, seed=2)),
    "average pool": (lambda a: F.avg_pool2d(a, 2), x(1, 2, 4, 4)),
    "max pool": (lambda a: F.max_pool2d(a, 2), x(1, 2, 4, 4)),
    "sum": (lambda a: a.sum(0) * a, x(3, 4)),
    "mean": (lambda a: a.mean(1, keepdim=True) * a, x(3, 4)),
    "var": (lambda a: a.var(1), x(3, 4)),
    "norm": (lambda a: a.norm(dim=1), x(3, 4)),
    "cumsum": (lambda a: a.cumsum(1), x(3, 4)),
    "cat": (lambda a, b: torch.cat([a, b * 2]), x(3, 4), x(2, 4, seed=2)),
    "index": (lambda a: a[1:, ::2] * a[0, 0], x(3, 4)),
    "gather": (lambda a: a.gather(1, torch.tensor([[1, 1], [0, 2], [3, 3]])), x(3, 4)),
    "mse": (F.mse_loss, x(3, 4), x(3, 4, seed=2)),
    "cross entropy": (lambda a: F.cross_entropy(a, torch.tensor([1, 0, 3])), x(3, 4)),
    "attention": (F.scaled_dot_product_attention, x(1, 3, 4), x(1, 3, 4, seed=2), x(1, 3, 4, seed=3)),
    "two results": (lambda a, b: (a * b, (a - b).exp()), x(3, 4), x(3, 4, seed=2)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(name):
    function, *args = FUNCTIONS[name]
    compiled = framejit.compile(lambda *args: function(*args))
    assert torch.autograd.gradcheck(compiled, args)
    assert all(report.has_backward for report in reports(compiled))


@pytest.mark.parametrize("name", ["mul", "tanh", "gelu", "layer norm", "linear", "softmax"])
def test_gradgradcheck(name):
    function, *args = FUNCTIONS[name]
    assert torch.autograd.gradgradcheck(framejit.compile(lambda *args: function(*args)), args)
