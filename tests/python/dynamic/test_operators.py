"""One recording for all sizes, operator by operator: recorded at two sets of sizes and replayed at many others, with
sizes of 1, primes and sizes above those recorded among them; results are eager's, and so are strides and aliasing."""

import random

import pytest
import torch
from dynamic_testing import PythonBackend, assert_same_as_eager, recordings
from torch.nn import functional as F

import framejit

SIZES = 40


def sizes_for(name: str, rank: int, low: int = 1) -> list[tuple[int, ...]]:
    """The two recorded sets of sizes first; all ranks from a seed of the case."""
    generator = random.Random(name)
    extremes = [(low,) * rank, (31,) * rank, tuple(range(low + 1, low + 1 + rank))]
    return [(3, 4, 5)[:rank], (4, 6, 7)[:rank], *extremes] + [
        tuple(generator.choice((low, low + 1, 2 + low, 5, 7, 8, 11, 13, 16, 23)) for _ in range(rank))
        for _ in range(SIZES)
    ]


def tensor(*sizes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(sizes))
    return torch.randn(*sizes, generator=generator)


WEIGHT = tensor(6, 8)

# (function of one tensor of the given rank, rank). What reads sizes does so in ways that programs do.
CASES = {
    "pointwise": (lambda x: x.sin() * 2 + x.exp(), 3),
    "broadcast": (lambda x: x + x.sum(-1, keepdim=True), 3),
    "flatten": (lambda x: x.flatten(1).relu(), 3),
    "view_infer": (lambda x: x.view(x.shape[0], -1) * 2, 3),
    "view_all": (lambda x: (x * 2).view(x.shape[0] * x.shape[1], x.size(2)), 3),
    "reshape_product": (lambda x: x.reshape(x.numel()) + 1, 3),
    "transpose": (lambda x: x.transpose(1, 2).contiguous() + 1, 3),
    "transpose_view": (lambda x: x.transpose(0, 2), 3),
    "permute": (lambda x: x.permute(2, 0, 1) * 3, 3),
    "expand": (lambda x: x[:, None].expand(x.shape[0], 2, *x.shape[1:]) * 1, 3),
    "expand_as": (lambda x: x[:1].expand_as(x) + x, 2),
    "cat": (lambda x: torch.cat([x, x.cos()], dim=1), 3),
    "stack": (lambda x: torch.stack([x, x + 1]), 2),
    "unsqueeze": (lambda x: x.unsqueeze(1) * x.unsqueeze(2), 2),
    "slice_front": (lambda x: x[1:], 2),
    "slice_to_length": (lambda x: x[: x.shape[0] - 1] * 2, 2),
    "slice_halves": (lambda x: x[..., : x.shape[-1] // 2] + 1, 2),
    "rotate_half": (lambda x: torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1), 2),
    "narrow": (lambda x: x.narrow(0, 0, x.size(0) // 2) + 1, 2),
    "select_last": (lambda x: x[-1] + x[0], 2),
    "chunk_first": (lambda x: x.chunk(2, dim=0)[0] * 2, 2),
    "repeat": (lambda x: x.repeat(2, 1) - 1, 2),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=0) * 2, 2),
    "flip_roll": (lambda x: x.flip(0) + x.roll(1, 1), 2),
    "arange": (lambda x: x + torch.arange(x.shape[1]), 2),
    "causal": (lambda x: torch.ones(x.shape[1], x.shape[1]).tril() @ x.transpose(0, 1), 2),
    "mask": (lambda x: x.masked_fill(torch.arange(x.shape[1])[None] > x.shape[1] // 2, 0.0), 2),
    "new_zeros": (lambda x: torch.cat([x.new_zeros(x.shape[0], 1), x], 1), 2),
    "full": (lambda x: x * torch.full((x.shape[0], 1), 2.0), 2),
    "zeros_like": (lambda x: torch.zeros_like(x) + x.mean(), 2),
    "sum_all": (lambda x: x.sum(), 3),
    "mean": (lambda x: x.mean(1), 3),
    "scaled_by_size": (lambda x: x.sum(0) / x.shape[0], 2),
    "scaled_by_root": (lambda x: x * x.shape[-1] ** -0.5, 2),
    "amax": (lambda x: x.amax(dim=(0, 1)), 3),
    "var": (lambda x: x.var(-1, unbiased=False), 2),
    "argmax": (lambda x: x.argmax(-1), 2),
    "cumsum": (lambda x: x.cumsum(1), 2),
    "topk": (lambda x: x.topk(1).values, 2),
    "sort": (lambda x: x.sort(-1).values, 2),
    "softmax": (lambda x: x.softmax(-1), 3),
    "log_softmax": (lambda x: F.log_softmax(x, 0), 2),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:]), 3),
    "matmul": (lambda x: x @ x.transpose(-1, -2), 3),
    "bmm": (lambda x: torch.bmm(x, x.mT) * 2, 3),
    "addmm": (lambda x: torch.addmm(x, x @ x.T, x), 2),
    "einsum": (lambda x: torch.einsum("bij,bkj->bik", x, x), 3),
    "attention": (lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]), 3),
    "pad": (lambda x: F.pad(x, (1, 2)) + 1, 2),
    "tril": (lambda x: x.tril(), 2),
    "diagonal": (lambda x: (x @ x.T).diagonal(), 2),
    "where": (lambda x: torch.where(x > 0, x, x.mean()), 2),
    "gather": (lambda x: x.gather(0, torch.zeros(1, x.shape[1], dtype=torch.long)), 2),
    "index_add": (lambda x: torch.zeros(2, x.shape[1]).index_add(0, torch.zeros(x.shape[0], dtype=torch.long), x), 2),
    "unfold": (lambda x: x.unfold(1, 1, 1).sum(-1), 2),
    "interpolate": (lambda x: F.interpolate(x[None], scale_factor=2, mode="nearest"), 2),
    "written_inside": (lambda x: x.clone().mul_(2).add_(x.shape[0]), 2),
    "written_slice": (lambda x: _set_first_row(x.clone()), 2),
}


