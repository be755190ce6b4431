"""Reductions over dimensions that lie apart in memory: kernels in stages, no further from exact than eager."""

import numpy as np
import pytest
import torch

import framejit

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

REDUCTIONS = {
    "sum": lambda x, dims, keep: x.sum(dims, keepdim=keep),
    "mean": lambda x, dims, keep: x.mean(dims, keepdim=keep),
    "var": lambda x, dims, keep: x.var(dims, keepdim=keep),
    "std": lambda x, dims, keep: torch.std(x, dims, correction=0, keepdim=keep),
    "var_mean": lambda x, dims, keep: torch.var_mean(x, dims, keepdim=keep),
    "amax": lambda x, dims, keep: x.amax(dims, keepdim=keep),
    "amin": lambda x, dims, keep: x.amin(dims, keepdim=keep),
}


def description(compiled) -> str:
    [trace] = framejit._C.traces(compiled)
    assert trace["captured"] and trace["break"] is None
    return trace["description"]


def exact(name: str, x: torch.Tensor, dims: tuple[int, ...], keep: bool) -> list[np.ndarray]:
    wide, axes = x.double().numpy().astype(np.longdouble), tuple(dims)
    mean = wide.mean(axis=axes, keepdims=True)
    count = np.prod([x.shape[d] for d in dims])
    squares = ((wide - mean) ** 2).sum(axis=axes, keepdims=keep)
    by_name = {
        "sum": lambda: [wide.sum(axis=axes, keepdims=keep)],
        "mean": lambda: [wide.mean(axis=axes, keepdims=keep)],
        "var": lambda: [squares / (count - 1)],
        "std": lambda: [np.sqrt(squares / count)],
        "var_mean": lambda: [squares / (count - 1), wide.mean(axis=axes, keepdims=keep)],
        "amax": lambda: [wide.max(axis=axes, keepdims=keep)],
        "amin": lambda: [wide.min(axis=axes, keepdims=keep)],
    }
    return by_name[name]()


def errors(actual: torch.Tensor, value: np.ndarray) -> np.ndarray:
    """In units in the last place of the exact value."""
    bits = {torch.float32: 23, torch.float64: 52, torch.bfloat16: 7, torch.float16: 10}[actual.dtype]
    unit = np.exp2(np.floor(np.log2(np.maximum(np.abs(value), np.longdouble(1e-300)))) - bits)
    return np.abs(actual.double().numpy() - value) / unit


def check(function, *arguments, kernels_only=True):
    compiled = framejit.compile(function, fullgraph=True)
    for _ in range(2):
        expected, actual = function(*arguments), compiled(*arguments)
        pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
        for a, e in pairs:
            assert a.dtype == e.dtype and a.shape == e.shape and a.stride() == e.stride()
    if kernels_only:
        assert "call aten" not in description(compiled)
    return actual, expected, compiled


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_floats(name, dtype):
    torch.manual_seed(0)
    cases = [
        ((6, 32, 9, 10), (0, 2, 3)),
        ((6, 32, 9, 32), (0, 2)),
        ((6, 5, 4, 40), (1, -1)),
        ((3, 4, 5, 6, 20), (0, 2, 4)),
    ]
    for shape, dims in cases:
        x = (torch.randn(shape) + 0.5).to(dtype)
        for keep in (False, True):
            function = REDUCTIONS[name]
            # Of what a first stage leaves, fewer than 16 columns are ATen's.
            few = shape[-1] in (20, 40)
            actual, expected, _ = check(lambda x, f=function, d=dims, k=keep: f(x, d, k), x, kernels_only=not few)
            wanted = exact(name, x, tuple(d % x.dim() for d in dims), keep)
            pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
            for (a, e), value in zip(pairs, wanted, strict=True):
                assert errors(a, value).max() <= errors(e, value).max() + 1


def test_integers_and_booleans():
    x = torch.randint(-100, 100, (6, 32, 9, 24))
    for dtype in (torch.int8, torch.int32, torch.int64, torch.uint8):
        y = x.to(dtype)
        for function in (
            lambda x: x.sum((0, 2, 3)),
            lambda x: x.amax((0, 2)),
            lambda x: x.amin((0, 2, 3), keepdim=True),
            lambda x: torch.any(x > 98, dim=(0, 2, 3)),
            lambda x: torch.all(x > 1, dim=(0, 2, 3), keepdim=True),
        ):
            actual, expected, _ = check(function, y)
            assert torch.equal(actual, expected)
    flags = x > 50
    for function in (
        lambda x: x.sum((0, 2)),
        lambda x: torch.any(x, dim=(0, 3, 2)),
        lambda x: torch.all(x, dim=(0, 2)),
    ):
        actual, expected, _ = check(function, flags)
        assert torch.equal(actual, expected)


def test_special_values():
    for value in (float("nan"), float("inf"), -float("inf")):
        x = torch.randn(4, 32, 6, 6)
        x[1, 2, 3, 4] = x[3, 5, 0, 0] = value
        x[:, 7] = -0.0
        for name in ("sum", "mean", "var", "amax", "amin"):
            actual, expected, _ = check(lambda x, f=REDUCTIONS[name]: f(x, (0, 2, 3), False), x)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert torch.equal(actual.signbit(), expected.signbit())


def test_layouts_and_sizes_of_one():
    x = torch.randn(6, 32, 9, 10)
    views = [
        x.to(memory_format=torch.channels_last),
        x.transpose(0, 3),
        x[:, ::2],
        x[:1],
        x[:, :, :, :1],
        x.expand(2, 6, 32, 9, 10)[1],
        torch.randn(6, 1, 9, 32),
    ]
    for view in views:
        for dims in ((0, 2, 3), (0, 2), (1, 3), (0, 1, 2, 3)):
            for name in ("sum", "var", "amax"):
                function = REDUCTIONS[name]
                actual, expected, _ = check(lambda x, f=function, d=dims: f(x, d, False), view, kernels_only=False)
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_fused_with_what_is_around():
    def standardise(x, scale):
        centred = x * 2 - (x * 2).mean((0, 2, 3), keepdim=True)
        return centred * torch.rsqrt((x * 2).var((0, 2, 3), correction=0, keepdim=True) + 1e-5) * scale

    x, scale = torch.randn(6, 32, 9, 10), torch.randn(32, 1, 1)
    actual, expected, compiled = check(standardise, x, scale)
    torch.testing.assert_close(actual, expected)
    text = description(compiled)
    assert text.count("kernel ") == 6, text


def test_corrections_that_leave_nothing_are_left():
    x = torch.randn(1, 32, 3, 1, 16)[:, :, :1]
    for correction in (16, 20):
        with pytest.warns(UserWarning, match="degrees of freedom"):
            check(lambda x, c=correction: x.var((0, 2, 4), correction=c), x, kernels_only=False)
    y = torch.randn(2, 32, 2)
    actual, expected, _ = check(lambda y: y.var((0, 2), correction=2.5), y)
    torch.testing.assert_close(actual, expected)


def test_gradients():
    x = torch.randn(6, 32, 9, 10, requires_grad=True)

    def loss(x):
        return (x.var((0, 2, 3)) * x.mean((0, 2)).sum(1) + x.sum((0, 2, 3))).sum()

    expected = torch.autograd.grad(loss(x), x)[0]
    actual = torch.autograd.grad(framejit.compile(loss)(x), x)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert actual.stride() == expected.stride()
