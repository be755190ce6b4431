"""Comparing a compiled function with eager PyTorch at many sizes, and counting what it was recorded for."""

import torch
from framejit_testing import assert_same
from torch._dynamo.backends.registry import lookup_backend

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


class PythonBackend:
    """Runs what another backend makes of the modules, and keeps them with the sizes that they were made for."""

    def __init__(self, name: str | None = None):
        self.made = None if name is None else lookup_backend(name)
        self.modules, self.inputs = [], []

    def __call__(self, module, inputs):
        self.modules.append(module)
        self.inputs.append(inputs)
        return module.forward if self.made is None else self.made(module, inputs)

    @property
    def symbolic(self) -> list[torch.fx.GraphModule]:
        """The modules that are for many sizes: they take some of them."""
        return [
            module
            for module, inputs in zip(self.modules, self.inputs, strict=True)
            if any(isinstance(value, torch.SymInt) for value in inputs)
        ]
