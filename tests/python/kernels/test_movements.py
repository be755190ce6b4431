"""Operators that only move elements become parts of kernels: stack, cat, roll, repeat, pixel shuffles, padding."""

import pytest
import torch
import torch.nn.functional as F

import framejit

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def check(function, *arguments):
    """The description of a compiled function whose results were eager's to the bit, in layout and in aliasing."""
    compiled = framejit.compile(function, fullgraph=True)
    for _ in range(2):
        expected, actual = function(*arguments), compiled(*arguments)
        assert torch.equal(actual, expected) and actual.dtype == expected.dtype
        assert actual.stride() == expected.stride()
        assert (actual._base is None) == (expected._base is None)
    [trace] = framejit._C.traces(compiled)
    assert trace["captured"] and trace["break"] is None
    return trace["description"]


MOVEMENTS = {
    "stack": lambda x: torch.stack([x, x.flip(0)], 1),
    "stack last": lambda x: torch.stack([x, x, x], -1),
    "stack first": lambda x: torch.stack([x, x]),
    "roll": lambda x: x.roll(1, 0),
    "roll back": lambda x: x.roll(-5, -1),
    "roll around": lambda x: x.roll(23, 1),
    "roll by nothing": lambda x: x.roll(6, 0),
    "roll of several": lambda x: x.roll((1, 2), (0, 1)),
    "roll of all": lambda x: x.roll(7),
    "repeat": lambda x: x.repeat(2, 3, 1, 1),
    "repeat with more dimensions": lambda x: x.repeat(2, 1, 1, 2, 3),
    "repeat once": lambda x: x.repeat(1, 1, 1, 1),
    "repeat never": lambda x: x.repeat(1, 0, 1, 1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "cat of few": lambda x: torch.cat([x[..., :2], x[..., 5:6]], -1),
    "cat of one": lambda x: torch.cat([x], 0),
    "transposed": lambda x: torch.stack([x.transpose(1, 3), x.transpose(1, 3)], 2),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MOVEMENTS)
def test_movements(name, dtype):
    function = MOVEMENTS[name]
    torch.manual_seed(0)
    x = torch.randint(0, 100, (6, 8, 10, 12)).to(dtype)
    for image in (x, x.to(memory_format=torch.channels_last), x[:, :, ::2], x[:1]):
        if name == "pixel_unshuffle" and image.shape[2] % 2:
            continue
        check(function, image)
        check(lambda x, f=function: f(x ^ True if x.dtype == torch.bool else x + 1), image)
        check(lambda x, f=function: f(x) == f(x), image)


PADS = [
    (1, 2),
    (0, 3),
    (2, 0),
    (-1, 2),
    (1, -2),
    (-1, -1),
    (0, 0, 1, 2),
    (0, 0, 1, -1),
    (0, 0, 0, 0, 2, 1),
    (1, 1, 1, 1),
    (0, 0),
]


@pytest.mark.parametrize("pad", PADS, ids=str)
def test_pads(pad):
    x = torch.randn(3, 5, 6, 7)
    for value in (None, 0, 2.5, float("nan"), float("-inf")):

        def padded(x, p=pad, v=value):
            return F.pad(x, p, value=v)

        for image in (x, x.transpose(1, 3), x.bfloat16(), x.double()):
            compiled = framejit.compile(padded, fullgraph=True)
            for function in (padded, lambda x, f=padded: f(x * 2) + 1):
                compiled = framejit.compile(function, fullgraph=True)
                expected, actual = function(image), compiled(image)
                torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
                assert actual.stride() == expected.stride() and actual._base is None
    for integers in (torch.arange(24).reshape(2, 3, 4), torch.arange(24).reshape(2, 3, 4) > 5):
        if len(pad) <= 6:
            check(lambda x, p=pad: F.pad(x, p), integers)


def test_what_becomes_of_them():
    x = torch.randn(8, 16, 32)
    assert "call" not in check(lambda x: F.pad(x * 2, (1, 1)) + 1, x)
    assert "call" not in check(lambda x: torch.cat([x * 2, x + 1], 1), x)
    assert "call" not in check(lambda x: torch.stack([x, x + 1], -1), x)
    assert "call" not in check(lambda x: x.roll(3, 1) * 2 + x, x)
    assert "aten::cat" in check(lambda x: torch.cat([x, x], 1), x)  # copies of long runs are ATen's
    assert "call aten::_unsafe_view" in check(lambda x: x.repeat(2, 1, 1), x)
    assert check(lambda x: F.pixel_shuffle(x.view(8, 4, 4, 32), 2) * 2, x).count("kernel") == 2


def test_parts_of_values_inside():
    """Views that begin inside what a kernel made."""
    x = torch.randn(6, 8, 10, 12)
    for part in (lambda y: y[1:, 2:], lambda y: y[:, :, 3:], lambda y: y.unbind(1)[5], lambda y: y.split(3, 3)[2]):
        for move in (
            lambda v: torch.stack([v, v], 1),
            lambda v: v.roll(2, 0),
            lambda v: F.pad(v, (1, -1)),
            lambda v: v.repeat(1, *[2] * (v.dim() - 1)),
            lambda v: torch.cat([v[..., 1:3], v[..., :1]], -1),
        ):
            check(lambda x, p=part, m=move: m(p(x * 2)), x)
            check(lambda x, p=part, m=move: m(p(torch.cumsum(x, 0))) + 1, x)
    check(lambda x: torch.stack((x * 2).unbind(1), 0), x)
    check(lambda x: F.pixel_shuffle((x * 2)[1:, 4:], 2), x)


def test_gradients():
    x = torch.randn(4, 8, 6, requires_grad=True)

    def moved(x):
        return (
            (torch.stack([x, x * 2], -1).sum(-1) * x.roll(2, 1) * F.pad(x, (0, 0, 1, -1)))
            .repeat(2, 1, 1)
            .square()
            .sum()
        )

    expected = torch.autograd.grad(moved(x), x)[0]
    actual = torch.autograd.grad(framejit.compile(moved, fullgraph=True)(x), x)[0]
    torch.testing.assert_close(actual, expected)
    assert actual.stride() == expected.stride()


def test_strict_keeps_the_bits():
    x = torch.randn(4, 8, 6)

    def moved(x):
        return F.pad(torch.stack([x.roll(1, 0), x], 1), (1, 1)) * 2

    assert torch.equal(framejit.compile(moved, strict=True)(x), moved(x))
