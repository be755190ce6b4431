"""Norms, losses, positions of extreme values and triangles, computed by kernels of our own: every value as eager's."""

import math

import pytest
import torch

import framejit

F = torch.nn.functional
WIDE = (torch.float32, torch.float64)
NARROW = (torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
INFINITY = math.inf


def values(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    made = torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return made.to(dtype) if dtype.is_floating_point else (made * 10).abs().to(dtype)


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    """The same values in order, transposed, and every other one of a larger tensor."""
    spread = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    spread[..., ::2] = x
    return [x, x.transpose(0, -1).contiguous().transpose(0, -1), spread[..., ::2]]


def compare(function, *inputs: torch.Tensor, kernels: int | None = None, exact: bool = False) -> None:
    with torch.no_grad():
        expected, got = function(*inputs), framejit.compile(function, fullgraph=True)(*inputs)
        plan = [line.strip() for line in str(framejit.explain(function)(*inputs)).splitlines()]
    if isinstance(expected, torch.Tensor):
        expected, got = (expected,), (got,)
    for want, have in zip(expected, got, strict=True):
        assert have.dtype == want.dtype and have.stride() == want.stride()
        if exact or not want.dtype.is_floating_point:
            torch.testing.assert_close(have, want, rtol=0, atol=0, equal_nan=True)
        else:
            rtol = {torch.float64: 1e-13, torch.float32: 3e-6}.get(want.dtype, 1e-2)
            torch.testing.assert_close(have, want, rtol=rtol, atol=rtol, equal_nan=True)
    if kernels is not None:
        made = [line for line in plan if line.startswith("kernel ") and line.endswith(" bytes")]
        called = [line for line in plan if line.startswith("call ") and " ns" not in line]
        assert (len(made), called) == (kernels, []), plan


def with_specials(x: torch.Tensor) -> torch.Tensor:
    """Rows that hold NaN, infinities, both of them, zeros of both signs, and only minus infinity."""
    x = x.clone()
    x[0, 3] = math.nan
    x[1, 2] = INFINITY
    x[2, 1] = -INFINITY
    x[3, 0], x[3, 4] = INFINITY, -INFINITY
    x[4] = 0.0
    x[4, ::2] = -0.0
    x[5] = -INFINITY
    x[6, 5], x[6, 2] = math.nan, INFINITY
    x[7] = x[7, 0]
    return x


@pytest.mark.parametrize("dtype", WIDE + NARROW)
@pytest.mark.parametrize("order", [2, 2.0, 1, INFINITY, -INFINITY])
def test_norms(dtype, order):
    for x in layouts(values(24, 40, dtype=dtype)):
        compare(lambda x: torch.linalg.vector_norm(x, order, dim=-1), x)
        compare(lambda x: torch.linalg.vector_norm(x * 2, order, dim=1, keepdim=True), x)
        compare(lambda x: torch.linalg.vector_norm(x, order), x)
        compare(lambda x: x / torch.linalg.vector_norm(x, order, dim=-1, keepdim=True), x)
    compare(lambda x: torch.linalg.vector_norm(x, order, dim=-1), with_specials(values(24, 40, dtype=dtype)), kernels=1)


def test_norms_of_other_orders_and_types():
    x = values(24, 40)
    for order in (0, 3, 0.5):
        compare(lambda x, order=order: torch.linalg.vector_norm(x, order, dim=-1), x)
    compare(lambda x: torch.linalg.vector_norm(x, 2, dim=-1, dtype=torch.float64), x)
    compare(lambda x: torch.linalg.vector_norm(x, 2, dim=(0, 2)), values(6, 7, 8))
    compare(lambda x: F.normalize(x, dim=-1), x)
    compare(lambda x, y: F.cosine_similarity(x, y), x, values(24, 40, seed=1))


@pytest.mark.parametrize("dtype", WIDE + NARROW + INTEGERS)
def test_logarithms_of_sums_of_exponentials(dtype):
    for x in layouts(values(24, 40, dtype=dtype)):
        compare(lambda x: torch.logsumexp(x, -1), x)
        compare(lambda x: torch.logsumexp(x * 2, 0, keepdim=True), x)
    if dtype.is_floating_point:
        compare(lambda x: torch.logsumexp(x, -1), with_specials(values(24, 40, dtype=dtype)))
    if dtype in WIDE:
        compare(lambda x: torch.logsumexp(x * 300, -1), values(24, 40, dtype=dtype), kernels=1)


@pytest.mark.parametrize("dtype", WIDE + NARROW + INTEGERS)
@pytest.mark.parametrize("function", [torch.max, torch.min])
def test_extreme_values_and_their_positions(dtype, function):
    for x in layouts(values(24, 40, dtype=dtype)):
        compare(lambda x: tuple(function(x, -1)), x, exact=True)
        compare(lambda x: tuple(function(x, 0, keepdim=True)), x, exact=True)
        compare(lambda x: function(x, 1)[1], x, exact=True)
    compare(lambda x: tuple(function(x + x, -1)), values(24, 40, dtype=dtype), exact=True, kernels=1)
    if dtype.is_floating_point:
        compare(lambda x: tuple(function(x, -1)), with_specials(values(24, 40, dtype=dtype)), exact=True, kernels=1)
    compare(lambda x: tuple(function(x, 0)), values(3, dtype=dtype).sum(), exact=True)


@pytest.mark.parametrize("dtype", WIDE + NARROW + INTEGERS)
def test_products(dtype):
    x = (values(24, 7, dtype=dtype) / 4).to(dtype)
    compare(lambda x: x.prod(1), x, kernels=1)
    compare(lambda x: (x + 1).prod(1, keepdim=True), x)
    compare(lambda x: x.prod(), x[:2])
    if dtype in WIDE:
        compare(lambda x: x.prod(1), with_specials(x))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", WIDE + NARROW)
def test_losses(dtype, reduction):
    x, y = values(24, 40, dtype=dtype), values(24, 40, dtype=dtype, seed=1)
    fused = 1 if dtype in WIDE and reduction != "none" else None
    compare(lambda x, y: F.mse_loss(x, y * 2, reduction=reduction), x, y, kernels=fused)
    compare(lambda x, y: F.mse_loss(x * 2, y, reduction=reduction), x, y, kernels=fused)
    logits = lambda x, y: F.binary_cross_entropy_with_logits(x, (y > 0).to(x.dtype), reduction=reduction)  # noqa: E731
    compare(logits, x, y, kernels=fused)
    compare(logits, x * 1000, y)
    compare(logits, with_specials(x), y)
    weight = values(40, dtype=dtype, seed=2).abs()
    compare(
        lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, w, reduction=reduction, pos_weight=w), x, y, weight
    )


@pytest.mark.parametrize("dtype", WIDE + NARROW + INTEGERS + (torch.bool,))
@pytest.mark.parametrize("function", [torch.tril, torch.triu])
def test_triangles(dtype, function):
    for sizes in ((24, 40), (40, 24), (3, 17, 17)):
        x = values(*sizes).bool() if dtype == torch.bool else values(*sizes, dtype=dtype)
        for diagonal in (0, 1, -3, 100, -100):
            compare(lambda x, diagonal=diagonal: function(x, diagonal), x, exact=True, kernels=1)
    if dtype.is_floating_point:
        compare(lambda x: function(x) * 2, with_specials(values(24, 40, dtype=dtype)), exact=True, kernels=1)
        compare(lambda x: function(x.t()), with_specials(values(24, 40, dtype=dtype)), exact=True)


@pytest.mark.parametrize("dtype", WIDE + NARROW + INTEGERS)
def test_x_times_a_logarithm(dtype):
    if dtype.is_floating_point:
        grid = torch.tensor([0.0, -0.0, 1.0, 2.5, -1.0, INFINITY, -INFINITY, math.nan, 1e-30], dtype=dtype)
    else:
        grid = torch.arange(9, dtype=dtype)
    compare(lambda x, y: torch.xlogy(x, y), grid[:, None].expand(9, 9).contiguous(), grid.repeat(9, 1))
    compare(lambda x, y: torch.xlogy(x, y) + 1, values(24, 40, dtype=dtype), values(24, 40, dtype=dtype, seed=1).abs())


def test_divergences():
    x, y = values(24, 40), values(24, 40, seed=1)
    compare(lambda x, y: F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction="batchmean"), x, y)


@pytest.mark.parametrize("function", [torch.max, torch.min, torch.amax, torch.argmax, torch.logsumexp])
def test_nothing_to_reduce_is_eagers_error(function):
    x = torch.zeros(3, 0)
    errors = []
    for run in (function, framejit.compile(lambda x, dim: function(x, dim))):
        try:
            errors.append(run(x, 1))
        except (IndexError, RuntimeError) as error:
            errors.append((type(error), str(error)))
    if isinstance(errors[0], torch.Tensor):
        torch.testing.assert_close(errors[1], errors[0], rtol=0, atol=0)
    else:
        assert errors[0] == errors[1]
