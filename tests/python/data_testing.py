"""Programs whose sizes and numbers come of data."""

import math

import pytest
import torch
from dynamic_testing import traces


def data(seed: int, rows: int = 8) -> torch.Tensor:
    """Quarters, whose sums are exact in any order: what is told of a sum is a Python number, compared as such."""
    return torch.randint(-16, 17, (rows, 4), generator=torch.Generator().manual_seed(seed)) / 4


def returns_as_eager(compiled, function, *args) -> bool:
    """Whether eager mode returns, and does not raise RuntimeError. `compiled` has to do the same."""
    try:
        expected = function(*args)
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as raised:
            compiled(*args)
        assert str(raised.value) == str(error)
        return False
    assert torch.equal(compiled(*args), expected)
    return True


def breaks(compiled) -> list[str]:
    return [str(trace["break"]) for trace in traces(compiled) if trace["break"] is not None]


def scaled(x):
    scale = x.abs().sum().item()
    return (x * scale + 1).relu() / (scale + 1), scale


def counted(x):
    count = int((x > 0).sum())
    return x * count + count, count


def floated(x):
    mean = float(x.abs().mean())
    return x - mean, math.sqrt(mean + 1)


def counted_bool(x):
    return x + int((x > 2).any())


def rows_found(x):
    found = (x[:, 0] > 0).nonzero()
    return x[found[:, 0]] * 2, found.sum(0) + 1


def positions(x):
    return torch.argwhere(x > 0) + 1, torch.nonzero(x > 0, as_tuple=True)


def masked(x):
    kept = x[x[:, 1] > 0]
    return (kept * 2).sum(0), kept + 1, kept.shape[0]


def masked_twice(x):
    kept = x[x > -1]
    return kept[kept < 1].exp().sum(), kept.view(-1, 1).expand(-1, 3) + 1


def selected(x):
    return torch.masked_select(x, x > 0).cumsum(0), x[(x > 1) & (x < 3)].numel()


def unique(x):
    values = torch.unique((x * 2).round())
    return values * 2, values.numel()


def unique_variants(x):
    values, inverse, counts = torch.unique(x.round(), return_inverse=True, return_counts=True)
    rows, row_counts = torch.unique(x.sign(), dim=0, return_counts=True)
    return values[inverse], counts * 2, torch.unique_consecutive(x.flatten()) + 1, rows * 2, row_counts + 1


def repeated(x):
    y = torch.repeat_interleave(x, (x[:, 0] > 0).long() + 1, dim=0)
    return y * 2 + 1, y.shape[0] * 3


def repeated_alone(x):
    return torch.repeat_interleave((x[:, 0] > 0).long() * 2)


def listed(x):
    height, width = (x[:2, 0] * 4).long().abs().tolist()
    return x.new_zeros(height + 1, width + 1) + 1, height * width


def numbers_listed(x):
    return [number * 2 for number in x.abs().sum(1)[:2].tolist()]


def binned(x):
    return torch.bincount((x.flatten() * 4 + 16).long()) * 2


def made(x):
    count = int((x > 0).sum())
    return torch.arange(count) + 1, torch.zeros(count, 3) - 1, x.flatten()[:count], torch.full((2,), count)


def computed(x):
    count = (x > 0).sum().item()
    half, rest = divmod(count, 2)
    return torch.ones(half + 1, max(rest, 1)), min(half, 3), count / 2, -count, half**2


def a_loop(x):
    for _ in range(3):
        x = x / (x.abs().max().item() + 1)
    return x


def written(x):
    y = x.clone()
    y[y > 0] = 0
    y.add_(y.abs().sum().item())
    return y, y[y > 5] * 2


def padded(x):
    lengths = (x > 0).sum(1)
    longest = int(lengths.max())
    mask = torch.arange(longest + 1)[None, :] < lengths[:, None]
    return mask.float().softmax(-1), mask.sum(0)


def scattered(x):
    kept = (x[:, 2] > 0).nonzero().squeeze(1)
    out = torch.zeros_like(x)
    return out.index_add(0, kept, x[kept].tanh() * 3)


FUNCTIONS = [
    scaled, counted, floated, counted_bool, rows_found, positions, masked, masked_twice, selected, unique,
    unique_variants, repeated, repeated_alone, listed, numbers_listed, binned, made, computed, a_loop, written, padded,
    scattered,
]  # fmt: skip
