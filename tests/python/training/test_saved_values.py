"""What a compiled forward saves for its backward, and for how long."""

import gc
import re
import weakref

import torch
from framejit_testing import vector
from torch import nn
from training_testing import check, reports

import framejit


def x(*shape: int, seed: int = 1) -> torch.Tensor:
    return vector(*(shape or (4, 6)), seed=seed).requires_grad_()


def test_the_fewest_bytes_are_saved():
    """One product is saved instead of the three values that the derivatives of what is made of it are made of."""

    def f(a, b):
        c = a @ b
        return c.tanh() * c.exp() * c.sigmoid()

    compiled = framejit.compile(f)
    compiled(x(4, 4), x(4, 4))
    (report,) = reports(compiled)
    returned = report.lowered.strip().splitlines()[-1]
    product = re.search(r"(%\d+): .* = aten::mm", report.lowered).group(1)
    assert re.fullmatch(rf"return %\d+, {product}", returned.strip()), report.lowered
    check(f, x(4, 4), x(4, 4))


def test_saved_tensors_die_with_the_backward():
    compiled = framejit.compile(lambda a: a.exp().sin())
    a = x()
    result = compiled(a)
    node = result.grad_fn
    alive = weakref.ref(result)
    result.sum().backward()
    del result
    assert alive() is None and node is not None


def test_memory_is_released_without_a_backward():
    compiled = framejit.compile(lambda a, b: (a * b).tanh() * a)
    a, b = x(), x(seed=2)
    dead = weakref.ref(a)
    compiled(a, b)
    del a, b
    gc.collect()
    assert dead() is None


def test_peak_memory_is_not_above_eagers():
    """Saved tensors die at the step of the backward that reads them last."""
    layers = [nn.Linear(256, 256) for _ in range(8)]

    def f(a):
        for layer in layers:
            a = layer(a).tanh()
        return a.sum()

    def peak(function) -> int:
        a = x(4096, 256)
        function(a).backward()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            function(a).backward()
        total = highest = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                total += event.nbytes()
                highest = max(highest, total)
        return highest

    assert peak(framejit.compile(f)) <= peak(f) * 1.01
