"""Kernels that are cut into parts, walk tiles or reduce to positions: values as eager has them, how many kernels."""

import pytest
import torch

import framejit

F = torch.nn.functional
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True, params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request):
    """Each test runs on each device: it is the default one, for what `values` and the tests make."""
    if request.param == "cuda":
        torch.set_default_device("cuda")
    yield request.param
    torch.set_default_device(None)


def values(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """The same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    cpu = {"generator": generator, "device": "cpu"}
    if dtype == torch.bool:
        made = torch.rand(sizes, **cpu) > 0.5
    elif not dtype.is_floating_point:
        made = torch.randint(-100, 100, sizes, **cpu).to(dtype)
    else:
        made = (torch.randn(sizes, dtype=torch.float64, **cpu) * 2).to(dtype)
    return made.to(torch.get_default_device())


def compare(function, *inputs: torch.Tensor, exact: bool = False, fused: bool = True) -> str:
    """Checks the compiled function against eager; returns what explain() says of it. `fused`: all of it is kernels."""
    with torch.no_grad():
        expected, got = function(*inputs), framejit.compile(function)(*inputs)
        text = str(framejit.explain(function)(*inputs))
    assert got.dtype == expected.dtype and got.stride() == expected.stride()
    if exact or not expected.dtype.is_floating_point:
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    else:
        largest = expected.double().nan_to_num().abs().max().item()
        bound = {torch.float64: 1e-13, torch.float32: 1e-5}.get(expected.dtype, 1e-2) * largest
        torch.testing.assert_close(got, expected, rtol=0, atol=bound, equal_nan=True)
    assert not (fused and lines(text, "call ")), text
    return text


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith(start)]


def kernels(text: str) -> int:
    return len(lines(text, "kernel "))


@pytest.mark.parametrize("dtype", FLOATS)
def test_cubes(device, dtype):
    """Eager rounds the square of narrow types; on the CPU its kernel for float16 is a general power."""
    x = torch.cat([values(5000, dtype=dtype) * 20, torch.tensor([0.0, -0.0, 1e30, -1e30, 1e-20]).to(dtype)])
    x = torch.cat([x, torch.tensor([float("nan"), float("inf"), float("-inf")], dtype=dtype)])
    by_torch = dtype == torch.float16 and device == "cpu"
    for function in (lambda x: x.pow(3), lambda x: 0.5 + x**3.0):
        text = compare(function, x, exact=True, fused=not by_torch)
        assert bool(lines(text, "call ")) == by_torch, text


# --- positions of extreme values ---


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32, torch.int64, torch.int16, torch.uint8])
@pytest.mark.parametrize("sizes", [(5, 33), (3, 4, 7), (2, 1000), (40, 24)])
def test_argmax(dtype, sizes):
    x = (values(*sizes) * 3).round().to(dtype)  # with ties
    for dim in range(len(sizes)):
        for keep in (True, False):
            compare(lambda x: x.argmax(dim, keep), x, fused=dim == len(sizes) - 1)
            compare(lambda x: x.argmin(dim, keep), x, fused=dim == len(sizes) - 1)


def test_argmax_takes_the_first_nan():
    x = values(6, 50)
    x[1, 7] = x[1, 30] = x[4, 49] = x[5, 0] = float("nan")
    x[2] = float("-inf")
    compare(lambda x: x.argmax(-1), x)
    compare(lambda x: x.argmin(-1), x)
    compare(lambda x: x.argmax(0), x)


def test_argmax_of_everything():
    compare(lambda x: (x * 2).argmax(), values(100))
    with torch.no_grad():
        x = values(7, 9)
        assert framejit.compile(lambda x: x.argmax())(x) == x.argmax()


def test_argmax_behind_a_softmax():
    assert kernels(compare(lambda x: torch.softmax(x, -1).argmax(-1), values(8, 300))) == 1


# --- columns, walked once per part ---


def standardise(x):
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


@pytest.mark.parametrize("dtype", FLOATS[:2])
@pytest.mark.parametrize("sizes", [(129, 16), (1000, 100), (300, 5, 17), (2000, 1024)])
def test_standardised_columns(device, dtype, sizes):
    text = compare(standardise, values(*sizes, dtype=dtype))
    assert kernels(text) == 1
    assert device != "cpu" or "in 3 parts" in text


@pytest.mark.parametrize("sizes", [(200, 33), (3, 150, 40), (1, 129, 64)])
def test_softmax_over_columns(device, sizes):
    text = compare(lambda x: torch.softmax(x * 0.5, dim=-2), values(*sizes))
    assert kernels(text) == 1
    assert device != "cpu" or "in 3 parts" in text


def test_short_columns_stay_whole():
    assert "parts" not in compare(standardise, values(64, 100))


# --- long rows, reduced in pieces ---

LONG = 1 << 17


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * x).sum(),
        lambda x: x.mean(),
        lambda x: x.amax(),
        lambda x: x.std(),
        lambda x: (x - x.mean()) / (x.std() + 1e-6),
        lambda x: torch.softmax(x.flatten(), 0),
        lambda x: torch.log_softmax(x.flatten(), 0),
        lambda x: F.mse_loss(x, x * 0.5 + 1),
        lambda x: F.layer_norm(x.flatten(), (x.numel(),)),
        lambda x: x.flatten().argmax(),
    ],
)
@pytest.mark.parametrize("sizes", [(LONG,), (256, 515), (2, 3, 5, 7, 11, 13, 7)])
def test_long_rows(function, sizes):
    compare(function, values(*sizes))


def test_a_few_long_rows():
    text = compare(lambda x: torch.softmax(x, -1), values(3, LONG))
    assert "in 5 parts" in text, "two reductions, each in pieces and combined, and what is written"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.bool])
def test_long_sums_of_other_types(dtype):
    compare(lambda x: x.sum(), values(256, 512, dtype=dtype))


def test_nan_in_a_long_row():
    x = values(LONG)
    x[77777] = float("nan")
    compare(lambda x: x.amax(), x)
    compare(lambda x: x.argmax(), x)


def test_a_row_of_prime_length_is_left_to_torch():
    x = values(131071)
    with torch.no_grad():
        assert lines(str(framejit.explain(lambda x: x.sum())(x)), "call aten::sum")


# --- transposed operands, walked in tiles ---


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.int16, torch.bool])
@pytest.mark.parametrize("sizes", [(130, 200), (96, 1024), (1024, 96), (71, 263), (64, 65)])
def test_transposed(dtype, sizes):
    assert kernels(compare(lambda x: x.t().contiguous(), values(*sizes, dtype=dtype), exact=True)) == 1


def test_transposed_beside_others():
    x, y, bias = values(200, 320), values(320, 200, seed=1), values(200, seed=2)
    assert kernels(compare(lambda x, y, b: torch.tanh(x.t()) + y * b, x, y, bias)) == 1
    assert kernels(compare(lambda x, y, b: torch.tanh(x + y.t()) * b[:, None], x, y, bias)) == 1


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (3, 2, 1, 0), (0, 3, 1, 2), (0, 2, 3, 1), (1, 3, 0, 2)])
def test_permuted(order):
    x = values(3, 40, 10, 136)
    compare(lambda x: (x.permute(order) * 2).contiguous(), x, exact=True)


def test_positions_in_tiles():
    def function(x):
        rows, columns = torch.arange(x.shape[1])[:, None], torch.arange(x.shape[0])
        return x.t().contiguous() * 2 + (rows * 1000 + columns)

    compare(function, values(128, 192), exact=True)


# --- losses ---


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", FLOATS[:2])
def test_gradient_of_cross_entropy(reduction, dtype):
    target = torch.tensor([3, 0, 49, -100, 7, 7, -100, 12])
    logits = values(8, 50, dtype=dtype)

    def step(logits):
        loss = F.cross_entropy(logits * 2, target, reduction=reduction)
        return loss.sum() if reduction == "none" else loss

    expected, got = (logits.clone().requires_grad_() for _ in range(2))
    step(expected).backward()
    framejit.compile(step)(got).backward()
    torch.testing.assert_close(got.grad, expected.grad, rtol=1e-5, atol=1e-6)
    assert not got.grad[3].any()


def test_all_targets_ignored():
    target = torch.full((4,), -100)
    expected, got = (values(4, 9).requires_grad_() for _ in range(2))
    F.cross_entropy(expected, target).backward()
    framejit.compile(lambda x: F.cross_entropy(x, target))(got).backward()
    torch.testing.assert_close(got.grad, expected.grad, equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy(reduction, dtype):
    target = torch.tensor([3, 0, 49, -100, 7, 7, -100, 12])
    logits = values(8, 50, dtype=dtype)

    def loss(x):
        return F.cross_entropy(x * 2, target, reduction=reduction)

    with torch.no_grad():
        torch.testing.assert_close(framejit.compile(loss)(logits), loss(logits))


def test_rows_of_cross_entropy_are_one_kernel():
    logits, target = values(64, 1000), torch.arange(64)
    with torch.no_grad():
        text = str(framejit.explain(lambda x, t: F.cross_entropy(x, t))(logits, target))
    assert lines(text, "kernel _log_softmax gather") and not lines(text, "call aten::gather")


@pytest.mark.parametrize("sizes", [(3, 131071), (8, 2), (5, 1), (1, 40)])
def test_cross_entropy_of_odd_shapes(sizes):
    logits, target = values(*sizes), torch.full((sizes[0],), sizes[1] - 1)
    target[0] = -100
    with torch.no_grad():
        for loss in (F.cross_entropy, lambda x, t: F.nll_loss(F.log_softmax(x, -1), t, reduction="sum")):
            torch.testing.assert_close(framejit.compile(loss)(logits, target), loss(logits, target), equal_nan=True)


@pytest.mark.parametrize("wrong", [50, -1, 1 << 33])
def test_targets_out_of_bounds_raise(device, wrong):
    if device == "cuda":
        pytest.skip("a failed assertion on a GPU, which is what eager makes of it, ends all use of the GPU")
    logits, target = values(8, 50), torch.tensor([3, 0, 49, 1, 7, 7, 2, 12])
    compiled = framejit.compile(lambda x, t: F.cross_entropy(x, t))
    with torch.no_grad():
        compiled(logits, target)
        target[5] = wrong
        with pytest.raises(IndexError) as expected:
            F.cross_entropy(logits, target)
        with pytest.raises(IndexError) as got:
            compiled(logits, target)
    assert str(got.value).splitlines()[0] == str(expected.value).splitlines()[0]


# --- scans ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("sizes", [(17, 33), (8, 1000), (5,), (3, 4, 1), (1, 70000)])
def test_cumsum(device, dtype, sizes):
    x = values(*sizes, dtype=dtype)
    for dim in range(len(sizes)):
        compiled = framejit.compile(lambda x: (x * 2).cumsum(dim) + 1)
        with torch.no_grad():
            expected, tolerance = (x * 2).cumsum(dim) + 1, {"rtol": 0, "atol": 0}
            # On the CPU each sum is the one before it and one number more; on a GPU eager mode adds up in an order of
            # its own, and where numbers cancel out, errors are relative to the largest sum.
            if device == "cuda" and dtype.is_floating_point:
                expected = ((x.double() * 2).cumsum(dim) + 1).to(dtype)
                error = torch.finfo(dtype).eps * sizes[dim] ** 0.5
                tolerance = {"rtol": 0, "atol": error * float(expected.abs().max())}
            torch.testing.assert_close(compiled(x), expected, **tolerance)


# --- concatenations inside kernels ---


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotary_embedding(dtype):
    x, cos, sin = (
        values(2, 3, 7, 20, dtype=dtype),
        values(7, 20, dtype=dtype, seed=1),
        values(7, 20, dtype=dtype, seed=2),
    )
    text = compare(lambda x, cos, sin: x * cos + rotate_half(x) * sin, x, cos, sin)
    assert kernels(text) == 1 and " parts" not in text, "both halves are made at once"


def test_rotary_embedding_of_something_computed():
    x, cos, sin = values(2, 3, 7, 20), values(7, 20, seed=1), values(7, 20, seed=2)

    def function(x, cos, sin):
        scaled = x * 2 + 1
        return scaled * cos + rotate_half(scaled) * sin

    assert kernels(compare(function, x, cos, sin)) == 2, "what the halves are taken from is made first"


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_concatenation(dim):
    sizes = [[4, 5, 6] for _ in range(3)]
    for i, size in enumerate(sizes):
        size[dim] = (3, 1, 9)[i]
    x, y, z = (values(*size, seed=i) for i, size in enumerate(sizes))
    text = compare(lambda x, y, z: torch.cat((x * 2, y, torch.tanh(z) - z), dim) * 3 + 1, x, y, z)
    assert kernels(text) == 1 and "in 3 parts" in text
    compare(lambda x, y, z: torch.relu(torch.cat((x.exp(), x.exp(), y, z), dim)), x, y, z)


def test_concatenation_of_views_and_broadcasts():
    x, y = values(8, 30), values(8, 1, seed=1)
    compare(lambda x, y: torch.cat((x[:, 10:], x[:, :10] * y, y), 1) + y, x, y)
    compare(lambda x, y: torch.cat((x.t()[10:], x.t()[:10] * 2), 0).relu(), x, y)
    compare(lambda x, y: torch.cat((y.expand(8, 5), x), 1) * 2, x, y)


def test_concatenation_of_parts_of_one_value():
    def function(x):
        y = x * 2
        return torch.cat((y[:, 5:], y[:, :5]), 1) + y

    compare(function, values(6, 12))


def test_concatenation_that_is_returned_and_read():
    x, y = values(6, 12), values(6, 8, seed=1)

    def function(x, y):
        joined = torch.cat((x + 1, y), 1)
        return joined, joined * joined.sum(1, keepdim=True), joined[:, 3:15] - 1

    with torch.no_grad():
        for got, expected in zip(framejit.compile(function)(x, y), function(x, y), strict=True):
            torch.testing.assert_close(got, expected)


def test_operand_of_a_concatenation_that_is_needed_elsewhere():
    x, y = values(6, 12), values(6, 8, seed=1)

    def function(x, y):
        negative = -x
        return torch.cat((negative, y), 1) * 2, negative.exp()

    with torch.no_grad():
        for got, expected in zip(framejit.compile(function)(x, y), function(x, y), strict=True):
            torch.testing.assert_close(got, expected)


def test_positions_behind_a_concatenation():
    def function(x, y):
        return torch.cat((x, y * 2), 1) + torch.arange(20)

    compare(function, values(6, 12), values(6, 8, seed=1))


def test_concatenations_of_concatenations():
    def function(x, y):
        joined = torch.cat((x * 2, y), 1) + 1
        return torch.cat((joined, y.relu()), 1) * torch.cat((x, y, joined[:, :8]), 1)

    compare(function, values(6, 12), values(6, 8, seed=1))
