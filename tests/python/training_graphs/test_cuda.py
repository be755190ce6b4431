"""Training calls on a GPU that is not there: what is recorded of forward and backward, partitioned, planned, and
compiled for two architectures. Running them is tests/python/training's matter, on a machine with a GPU."""

import re

import framejit_cuda_testing as ct
import pytest
import torch
import torch.nn.functional as F
from torch import nn

ARCHITECTURES = [80, 90]


class Call:
    """The tensors of one call, and its results compiled. What torch does is recorded from the first tensor on."""

    def __init__(self, call):
        self.call, self.records = call, False

    def input(self, *sizes, dtype=torch.float32, grad=True, device="cuda:0"):
        if not self.records:
            self.call.__enter__()
            self.records = True
        return self.call.input(list(sizes), dtype, grad, device)

    def module(self, module: nn.Module) -> dict:
        """Parameters and buffers of the module, for functional_call."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {
            name: self.input(*tensor.shape, dtype=tensor.dtype, grad=tensor.requires_grad)
            for name, tensor in tensors.items()
        }

    def compile(self, *outputs) -> list:
        """Forward and backward of each architecture."""
        return self.call.compile(list(outputs), ARCHITECTURES)


@pytest.fixture
def call():
    made = ct.Call()
    yield Call(made)
    made.__exit__()


def operators(plan: str) -> set[str]:
    """Those that ATen runs."""
    return set(re.findall(r"aten::\w+", plan))


def test_perceptron(call):
    module = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 10))
    tensors, x = call.module(module), call.input(32, 64, grad=False)
    targets = call.input(32, dtype=torch.int64, grad=False)
    y = torch.func.functional_call(module, tensors, (x,))
    for forward, backward in call.compile(F.cross_entropy(y, targets)):
        assert operators(forward.plan) == {"aten::addmm", "aten::_assert_async"}
        assert "aten::mm" in operators(backward.plan) and "aten::gelu_backward" not in operators(backward.plan)
        assert 'device="cuda:0"' in backward.graph


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_norms_have_full_precision(call, dtype):
    x, w, b = call.input(8, 16, 64, dtype=dtype), call.input(64, dtype=dtype), call.input(64, dtype=dtype)
    for forward, backward in call.compile(F.layer_norm(x, (64,), w, b)):
        assert len(re.findall(r"float32\[8, 16, 1\]", forward.graph)) == 2
        assert operators(forward.plan) == set()
        assert operators(backward.plan) <= {"aten::native_layer_norm_backward"}


def test_batch_norm_keeps_its_statistics(call):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()).train()
    tensors, x = call.module(module), call.input(4, 3, 16, 16, grad=False)
    y = torch.func.functional_call(module, tensors, (x,)).mean()
    for forward, backward in call.compile(y):
        assert "aten::convolution" in operators(forward.plan)
        assert "aten::convolution_backward" in operators(backward.plan)
        assert "running" not in backward.graph


def test_reserves_of_cudnn_are_not_copied(call):
    """Their recorded size is made up."""
    x, w, b = call.input(4, 8, 6, 6), call.input(8), call.input(8)
    mean, variance = call.input(8, grad=False), call.input(8, grad=False)
    y, *_ = torch.ops.aten.cudnn_batch_norm(x, w, b, mean, variance, True, 0.1, 1e-5)
    for forward, backward in call.compile(y.exp().sum()):
        assert "aten::cudnn_batch_norm" in operators(forward.plan)
        assert operators(backward.plan) == {"aten::cudnn_batch_norm_backward"} and "clone" not in backward.graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_and_dropout(call, dtype):
    def heads(x):
        return x.view(2, 16, 4, 8).transpose(1, 2)

    x = call.input(2, 16, 32, dtype=dtype)
    weights = [call.input(32, 32, dtype=dtype) for _ in range(3)]
    q, k, v = (heads(F.linear(x, w)) for w in weights)
    attended, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.1, False)
    y = F.dropout(attended.transpose(1, 2).reshape(2, 16, 32), 0.1, True) + x
    for forward, backward in call.compile(y.float().square().mean()):
        assert {"aten::_scaled_dot_product_efficient_attention", "aten::native_dropout"} <= operators(forward.plan)
        drawing = {"aten::native_dropout", "aten::_scaled_dot_product_efficient_attention"}
        assert "aten::_scaled_dot_product_efficient_attention_backward" in operators(backward.plan)
        assert not drawing & operators(backward.plan)  # random numbers are drawn once


@pytest.mark.parametrize("name", ["cudnn", "flash"])
def test_attention_that_returns_numbers(call, name):
    q, k, v = (call.input(2, 4, 16, 8, dtype=torch.bfloat16) for _ in range(3))
    extra = {"cudnn": (None, True), "flash": ()}[name]
    operator = getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention")
    attended, _, _, _, longest_q, longest_k, *_ = operator(q, k, v, *extra, 0.1, False)
    assert (longest_q, longest_k) == (16, 16)
    for forward, backward in call.compile(attended.float().square().mean()):
        assert f"aten::_scaled_dot_product_{name}_attention" in operators(forward.plan)
        assert f"aten::_scaled_dot_product_{name}_attention_backward" in operators(backward.plan)


@pytest.mark.parametrize("make", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_cells(call, make, bias):
    module = make(4, 5, bias=bias)
    tensors, x = call.module(module), call.input(3, 4)
    state = call.input(3, 5)
    y = torch.func.functional_call(module, tensors, (x, (state, call.input(3, 5)) if make is nn.LSTMCell else state))
    call.compile(y[0] if make is nn.LSTMCell else y)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_recurrent_layers_are_one_operator(call, name, batch_first):
    """cuDNN's look at where their weights lie, which nobody knows while recording."""
    gates = {"lstm": 4, "gru": 3}.get(name, 1)
    shapes = [(gates * 5, 4), (gates * 5, 5), (gates * 5,), (gates * 5,)]
    with torch.inference_mode():
        x, state = call.input(3, 2, 4, grad=False), call.input(1, 2 if not batch_first else 3, 5, grad=False)
        weights = [call.input(*shape, grad=False) for shape in shapes]
        start = [state, state] if name == "lstm" else state
        y, *last = getattr(torch, name)(x, start, weights, True, 1, 0.0, False, False, batch_first)
    assert call.call.operators() == [f"aten::{name}.input"]
    assert y.shape == (3, 2, 5) and y.stride() == ((5, 15, 1) if batch_first else (10, 5, 1))
    assert all(tensor.shape == state.shape for tensor in last)


def test_numbers_on_the_cpu(call):
    x, number = call.input(8, 4), call.input(dtype=torch.float64, grad=False, device="cpu")
    for _, backward in call.compile((x * number).exp().sum()):
        assert "exp" in backward.graph or "mul" in backward.graph


def test_several_results(call):
    x, w = call.input(8, 16), call.input(16, 16)
    y = torch.tanh(x @ w)
    call.compile(y, (y * 2).sum())


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ((("cuda:0", True), ("cuda:1", True)), "on cuda:0 and on cuda:1"),
        ((("cuda:0", True), ("cpu", True)), "on cuda:0 and on cpu"),
        ((("cuda:0", True), ("cuda:1", False)), "on cuda:0, something on cuda:1"),
        ((("cpu", True), ("cuda:0", False)), "on cpu, something on cuda:0"),
    ],
)
def test_several_devices_are_refused(call, tensors, reason):
    x, y = (call.input(4, grad=grad, device=device) for device, grad in tensors)
    y.sum()
    with pytest.raises(RuntimeError, match=reason):
        call.compile(x.exp())


def test_the_thread_is_as_it_was(call):
    call.compile(call.input(4).exp())
    assert torch._C._is_multithreading_enabled()
