"""Backends that patch the classes of modules while they trace, as tracers of torch.fx do: what they put back is no
reason to record again, what they leave is."""

import pytest
import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

import framejit

X = torch.arange(12, dtype=torch.float32).reshape(3, 4).sin()


class Scaled(nn.Module):
    scale = 2

    def forward(self, x):
        return x * self.scale


class Counting:
    """Calls `patch` with the graph before it is taken as it is."""

    def __init__(self, patch):
        self.patch, self.calls = patch, 0

    def __call__(self, module, inputs):
        self.calls += 1
        return self.patch(module, inputs) or module.forward


def patch_and_put_back(module, inputs):
    for cls, name in ((nn.Module, "__call__"), (Scaled, "scale"), (Scaled, "forward")):
        before = getattr(cls, name)
        setattr(cls, name, None)
        setattr(cls, name, before)


@pytest.mark.parametrize("patch", [patch_and_put_back, lookup_backend("aot_eager")])
def test_put_back(patch, caplog):
    """Each is compiled once, whatever is compiled in between."""
    backend = Counting(patch)
    models = [Scaled(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(Scaled(), nn.Softmax(-1))]
    compiled = [framejit.compile(model, backend=backend) for model in models]
    for _ in range(3):
        for function, model in zip(compiled, models, strict=True):
            with torch.no_grad():
                assert torch.allclose(function(X), model(X))
    assert backend.calls == 3
    assert "runs in the interpreter" not in caplog.text


@pytest.mark.parametrize("other", [False, True])
def test_left(other):
    """The class is another one when the backend returns, by its attribute or by its base's."""

    class Base(nn.Module):
        scale = 2

    class Model(Base):
        def forward(self, x):
            return x * self.scale

    def patch(module, inputs):
        patch_and_put_back(module, inputs)
        if backend.calls == 1:
            (Base if other else Model).scale = 5

    model = Model()
    backend = Counting(patch)
    compiled = framejit.compile(model, backend=backend)
    for _ in range(3):
        assert torch.equal(compiled(X), X * model.scale)
    assert model.scale == 5
    Base.scale = Model.scale = 7
    assert torch.equal(compiled(X), X * 7)


def test_other_base():
    class First(nn.Module):
        scale = 2

    class Second(nn.Module):
        scale = 3

    class Model(First):
        def forward(self, x):
            return x * self.scale

    def patch(module, inputs):
        Model.__bases__ = (Second,)

    model = Model()
    compiled = framejit.compile(model, backend=Counting(patch))
    for _ in range(3):
        assert torch.equal(compiled(X), X * model.scale)
    assert model.scale == 3
