"""The callable that framejit.compile returns: binding, attributes, kinds of targets, limits, threads, failures."""

import copy
import functools
import gc
import inspect
import logging
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

import framejit

X = torch.arange(4.0)


def plain(x, y=2, *, z=3):
    return x * y + z


def positional_only(x, y, /, z=1):
    return x + y * z


def star(x, *args, k=1, **kwargs):
    return x + len(args) + k + sum(kwargs.values())


@framejit.compile
def at_module_level(x):
    return x + 1


CALLS = [
    (plain, (X,), {}),
    (plain, (X, 5), {}),
    (plain, (X,), {"y": 5}),
    (plain, (), {"y": 5, "x": X, "z": 1}),
    (plain, (X,), {"z": 7}),
    (positional_only, (X, 1), {}),
    (positional_only, (X, 1), {"z": 4}),
    (star, (X,), {}),
    (star, (X, 1, 2), {"k": 4}),
    (star, (X, 1), {"a": 1, "b": 2}),
]
WRONG_CALLS = [
    (plain, (), {}),
    (plain, (X, 1, 2), {}),
    (plain, (X,), {"x": X}),
    (plain, (X,), {"w": 1}),
    (positional_only, (X,), {"y": 1}),
    (star, (), {"k": 1}),
]


@pytest.mark.parametrize("function, args, kwargs", CALLS)
def test_arguments_bind_as_in_python(function, args, kwargs):
    compiled = framejit.compile(function)
    for _ in range(2):
        assert torch.equal(compiled(*args, **kwargs), function(*args, **kwargs))


@pytest.mark.parametrize("function, args, kwargs", WRONG_CALLS)
def test_wrong_arguments_raise_pythons_own_error(function, args, kwargs):
    with pytest.raises(TypeError) as expected:
        function(*args, **kwargs)
    with pytest.raises(TypeError) as actual:
        framejit.compile(function)(*args, **kwargs)
    assert str(actual.value) == str(expected.value)


def test_it_looks_like_the_function():
    compiled = framejit.compile(plain)
    assert compiled.__wrapped__ is plain and compiled.__name__ == "plain" and compiled.__module__ == __name__
    assert inspect.signature(compiled) == inspect.signature(plain)
    assert compiled.__code__ is plain.__code__ and compiled.__defaults__ == (2,)
    compiled.mine = 1
    assert compiled.mine == 1 and not hasattr(plain, "mine")
    with pytest.raises(AttributeError):
        _ = compiled.missing


def test_defaults_are_the_functions():
    def f(x, y=1):
        return x + y

    compiled = framejit.compile(f)
    assert torch.equal(compiled(X), X + 1)
    compiled.__defaults__ = (2,)
    assert f.__defaults__ == (2,)
    assert torch.equal(compiled(X), X + 2)


def test_references_and_copies():
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
    assert copy.copy(at_module_level) is at_module_level and copy.deepcopy(at_module_level) is at_module_level
    compiled = framejit.compile(lambda x: x)
    reference = weakref.ref(compiled)
    compiled.cycle = compiled
    del compiled
    gc.collect()
    assert reference() is None


def test_methods():
    class Scale:
        factor = 3

        @framejit.compile
        def method(self, x):
            return x * self.factor

        @framejit.compile
        @classmethod
        def of_class(cls, x):
            return x * cls.factor

        @framejit.compile
        @staticmethod
        def static(x):
            return x * 2

        def __call__(self, x):
            return x * self.factor + 1

    scale = Scale()
    assert torch.equal(scale.method(X), X * 3) and torch.equal(Scale.method(scale, X), X * 3)
    assert torch.equal(scale.of_class(X), X * 3) and torch.equal(Scale.static(X), X * 2)
    assert torch.equal(framejit.compile(scale)(X), X * 3 + 1)
    assert torch.equal(framejit.compile(scale.method)(X), X * 3)
    assert torch.equal(framejit.compile(functools.partial(plain, X, y=4))(), plain(X, 4))


