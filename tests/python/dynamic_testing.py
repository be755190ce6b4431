"""Comparing a compiled function with eager PyTorch at many sizes, and counting what it was recorded for."""

import torch
from framejit_testing import assert_same

import framejit

_C = framejit._C


def entry_of(compiled):
    return compiled if isinstance(compiled, _C.Entry) else object.__getattribute__(compiled, "_entry")


def traces(compiled) -> list[dict]:
    return _C.traces(entry_of(compiled))


def recordings(compiled) -> int:
    """How often the function was recorded, with a graph as the outcome."""
    found = traces(compiled)
    assert all(trace["captured"] for trace in found), [trace["break"] or trace["fallback"] for trace in found]
    return len(found)


def demands(compiled) -> list[str]:
    """What the recordings with open sizes demand of them, apart from their guards."""
    return [line for trace in traces(compiled) for line in trace["demands"].splitlines()]


def assert_same_as_eager(compiled, function, *args) -> None:
    with framejit.disable():
        expected = function(*[arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args])
    assert_same(compiled(*args), expected)