# One row has one chunk, any more have two: a tuple of another length, which the program could see.
RECORDINGS = {"chunk_first": 3}


def _set_first_row(x: torch.Tensor) -> torch.Tensor:
    x[0] = x.shape[1]
    return x


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("name", CASES)
def test_many_sizes(name, backend):
    function, rank = CASES[name]
    compiled = framejit.compile(function, backend=backend)
    for sizes in sizes_for(name, rank):
        assert_same_as_eager(compiled, function, tensor(*sizes))
    assert recordings(compiled) == RECORDINGS.get(name, 2)


@pytest.mark.parametrize("name", [None, "aot_eager"])
@pytest.mark.parametrize("case", CASES)
def test_modules(case, name):
    """0 and 1 are sizes of their own to torch's expressions, those of intermediate values, too."""
    function, rank = CASES[case]
    backend = PythonBackend(name)
    compiled = framejit.compile(function, backend=backend)
    for sizes in sizes_for(case, rank, low=2)[:20]:
        assert_same_as_eager(compiled, function, tensor(*sizes))
    assert recordings(compiled) == 2
    assert len(backend.modules) <= 4
    for sizes in sizes_for(case, rank)[:12]:
        assert_same_as_eager(compiled, function, tensor(*sizes))


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("channels", [3])
def test_image_sizes(channels, backend):
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2),
    ).eval()  # fmt: skip

    def function(x):
        return layers(x)

    compiled = framejit.compile(function, backend=backend)
    with torch.no_grad():
        for batch, height, width in sizes_for("image", 3, low=2):
            assert_same_as_eager(compiled, function, tensor(batch, channels, height, width))
    assert recordings(compiled) == 2


@pytest.mark.parametrize("backend", ["cpu", "interp"])
def test_embedding_and_linear(backend):
    table = tensor(50, 8)

    def function(ids):
        return F.linear(F.embedding(ids, table), WEIGHT)

    compiled = framejit.compile(function, backend=backend)
    for batch, length in sizes_for("embedding", 2):
        ids = torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(batch))
        assert_same_as_eager(compiled, function, ids)
    assert recordings(compiled) == 2
