"""A property of each structural operation: recorded with open sizes and numbers, and replayed at a hundred others drawn
at random, among them 0 and 1, it gives what eager gives: values, sizes, strides, which memory the results are in, what
is written to inputs, and exceptions. How often it was recorded is bounded; sizes that a recording does not hold for are
recorded again, which the comparison shows as well."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from dynamic_testing import traces
from torch.nn import functional as F

import framejit

DRAWS = 100


class Draw:
    """Sizes, numbers and tensors of one call."""

    def __init__(self, seed: str):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(self.random.randrange(2**31))

    def size(self, low: int = 1, high: int = 9) -> int:
        return self.random.randint(low, high)

    def tensor(self, *sizes: int) -> torch.Tensor:
        """Contiguous, transposed, or every second one of a larger tensor."""
        layout = self.random.randrange(4)
        if layout == 0 and len(sizes) >= 2:
            return torch.randn(*sizes[:-2], sizes[-1], sizes[-2], generator=self.generator).transpose(-1, -2)
        if layout == 1 and sizes:
            return torch.randn(*sizes[:-1], 2 * sizes[-1], generator=self.generator)[..., ::2]
        return torch.randn(*sizes, generator=self.generator)

    def of_rank(self, rank: int, low: int = 1) -> torch.Tensor:
        return self.tensor(*(self.size(low) for _ in range(rank)))

    def indices(self, count: int, below: int) -> torch.Tensor:
        return torch.randint(0, below, (count,), generator=self.generator)


@dataclass
class Case:
    draw: Callable[[Draw], tuple]
    function: Callable
    recordings: int = 4  # at most


def writes_slice(x, a, b):
    x[a:b] = a
    return x[b:] * 2


def writes_view(x):
    y = x.transpose(0, -1)
    y.mul_(2)
    return y


def rows(low=1, rank=2, *numbers):
    """A tensor of that rank and numbers in ranges."""
    return lambda d: (d.of_rank(rank, low), *(d.size(*limits) for limits in numbers))


def halves(d):
    batch, width = d.size(), d.size()
    return (d.tensor(batch, 2 * width),)


def products(d):
    a, b, c = d.size(), d.size(), d.size()
    return d.tensor(d.size(), a, b), d.tensor(b, c)


def image(d):
    return (d.tensor(d.size(1, 3), 4, d.size(5, 14), d.size(5, 14)),)


def with_indices(d):
    x = d.of_rank(2)
    return x, d.indices(d.size(), x.shape[0])


KERNEL, WEIGHT = torch.randn(6, 4, 3, 3), torch.randn(6, 8)

CASES = {
    "view": Case(lambda d: (d.of_rank(3).contiguous(),), lambda x: x.view(x.shape[0] * x.shape[1], x.shape[2])),
    # Where eager raises, so does each recording, for these sizes.
    "view_of_strided": Case(rows(1, 3), lambda x: x.view(x.shape[0], -1), DRAWS),
    "view_unknown": Case(rows(0, 2), lambda x: x.contiguous().view(-1)),
    "view_of_product": Case(lambda d: (d.of_rank(2).contiguous(),), lambda x: x.view(x.numel(), 1) * 2),
    "reshape": Case(rows(1, 3), lambda x: x.reshape(x.shape[0], -1)),
    "reshape_to_numbers": Case(
        lambda d: (lambda a, b, c: (d.tensor(a * b, c), a, b))(d.size(), d.size(), d.size()),
        lambda x, a, b: x.reshape(a, b, -1),
    ),
    "flatten": Case(rows(0, 3), lambda x: x.flatten(1)),
    "unflatten": Case(halves, lambda x: x.unflatten(1, (2, x.shape[1] // 2))),
    "expand": Case(rows(1, 2, (1, 9)), lambda x, n: x[:, None].expand(-1, n, -1)),
    "expand_and_write": Case(rows(1, 2, (1, 9)), lambda x, n: x[None].expand(n, *x.shape).clone().add_(n)),
    "broadcast_to": Case(rows(1, 2, (1, 9)), lambda x, n: torch.broadcast_to(x, (n, *x.shape)) + 1),
    "expand_as": Case(rows(1, 3), lambda x: x[:1].expand_as(x) * x),
    "split": Case(rows(3, 2, (1, 3)), lambda x, n: x.split(n)[0] + 1, 20),
    "split_sizes": Case(rows(2, 2), lambda x: [part * 2 for part in x.split([1, x.shape[0] - 1])]),
    "chunk": Case(rows(1, 2), lambda x: x.chunk(3, dim=1)[-1] + 1, 5),
    "tensor_split": Case(rows(1, 2, (0, 4)), lambda x, n: torch.tensor_split(x, (n,), dim=0)[1] + 1),
    "unbind": Case(lambda d: (d.tensor(d.size(), 3, d.size()),), lambda x: torch.stack(x.unbind(1))),
    "cat": Case(
        lambda d: (lambda n: (d.tensor(n, d.size(0)), d.tensor(n, d.size(0))))(d.size()),
        lambda x, y: torch.cat([x, y], 1),
    ),
    "cat_of_itself": Case(rows(0, 2), lambda x: torch.cat([x, x[:1], x * 2])),
    "stack": Case(rows(0, 2), lambda x: torch.stack([x, x.cos()], dim=-1)),
    "hstack": Case(rows(1, 2), lambda x: torch.hstack([x, x[:, :1]])),
    "pad": Case(rows(1, 2, (0, 3), (0, 3)), lambda x, a, b: F.pad(x, (a, b), value=1.5)),
    "pad_negative": Case(rows(5, 2, (-2, 2)), lambda x, a: F.pad(x, (a, 1))),
    "pad_reflect": Case(rows(4, 3, (0, 3)), lambda x, a: F.pad(x, (a, a), mode="reflect")),
    "pad_replicate": Case(rows(1, 3, (0, 3)), lambda x, a: F.pad(x, (a, 0), mode="replicate")),
    "narrow": Case(rows(4, 2, (0, 2), (0, 2)), lambda x, a, n: x.narrow(0, a, n)),
    "slice": Case(rows(0, 2, (-10, 10), (-10, 10)), lambda x, a, b: x[a:b]),
    "slice_with_step": Case(rows(0, 2, (0, 5), (1, 4)), lambda x, a, s: x[a::s, ::2] * 2),
    "slice_to_size": Case(rows(1, 2), lambda x: x[: x.shape[1], x.shape[0] // 2 :]),
    "select": Case(rows(4, 2, (-4, 3)), lambda x, i: x[i]),
    "select_out_of_range": Case(rows(1, 2, (-4, 3)), lambda x, i: x[i], DRAWS),
    "index": Case(with_indices, lambda x, i: x[i]),
    "index_select": Case(with_indices, lambda x, i: x.index_select(0, i) + 1),
    "index_put": Case(with_indices, lambda x, i: x.clone().index_put_((i,), torch.tensor(2.0))),
    "index_add": Case(with_indices, lambda x, i: x.index_add(0, i, x[i])),
    "gather": Case(with_indices, lambda x, i: x.gather(0, i[:, None].expand(-1, x.shape[1]))),
    "scatter": Case(with_indices, lambda x, i: x.scatter(0, i[:, None].expand(-1, x.shape[1]), 1.5)),
    "take_along": Case(rows(1, 2), lambda x: x.take_along_dim(x.argsort(1), 1)),
    "repeat": Case(rows(0, 2, (1, 3), (1, 3)), lambda x, a, b: x.repeat(a, b)),
    "tile": Case(rows(1, 2, (1, 3)), lambda x, a: x.tile((a, 1, 2))),
    "repeat_interleave": Case(rows(1, 2, (1, 4)), lambda x, n: x.repeat_interleave(n, dim=1)),
    "arange": Case(rows(1, 1, (0, 5), (1, 3)), lambda x, a, s: torch.arange(a, a + x.shape[0] * s, s) + x),
    "arange_of_size": Case(rows(0, 2), lambda x: torch.arange(x.shape[0])[:, None] + x),
    "linspace": Case(rows(1, 1), lambda x: torch.linspace(0, 1, x.shape[0]) * x),
    "eye": Case(rows(1, 2), lambda x: torch.eye(x.shape[0]) @ x),
    "full": Case(rows(0, 2, (0, 5)), lambda x, n: torch.full((x.shape[1], n), n) + 0.5),
    "new_zeros": Case(rows(0, 2, (0, 5)), lambda x, n: x.new_zeros(n, *x.shape)),
    "empty_strided": Case(rows(1, 2), lambda x: torch.empty_strided(x.shape, (1, x.shape[0])).copy_(x)),
    "conv2d": Case(image, lambda x: F.conv2d(x, KERNEL, padding=1)),
    "conv2d_strided": Case(lambda d: (*image(d), d.size(1, 3)), lambda x, s: F.conv2d(x, KERNEL, stride=s)),
    "conv1d": Case(image, lambda x: F.conv1d(x.flatten(2), KERNEL[:, :, 0], dilation=2)),
    "conv_transpose": Case(image, lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1).contiguous(), stride=2)),
    "max_pool": Case(lambda d: (*image(d), d.size(1, 3)), lambda x, k: F.max_pool2d(x, k)),
    "avg_pool": Case(image, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    "adaptive_pool": Case(lambda d: (*image(d), d.size(1, 4)), lambda x, n: F.adaptive_avg_pool2d(x, n)),
    "interpolate_size": Case(
        lambda d: (*image(d), d.size(3, 9)), lambda x, n: F.interpolate(x, (n, x.shape[3]), mode="nearest")
    ),
    "interpolate_scale": Case(image, lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear")),
    "pixel_shuffle": Case(image, lambda x: F.pixel_shuffle(x, 2)),
    "unfold_windows": Case(rows(3, 2, (1, 3), (1, 2)), lambda x, n, s: x.unfold(0, n, s)),
    "unfold_images": Case(image, lambda x: F.unfold(x, 3, padding=1)),
    "fold": Case(
        image, lambda x: F.fold(F.unfold(x, 2, stride=2), (x.shape[2] // 2 * 2, x.shape[3] // 2 * 2), 2, stride=2)
    ),
    "einsum": Case(products, lambda x, y: torch.einsum("bij,jk->bki", x, y)),
    "einsum_trace": Case(rows(1, 2), lambda x: torch.einsum("ij,kj->ik", x, x)),
    "matmul": Case(products, lambda x, y: x @ y),
    "matmul_broadcast": Case(rows(1, 3), lambda x: x[:, None] @ x.transpose(-1, -2)),
    "matmul_vector": Case(rows(1, 2), lambda x: x @ x[0]),
    "mismatch": Case(lambda d: (d.of_rank(2), d.of_rank(2)), lambda x, y: x @ y, DRAWS),
    "linear": Case(lambda d: (d.tensor(d.size(0), d.size(), 8),), lambda x: F.linear(x, WEIGHT)),
    "as_strided": Case(rows(3, 2), lambda x: x.contiguous().as_strided((x.shape[0] - 1, 2), (x.shape[1], 1))),
    "squeeze": Case(rows(1, 3), lambda x: x[:, :1].squeeze(1)),
    "squeeze_any": Case(rows(1, 3), lambda x: x.squeeze(), 9),
    "unsqueeze": Case(rows(0, 2), lambda x: x.unsqueeze(-1).unsqueeze(0)),
    "permute": Case(rows(0, 3), lambda x: x.permute(2, 0, 1).contiguous()),
    "movedim": Case(rows(1, 3), lambda x: x.movedim(0, -1)),
    "transpose_view": Case(rows(1, 3), lambda x: x.transpose(1, 2).reshape(x.shape[0], -1)),
    "contiguous": Case(rows(1, 2), lambda x: x.contiguous() + 1),
    "flip": Case(rows(0, 2), lambda x: x.flip(0, 1)),
    "roll": Case(rows(1, 2, (-3, 3)), lambda x, n: x.roll(n, 1)),
    "rot90": Case(rows(1, 2), lambda x: x.rot90()),
    "tril": Case(rows(0, 2, (-3, 3)), lambda x, n: x.tril(n)),
    "diagonal": Case(rows(1, 2), lambda x: x.diagonal() + 1),
    "diag_embed": Case(rows(1, 2), lambda x: torch.diag_embed(x)),
    "meshgrid": Case(rows(1, 2), lambda x: torch.meshgrid(x[0], x[:, 0], indexing="ij")),
    "outer": Case(rows(1, 2), lambda x: torch.outer(x[0], x[:, 0])),
    "kron": Case(rows(1, 2), lambda x: torch.kron(x, x)),
    "cdist": Case(rows(1, 2), lambda x: torch.cdist(x, x)),
    "sort": Case(rows(1, 2), lambda x: x.sort(dim=0)),
    "topk": Case(rows(3, 2, (1, 3)), lambda x, n: x.topk(n, dim=0)),
    "cumsum": Case(rows(0, 2), lambda x: x.cumsum(0)),
    "mean_of_all": Case(rows(1, 3), lambda x: x.mean() + x.sum() / x.shape[0]),
    "softmax": Case(rows(1, 3), lambda x: x.softmax(-1)),
    "where": Case(rows(0, 2), lambda x: torch.where(torch.arange(x.shape[1]) < x.shape[1] // 2, x, 0.0)),
    "masked_fill": Case(rows(1, 2), lambda x: x.masked_fill(torch.ones_like(x, dtype=torch.bool).triu(), 0.5)),
    "attention": Case(rows(1, 3), lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)),
    "writes_slice": Case(rows(4, 2, (0, 2), (2, 4)), writes_slice),
    "writes_view": Case(rows(1, 2), writes_view),
    # Views that torch's autograd knows as special ones are recorded for given sizes.
    "returns_parts": Case(rows(2, 2), lambda x: x.split([1, x.shape[0] - 1])),
    "returns_chunks": Case(rows(2, 2), lambda x: (x + 1).chunk(2)),
    "returns_columns": Case(lambda d: (d.tensor(d.size(), 3, d.size()),), lambda x: x.unbind(1)),
    "returns_one_part": Case(rows(2, 2), lambda x: (x.split([1, x.shape[0] - 1])[1], x * 2)),
    "writes_where_it_is_contiguous": Case(rows(1, 2), lambda x: x.reshape(-1).add_(1), 5),
}


def outcome(function, arguments):
    """What a call gave, or the class of its exception; and what it made of its arguments."""
    arguments = [a.clone(memory_format=torch.preserve_format) if isinstance(a, torch.Tensor) else a for a in arguments]
    try:
        results = function(*arguments)
    except (RuntimeError, IndexError, ValueError) as error:
        return type(error), [], arguments
    found = list(results) if isinstance(results, (tuple, list)) else [results]
    own = [argument.untyped_storage().data_ptr() for argument in arguments if isinstance(argument, torch.Tensor)]
    storages = [result.untyped_storage().data_ptr() for result in found]
    shared = [(storage in own, storages.index(storage)) for storage in storages if storage]
    return type(results), found, [*arguments, shared]


def assert_same_tensor(actual, expected, where):
    assert (actual.dtype, actual.shape, actual.stride()) == (expected.dtype, expected.shape, expected.stride()), where
    torch.testing.assert_close(
        actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda text: f"{where}: {text}"
    )


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    case = CASES[name]
    compiled = framejit.compile(case.function, dynamic=True, options={"recompile_limit": DRAWS})
    for number in range(DRAWS):
        arguments = case.draw(Draw(f"{name} {number}"))
        where = f"call {number}: {[tuple(a.shape) if isinstance(a, torch.Tensor) else a for a in arguments]}"
        with framejit.disable():
            kind, expected, after = outcome(case.function, arguments)
        actual_kind, actual, actual_after = outcome(compiled, arguments)
        assert actual_kind is kind, where
        for ours, theirs in zip([*actual, *actual_after], [*expected, *after], strict=True):
            if isinstance(theirs, torch.Tensor):
                assert_same_tensor(ours, theirs, where)
            else:
                assert ours == theirs, where
    found = traces(compiled)
    assert len(found) <= case.recordings, [trace["demands"] for trace in found]
    assert case.recordings == DRAWS or any(trace["size_variants"] > 1 for trace in found)
