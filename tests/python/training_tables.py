"""Layers and losses that training is tested with: what makes them, and examples of what they are given."""

import torch
import torch.nn.functional as F
from framejit_testing import vector
from torch import nn


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
    "transformer encoder", "multi margin", "prod", "max of all", "cumprod", "median", "masked scatter",
    "masked fill by a tensor",
}  # fmt: skip
# On GPUs their formulas look at no data.
NATIVE_ON_GPUS = {"transformer encoder", "max of all", "median"}


def is_native(name: str) -> bool:
    """Whether the case has a backward of our own on the default device."""
    on_gpu = torch.get_default_device().type == "cuda"
    return name not in DIFFERENTIATED_BY_TORCH or (on_gpu and name in NATIVE_ON_GPUS)


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
