"""Batch norms in training, their gradients, and group norms as kernels, against double precision and eager mode."""

import copy

import pytest
import torch
from torch import nn

import framejit

IMAGE = (6, 32, 9, 10)

NORMS = {
    "batch norm": (lambda: nn.BatchNorm2d(32), IMAGE),
    "batch norm of sequences": (lambda: nn.BatchNorm1d(32), (6, 32, 50)),
    "batch norm of rows": (lambda: nn.BatchNorm1d(32), (40, 32)),
    "batch norm of volumes": (lambda: nn.BatchNorm3d(32, eps=1e-3), (2, 32, 4, 5, 6)),
    "without parameters": (lambda: nn.BatchNorm2d(32, affine=False), IMAGE),
    "without statistics": (lambda: nn.BatchNorm2d(32, track_running_stats=False), IMAGE),
    "momentum of zero": (lambda: nn.BatchNorm2d(32, momentum=0.0), IMAGE),
    "instance norm": (lambda: nn.InstanceNorm2d(32, affine=True), IMAGE),
    "group norm": (lambda: nn.GroupNorm(4, 32), IMAGE),
    "group norm of sequences": (lambda: nn.GroupNorm(32, 32), (6, 32, 50)),
    "group norm without parameters": (lambda: nn.GroupNorm(4, 32, affine=False), IMAGE),
}


def build(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    norm = NORMS[name][0]().to(dtype)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def descriptions(compiled) -> str:
    return "".join(trace["description"] for trace in framejit._C.traces(compiled._entry))


def outcome(run, norm: nn.Module, x: torch.Tensor, gradient: torch.Tensor | None) -> list[torch.Tensor]:
    """The result, gradients where one is given, and the statistics after two calls."""
    if gradient is None:
        with torch.no_grad():
            results = [run(x), run(x * 2 - 1)]
    else:
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        results = [run(leaf), run(leaf * 2 - 1)]
        torch.autograd.backward(results, [gradient, gradient * 0.5])
        results += [leaf.grad, *(parameter.grad for parameter in norm.parameters())]
    return [result.detach() for result in results] + [buffer.clone() for buffer in norm.buffers()]


def check(name: str, x: torch.Tensor, gradient: torch.Tensor | None) -> str:
    """Compares with eager: strides and types, and errors against the same in double precision."""
    norm = build(name, x.dtype)
    twin, exact = copy.deepcopy(norm), copy.deepcopy(norm).double()
    compiled = framejit.compile(norm, fullgraph=True)
    actual, expected = outcome(compiled, norm, x, gradient), outcome(twin, twin, x, gradient)
    values = outcome(exact, exact, x.double(), None if gradient is None else gradient.double())
    for a, e, value in zip(actual, expected, values, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape and a.stride() == e.stride()
        if not a.is_floating_point():
            assert torch.equal(a, e)
            continue
        scale = value.abs().max().clamp(min=1e-6) * torch.finfo(x.dtype).eps
        error, allowed = ((t.double() - value).abs().max() / scale for t in (a, e))
        # In double precision eager is the reference, and rounds in an order of its own.
        assert error <= (64 if x.dtype == torch.float64 else max(2 * allowed, 4)), (error, allowed)
    return descriptions(compiled)


@pytest.mark.parametrize("gradients", [False, True], ids=["no grad", "gradients"])
@pytest.mark.parametrize("name", NORMS)
def test_norms(name, gradients):
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(1)
        x = (torch.randn(NORMS[name][1], dtype=torch.float64) * 2 + 3).to(dtype)
        text = check(name, x, torch.randn_like(x) if gradients else None)
        forward = text.split("backward:")[0]
        taken_apart = name != "group norm without parameters"
        assert ("norm" not in forward) == taken_apart, text
        assert not taken_apart or "group" in name or "native_batch_norm_backward" not in text


@pytest.mark.parametrize("name", ["batch norm", "instance norm", "group norm"])
def test_channels_last(name):
    x = torch.randn(IMAGE).to(memory_format=torch.channels_last)
    for gradient in (None, torch.randn_like(x)):
        check(name, x, gradient)


def test_mean_far_from_zero():
    """Differences around a mean that is much larger lose nothing: the mean is known to double precision."""
    x = torch.randn(IMAGE) + 1000
    check("batch norm", x, None)
    check("without statistics", x, torch.randn(IMAGE))


def test_evaluation_is_left():
    norm = build("batch norm", torch.float32).eval()
    x = torch.randn(IMAGE, requires_grad=True)
    expected = torch.autograd.grad(norm(x).square().sum(), x)[0]
    compiled = framejit.compile(norm, fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).square().sum(), x)[0], expected)


def test_one_element_per_channel_raises_as_eager():
    norm = build("batch norm of rows", torch.float32)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        framejit.compile(norm)(torch.randn(1, 32))


def test_strict_keeps_the_bits():
    x = torch.randn(IMAGE)
    for name in ("batch norm", "group norm"):
        norm = build(name, torch.float32)
        twin = copy.deepcopy(norm)
        with torch.no_grad():
            assert torch.equal(framejit.compile(norm, strict=True)(x), twin(x))
        assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), twin.buffers(), strict=True))


def test_mixed_types_are_left():
    norm = nn.BatchNorm2d(32)
    x = torch.randn(IMAGE).bfloat16()
    twin = copy.deepcopy(norm)
    compiled = framejit.compile(norm, fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), twin(x))
    assert "batch_norm" in descriptions(compiled)
