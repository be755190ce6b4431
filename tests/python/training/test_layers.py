"""Layers, losses and operators in training: outputs, gradients of inputs and parameters, and buffers equal eager's; one
forward and one backward graph of our own, and no second recording."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_tables import LAYERS, LOSSES, is_native, positive, x
from training_testing import check

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    make, shape = LAYERS[name]
    args = (x(*shape),) if shape is not None else (x(4, 6), x(4, 6, seed=2))
    check(make(), *args, native=is_native(name))


def test_embedding():
    check(nn.Embedding(10, 4), torch.tensor([[1, 2, 2], [0, 9, 1]]))
    check(nn.Embedding(10, 4, padding_idx=2), torch.tensor([[1, 2, 2], [0, 9, 1]]))
    check(nn.Embedding(10, 4, scale_grad_by_freq=True), torch.tensor([[1, 2, 2], [0, 9, 1]]))
    check(nn.Embedding(40000, 8), torch.tensor([[1, 39999, 1], [0, 9, 20000]], dtype=torch.int32))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(make):
    """cuDNN's look at where their weights lie: torch's autograd differentiates them."""
    check(First(make(4, 5)), x(3, 2, 4), native=torch.get_default_device().type == "cpu")


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)[0]


@pytest.mark.parametrize("make", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cell(make):
    check(make(4, 5), x(3, 4))


def test_attention():
    check(First(nn.MultiheadAttention(8, 2, batch_first=True)), x(2, 5, 8), x(2, 5, 8, seed=2), x(2, 5, 8, seed=3))


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    check(*LOSSES[name], native=is_native(name))


OPERATORS = {
    "add": (lambda a, b: a + b, x(4, 6), x(4, 6, seed=2)),
    "add broadcast": (lambda a, b: a + b, x(4, 6), x(6, seed=2)),
    "sub": (lambda a, b: a - 2 * b, x(4, 6), x(1, 6, seed=2)),
    "mul": (lambda a, b: a * b, x(4, 6), x(4, 1, seed=2)),
    "div": (lambda a, b: a / b, x(4, 6), positive(4, 6, seed=2)),
    "pow": (lambda a: a**3 + a**2, x(4, 6)),
    "tensor pow": (lambda a, b: a**b, positive(4, 6), x(4, 6, seed=2)),
    "exp log": (lambda a: a.exp().log1p() + a.log(), positive(4, 6)),
    "sqrt rsqrt": (lambda a: a.sqrt() + a.rsqrt(), positive(4, 6)),
    "sin cos": (lambda a: a.sin() * a.cos(), x(4, 6)),
    "atan2": (torch.atan2, x(4, 6), x(4, 6, seed=2)),
    "abs sign": (lambda a: a.abs() * a.sign(), x(4, 6)),
    "erf": (lambda a: a.erf() + a.erfc(), x(4, 6)),
    "clamp": (lambda a: a.clamp(-0.5, 0.5), x(4, 6)),
    "minimum maximum": (lambda a, b: torch.minimum(a, b) + torch.maximum(a, b) ** 2, x(4, 6), x(4, 6, seed=2)),
    "where": (lambda a, b: torch.where(a > 0, a * 2, b), x(4, 6), x(4, 6, seed=2)),
    "masked fill": (lambda a: a.masked_fill(a > 0.3, 0.0) * 2, x(4, 6)),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), x(4, 6), x(4, 6, seed=2)),
    "addcmul": (lambda a, b, c: torch.addcmul(a, b, c, value=0.5), x(4, 6), x(4, 6, seed=2), x(4, 6, seed=3)),
    "addcdiv": (lambda a, b, c: torch.addcdiv(a, b, c), x(4, 6), x(4, 6, seed=2), positive(4, 6)),
    "sum": (lambda a: a.sum() * a, x(4, 6)),
    "sum of a dimension": (lambda a: a.sum(1, keepdim=True) * a, x(4, 6)),
    "mean": (lambda a: a.mean(0) * a, x(4, 6)),
    "var std": (lambda a: a.var(1) + a.std(1), x(4, 6)),
    "prod": (lambda a: a.prod(1), positive(4, 6)),
    "max of a dimension": (lambda a: a.max(1).values, x(4, 6)),
    "amax amin": (lambda a: a.amax(1) - a.amin(1), x(4, 6)),
    "max of all": (lambda a: a.max() * a, x(4, 6)),
    "logsumexp": (lambda a: a.logsumexp(1), x(4, 6)),
    "norm": (lambda a: a.norm() + a.norm(dim=1).sum(), x(4, 6)),
    "cumsum": (lambda a: a.cumsum(1) * 2, x(4, 6)),
    "cumprod": (lambda a: a.cumprod(1) * 2, positive(4, 6)),
    "matmul": (lambda a, b: a @ b, x(4, 6), x(6, 3, seed=2)),
    "batched matmul": (lambda a, b: a @ b, x(2, 4, 6), x(2, 6, 3, seed=2)),
    "matmul of a vector": (lambda a, b: a @ b, x(4, 6), x(6, seed=2)),
    "dot": (torch.dot, x(6), x(6, seed=2)),
    "outer": (torch.outer, x(6), x(4, seed=2)),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), x(2, 4, 6), x(2, 6, 3, seed=2)),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c, beta=0.5, alpha=2), x(4, 3), x(4, 6, seed=2), x(6, 3, seed=3)),
    "transpose": (lambda a: a.t().contiguous() * 2, x(4, 6)),
    "permute": (lambda a: a.permute(2, 0, 1) * 2, x(2, 4, 6)),
    "reshape": (lambda a: a.reshape(8, 3) * 2, x(4, 6)),
    "expand": (lambda a: a.expand(4, 6) * 2, x(1, 6)),
    "squeeze": (lambda a: a.unsqueeze(1).tanh().squeeze(1) * 2, x(4, 6)),
    "cat": (lambda a, b: torch.cat([a, b * 2], 1), x(4, 6), x(4, 2, seed=2)),
    "stack": (lambda a, b: torch.stack([a, b * 2]), x(4, 6), x(4, 6, seed=2)),
    "split": (lambda a: a.split(2, 1)[0] * a.split(2, 1)[2], x(4, 6)),
    "chunk": (lambda a: torch.cat([p * i for i, p in enumerate(a.chunk(3, 1))]), x(4, 6)),
    "unbind": (lambda a: a.unbind(0)[0] * a.unbind(0)[1], x(4, 6)),
    "index": (lambda a: a[1] * a[2:, ::2].sum(), x(4, 6)),
    "index by a tensor": (lambda a, i: a[i] * 2, x(4, 6), torch.tensor([1, 1, 3])),
    "gather": (lambda a, i: a.gather(1, i) * 2, x(4, 6), torch.tensor([[1, 1], [0, 5], [2, 3], [4, 4]])),
    "index select": (lambda a, i: a.index_select(1, i) * 2, x(4, 6), torch.tensor([1, 1, 3])),
    "scatter add": (lambda a, b, i: a.scatter_add(1, i, b), x(4, 6), x(4, 2, seed=2),
                    torch.tensor([[1, 1], [0, 5], [2, 3], [4, 4]])),
    "narrow": (lambda a: a.narrow(1, 1, 3) * 2, x(4, 6)),
    "flip roll": (lambda a: a.flip(1) * a.roll(2, 1), x(4, 6)),
    "repeat": (lambda a: a.repeat(2, 2) * 2, x(4, 6)),
    "repeat interleave": (lambda a: a.repeat_interleave(2, 1) * 2, x(4, 6)),
    "tril triu": (lambda a: a.tril() * 2 + a.triu() * 3, x(6, 6)),
    "diagonal": (lambda a: a.diagonal() * 2, x(6, 6)),
    "sort": (lambda a: a.sort(1).values * torch.arange(6.0), x(4, 6)),
    "topk": (lambda a: a.topk(2).values * 2, x(4, 6)),
    "pad": (lambda a: F.pad(a, (1, 1)) * 2, x(4, 6)),
    "unfold": (lambda a: a.unfold(1, 3, 1) * 2, x(4, 6)),
    "normalize": (lambda a: F.normalize(a), x(4, 6)),
    "cosine similarity": (lambda a, b: F.cosine_similarity(a, b), x(4, 6), x(4, 6, seed=2)),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), x(1, 2, 5, 8), x(1, 2, 5, 8, seed=2),
                  x(1, 2, 5, 8, seed=3)),
    "causal attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), x(1, 2, 5, 8),
                         x(1, 2, 5, 8, seed=2), x(1, 2, 5, 8, seed=3)),
    "to double": (lambda a: a.double() * 2, x(4, 6)),
    "to bfloat16 and back": (lambda a: (a.bfloat16() * 2).float() * a, x(4, 6)),
    "nan to num": (lambda a: torch.nan_to_num(a.log()) * 2, positive(4, 6)),
    "determinant": (lambda a: torch.linalg.det(a @ a.t() + torch.eye(4)), x(4, 4)),
    "inverse": (lambda a: torch.linalg.inv(a @ a.t() + torch.eye(4)), x(4, 4)),
    "complex": (lambda a, b: torch.complex(a, b).abs(), x(4, 6), x(4, 6, seed=2)),
    "fft": (lambda a: torch.fft.rfft(a).abs(), x(4, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name):
    check(*OPERATORS[name], native=is_native(name))