def test_modules():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    compiled = framejit.compile(model)
    assert isinstance(compiled, nn.Module) and compiled[0] is model[0] and len(compiled) == 2
    assert list(compiled.state_dict()) == list(model.state_dict())
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert compiled.eval() is compiled and not model.training and not compiled.training
    with torch.no_grad():
        x = torch.randn(2, 4)
        assert torch.allclose(compiled(x), model(x))
    compiled.extra = 5
    assert model.extra == 5
    outer = nn.Sequential(compiled)
    assert len(list(outer.parameters())) == 4
    duplicate = copy.deepcopy(compiled)
    assert duplicate[0].weight is not model[0].weight and torch.equal(duplicate[0].weight, model[0].weight)
    with torch.no_grad():
        assert torch.allclose(duplicate(x), model(x))


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"target": 3}, "target"),
        ({"target": len}, "target"),
        ({"target": int}, "target"),
        ({"target": plain, "backend": 3}, "backend: expected a name or a callable, got int"),
        ({"target": plain, "fullgraph": 1}, "fullgraph: expected a bool, got int"),
        ({"target": plain, "dynamic": 1}, "dynamic: expected a bool or None, got int"),
        ({"target": plain, "options": 1}, "options: expected a mapping or None, got int"),
        ({"target": plain, "options": {"recompile_limit": "a"}}, "recompile_limit"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(TypeError, match=text):
        framejit.compile(**arguments)


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(ValueError, match="recompile_limit"):
        framejit.compile(plain, options={"limit": 1})


def test_limit_warns_once_and_stays_right(caplog):
    compiled = framejit.compile(plain, dynamic=False, options={"recompile_limit": 2})
    with caplog.at_level(logging.WARNING, logger="framejit"):
        for size in range(1, 7):
            x = torch.arange(float(size))
            assert torch.equal(compiled(x), plain(x))
    warnings = [record for record in caplog.records if "recompile_limit" in record.getMessage()]
    assert len(warnings) == 1


def test_disable_scope_and_function():
    compiled = framejit.compile(plain)
    with framejit.disable():
        assert torch.equal(compiled(X), plain(X))
    assert framejit._C.traces(compiled) == []
    compiled(X)
    assert len(framejit._C.traces(compiled)) == 1
    framejit.reset()
    assert framejit._C.traces(compiled) == []


def test_replaced_code():
    def f(x):
        return x + 1

    def g(x, y=5):
        return x + y

    compiled = framejit.compile(f)
    assert torch.equal(compiled(X), X + 1)
    f.__code__, f.__defaults__ = g.__code__, g.__defaults__
    assert torch.equal(compiled(X), X + 5) and torch.equal(compiled(X, 7), X + 7)


def test_reset_from_another_thread_while_running():
    compiled = framejit.compile(plain)
    stop = threading.Event()

    def keep_resetting():
        while not stop.is_set():
            framejit.reset()

    thread = threading.Thread(target=keep_resetting)
    thread.start()
    try:
        for _ in range(300):
            assert torch.equal(compiled(X), plain(X))
    finally:
        stop.set()
        thread.join()


def test_random_numbers_after_a_graph_that_raises():
    """A compiled graph that fails is discarded: the interpreter's run draws the numbers that eager would have drawn."""

    def f(x):
        return x + torch.rand(4)

    def failing(graph_module, example_inputs):
        def run(*inputs):
            torch.rand(7)
            raise RuntimeError("a kernel failed")

        return run

    compiled = framejit.compile(f, backend=failing)
    torch.manual_seed(3)
    expected = f(X)
    torch.manual_seed(3)
    assert torch.equal(compiled(X), expected)


def test_version_mismatch_says_how_to_rebuild():
    from framejit import _build

    _build.check_versions("2.13.0", "3.11.7", "2.13.0", "3.11.7")
    with pytest.raises(
        ImportError, match="built for torch 2.13.0 and Python 3.11.7, this is torch 2.12.0.*pip install"
    ):
        _build.check_versions("2.13.0", "3.11.7", "2.12.0", "3.11.7")
