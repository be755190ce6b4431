"""Kernels take sizes at run time: a recording of many sizes has a few of them."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

import framejit

SIZES = 50


def made() -> int:
    return framejit._C.kernel_code()["made"]


def sizes(seed: int, longest: int) -> list[int]:
    """1, what is around vectors, primes, and others, in an order that differs."""
    some = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 257, 509]
    generator = random.Random(seed)
    some = [size for size in some if size <= longest]
    while len(some) < SIZES:
        some.append(generator.randint(1, longest))
    generator.shuffle(some)
    return some


def check(function, calls, most: int, captured: int = 2) -> None:
    """Equal to eager for each of `calls`; `most`: how many kernels are made in all."""
    framejit.reset()
    compiled = framejit.compile(function)
    before = made()
    for arguments in calls:
        torch.testing.assert_close(compiled(*arguments), function(*arguments), rtol=1e-5, atol=1e-5)
    traces = framejit._C.traces(compiled)
    assert len(traces) <= captured and all(trace["captured"] for trace in traces)
    assert 0 < made() - before <= most


def test_rows_of_any_number():
    """One kernel for the sizes of the first recording, one for all others, and one for a single row."""

    def function(x, scale, bias):
        return F.layer_norm(x * scale, (48,)) + bias

    scale, bias = torch.randn(48), torch.randn(48)
    calls = [(torch.randn(1 + i % 5, length, 48), scale, bias) for i, length in enumerate(sizes(0, 300))]
    check(function, calls, 3)


def test_elements_of_any_number():
    """No code for elements depends on how many they are, not even that of a recording for given sizes."""
    check(lambda x: (x * 2.0).sin() + 0.25, [(torch.randn(3, length),) for length in sizes(1, 500)], 1)


def test_rows_of_any_length():
    """Code for each of the first sizes, one for any, and those of sizes that are one."""

    def function(scores, mask):
        return scores.masked_fill(mask[:, None, None, :], -1e4).softmax(-1)

    calls = [(torch.randn(2, 3, n, n), torch.rand(2, n) < 0.25) for n in sizes(2, 80)]
    check(function, calls, 7)


def test_heads_that_are_turned_around():
    def function(x, cos, sin):
        x = x.view(x.shape[0], x.shape[1], 4, 64).transpose(1, 2)
        half = torch.cat((-x[..., 32:], x[..., :32]), -1)
        return x * cos + half * sin

    calls = []
    for i, length in enumerate(sizes(3, 200)):
        calls.append((torch.randn(1 + i % 3, length, 256), torch.randn(length, 64), torch.randn(length, 64)))
    check(function, calls, 6)


def test_columns_of_any_length():
    """Sums over a dimension whose neighbours lie apart; code for each length of the runs that are added up."""
    calls = [(torch.randn(3, length, 40),) for length in sizes(4, 120)]
    check(lambda x: (x * x).sum(1), calls, 8)


def test_backwards_share_kernels():
    framejit.reset()
    linear = torch.nn.Linear(32, 32)

    def function(x):
        return F.gelu(linear(x)).tanh()

    compiled = framejit.compile(function)
    counts = []
    for length in sizes(5, 120):
        x = torch.randn(2, length, 32, requires_grad=True)
        given, gradient = [x, *linear.parameters()], torch.randn(2, length, 32)
        expected = torch.autograd.grad(function(x), given, gradient)
        actual = torch.autograd.grad(compiled(x), given, gradient)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        counts.append(made())
    assert counts[-1] - counts[SIZES // 2] <= 2, "sizes met late share the kernels of those before them"


@pytest.mark.parametrize("dynamic", [None, False])
def test_recordings_for_given_sizes_have_their_own_kernels(dynamic):
    framejit.reset()
    compiled = framejit.compile(lambda x: x.softmax(-1), dynamic=dynamic)
    before = made()
    compiled(torch.randn(6, 11 if dynamic is None else 12))
    assert made() - before == 1


def test_traces_tell_what_sizes_take():
    compiled = framejit.compile(lambda x: x.exp() + 1)
    for length in (3, 4, 5, 6):
        compiled(torch.randn(length, 2))
    trace = max(framejit._C.traces(compiled), key=lambda trace: trace["sizes_made"])
    assert trace["sizes_made"] == 2
    assert {"replay", "backend", "kernels"} <= {stage for stage, _ in trace["size_timings"]}
