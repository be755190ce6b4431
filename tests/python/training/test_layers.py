"""Layers, losses and operators in training: outputs, gradients of inputs and parameters, and buffers equal eager's; one
forward and one backward graph of our own, and no second recording."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import vector
from torch import nn
from training_testing import check


def x(*shape: int, seed: int = 1) -> torch.Tensor:
    return vector(*shape, seed=seed).requires_grad_()


def positive(*shape: int, seed: int = 1) -> torch.Tensor:
    return (vector(*shape, seed=seed).abs() + 0.5).requires_grad_()


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "linear over batches": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "bilinear": (lambda: nn.Bilinear(6, 6, 3), None),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 3, 8)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 6)),
    "strided grouped conv2d": (lambda: nn.Conv2d(4, 4, 3, stride=2, groups=2), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3), (1, 2, 5, 5, 5)),
    "conv transpose": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 4, 4)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(6), (5, 6)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "batch norm without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 5, 5)),
    "batch norm that is not trained": (lambda: nn.BatchNorm2d(3).eval(), (4, 3, 5, 5)),
    "layer norm": (lambda: nn.LayerNorm(6), (4, 6)),
    "layer norm without affine": (lambda: nn.LayerNorm(6, elementwise_affine=False), (4, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 4)),
    "rms norm": (lambda: nn.RMSNorm(6), (4, 6)),
    "local response norm": (lambda: nn.LocalResponseNorm(2), (2, 4, 5, 5)),
    "relu": (nn.ReLU, (4, 6)),
    "relu in place": (lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)), (4, 6)),
    "leaky relu": (lambda: nn.LeakyReLU(0.1), (4, 6)),
    "elu": (nn.ELU, (4, 6)),
    "selu": (nn.SELU, (4, 6)),
    "celu": (nn.CELU, (4, 6)),
    "gelu": (nn.GELU, (4, 6)),
    "tanh gelu": (lambda: nn.GELU("tanh"), (4, 6)),
    "silu": (nn.SiLU, (4, 6)),
    "mish": (nn.Mish, (4, 6)),
    "sigmoid": (nn.Sigmoid, (4, 6)),
    "tanh": (nn.Tanh, (4, 6)),
    "softplus": (nn.Softplus, (4, 6)),
    "softsign": (nn.Softsign, (4, 6)),
    "hardtanh": (nn.Hardtanh, (4, 6)),
    "hardswish": (nn.Hardswish, (4, 6)),
    "hardsigmoid": (nn.Hardsigmoid, (4, 6)),
    "log sigmoid": (nn.LogSigmoid, (4, 6)),
    "prelu": (nn.PReLU, (4, 6)),
    "glu": (nn.GLU, (4, 6)),
    "softmax": (lambda: nn.Softmax(-1), (4, 6)),
    "log softmax": (lambda: nn.LogSoftmax(-1), (4, 6)),
    "softmin": (lambda: nn.Softmin(0), (4, 6)),
    "dropout": (lambda: nn.Dropout(0.3), (4, 16)),
    "dropout 2d": (lambda: nn.Dropout2d(0.3), (4, 6, 3, 3)),
    "alpha dropout": (lambda: nn.AlphaDropout(0.3), (4, 16)),
    "max pool": (lambda: nn.MaxPool2d(2), (2, 3, 6, 6)),
    "average pool": (lambda: nn.AvgPool2d(2), (2, 3, 6, 6)),
    "adaptive average pool": (lambda: nn.AdaptiveAvgPool2d(2), (2, 3, 6, 6)),
    "adaptive average pool to one": (lambda: nn.AdaptiveAvgPool2d(1), (2, 3, 6, 6)),
    "adaptive max pool": (lambda: nn.AdaptiveMaxPool2d(2), (2, 3, 6, 6)),
    "upsample nearest": (lambda: nn.Upsample(scale_factor=2), (2, 3, 4, 4)),
    "upsample bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4, 4)),
    "reflection pad": (lambda: nn.ReflectionPad2d(1), (2, 3, 4, 4)),
    "constant pad": (lambda: nn.ConstantPad2d(1, 2.0), (2, 3, 4, 4)),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), (2, 8, 3, 3)),
    "flatten": (lambda: nn.Sequential(nn.Tanh(), nn.Flatten()), (2, 3, 4)),
    "unfold": (lambda: nn.Unfold(2), (2, 3, 4, 4)),
    "transformer encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), (2, 5, 8)),
    "residual mlp": (lambda: ResidualMlp(), (4, 6)),
    "tied weights": (lambda: Tied(), (4, 6)),
}  # fmt: skip


class ResidualMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


# What torch's own autograd differentiates still: dropout and gates that are written in another layout, formulas that
# look at the data or have no metadata.
DIFFERENTIATED_BY_TORCH = {
    "transformer encoder", "multi margin", "prod", "max of all", "cumprod",
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    make, shape = LAYERS[name]
    args = (x(*shape),) if shape is not None else (x(4, 6), x(4, 6, seed=2))
    check(make(), *args, native=name not in DIFFERENTIATED_BY_TORCH)


def test_embedding():
    check(nn.Embedding(10, 4), torch.tensor([[1, 2, 2], [0, 9, 1]]))
    check(nn.Embedding(10, 4, padding_idx=2), torch.tensor([[1, 2, 2], [0, 9, 1]]))
    check(nn.Embedding(10, 4, scale_grad_by_freq=True), torch.tensor([[1, 2, 2], [0, 9, 1]]))
    check(nn.Embedding(40000, 8), torch.tensor([[1, 39999, 1], [0, 9, 20000]], dtype=torch.int32))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(make):
    check(First(make(4, 5)), x(3, 2, 4))


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


def target(*shape: int) -> torch.Tensor:
    return vector(*shape, seed=9)


CLASSES = torch.tensor([0, 3, 5, 2])
LOSSES = {
    "mse": (nn.MSELoss(), x(4, 6), target(4, 6)),
    "mse, sum": (nn.MSELoss(reduction="sum"), x(4, 6), target(4, 6)),
    "mse, none": (nn.MSELoss(reduction="none"), x(4, 6), target(4, 6)),
    "l1": (nn.L1Loss(), x(4, 6), target(4, 6)),
    "smooth l1": (nn.SmoothL1Loss(), x(4, 6), target(4, 6)),
    "huber": (nn.HuberLoss(), x(4, 6), target(4, 6)),
    "cross entropy": (nn.CrossEntropyLoss(), x(4, 6), CLASSES),
    "cross entropy, smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), x(4, 6), CLASSES),
    "cross entropy, ignored": (nn.CrossEntropyLoss(ignore_index=3), x(4, 6), CLASSES),
    "cross entropy, weights": (nn.CrossEntropyLoss(torch.rand(6)), x(4, 6), CLASSES),
    "cross entropy, probabilities": (nn.CrossEntropyLoss(), x(4, 6), target(4, 6).softmax(-1)),
    "cross entropy 2d": (nn.CrossEntropyLoss(), x(4, 6, 2), CLASSES[:, None].expand(4, 2).contiguous()),
    "nll": (nn.NLLLoss(), x(4, 6), CLASSES),
    "bce": (nn.BCELoss(), vector(4, 6).sigmoid().requires_grad_(), target(4, 6).sigmoid()),
    "bce with logits": (nn.BCEWithLogitsLoss(), x(4, 6), target(4, 6).sigmoid()),
    "kl": (nn.KLDivLoss(reduction="batchmean"), x(4, 6), target(4, 6).softmax(-1)),
    "poisson": (nn.PoissonNLLLoss(), x(4, 6), target(4, 6).abs()),
    "hinge": (nn.HingeEmbeddingLoss(), x(4, 6), target(4, 6).sign()),
    "soft margin": (nn.SoftMarginLoss(), x(4, 6), target(4, 6).sign()),
    "multi label soft margin": (nn.MultiLabelSoftMarginLoss(), x(4, 6), (target(4, 6) > 0).float()),
    "multi margin": (nn.MultiMarginLoss(), x(4, 6), CLASSES),
    "cosine embedding": (nn.CosineEmbeddingLoss(), x(4, 6), x(4, 6, seed=2), target(4).sign()),
    "margin ranking": (nn.MarginRankingLoss(), x(4), x(4, seed=2), target(4).sign()),
    "triplet": (nn.TripletMarginLoss(), x(4, 6), x(4, 6, seed=2), x(4, 6, seed=3)),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    check(*LOSSES[name], native=name not in DIFFERENTIATED_BY_TORCH)


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
    check(*OPERATORS[name], native=name not in DIFFERENTIATED_BY_TORCH)
