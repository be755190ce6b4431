"""torch function and dispatch modes: the program's own see every operator, so nothing of ours runs under them."""

import pytest
import torch
from framejit_testing import check, counting, vector
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import framejit

X = vector(seed=5)


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def wave(x):
    return (x * 2).sin() + x.sum()


def seen_by(mode, function):
    with torch.no_grad(), mode as active:
        value = function(X)
    return active.seen, value


def test_user_modes_see_what_they_see_in_eager():
    for mode in (Functions, Operators):
        expected, value = seen_by(mode(), wave)
        compiled, backend = counting(wave)
        for _ in range(3):
            seen, result = seen_by(mode(), compiled)
            assert seen == expected
            assert torch.equal(result, value)
        assert backend.count == 0
        with torch.no_grad():
            compiled(X)
            compiled(X)
        assert backend.count == 1
        assert seen_by(mode(), compiled)[0] == expected


def test_undecorated_functions_are_not_captured_under_user_modes():
    for mode in (Functions, Operators):
        expected, _ = seen_by(mode(), wave)
        for _ in range(3):
            with framejit.enable():
                assert seen_by(mode(), wave)[0] == expected


def test_jit_trace_sees_the_operators():
    compiled, _ = counting(wave)
    with torch.no_grad():
        for region in (False, True):
            with framejit.enable(region):
                for function in (wave, compiled):
                    traced = torch.jit.trace(function, X)
                    assert torch.equal(traced(X + 1), wave(X + 1))


def make(n):
    return torch.zeros(n) + torch.ones(n)


@pytest.mark.cpu
def test_device_contexts_are_told_apart_by_their_devices():
    compiled, backend = counting(make)
    for _ in range(3):
        for device in ("cpu", "meta"):
            with torch.no_grad(), torch.device(device):
                assert compiled(3).device.type == device
        with torch.no_grad():
            assert compiled(3).device.type == "cpu"
    assert backend.count == 3


def test_lists_as_indices_lie_where_tensors_take_them():
    def function(x):
        return x[[0, 2]], x[:, [1, 3]], x[[0, 1], [1, 2]]

    x = torch.arange(12.0, device="cpu").reshape(3, 4)
    with torch.device("meta"):
        check(function, x)


def test_annotations_of_functions_made_inside_are_kept():
    def outer(x):
        y = x + 1

        def inner(a: int, b: "str" = "b") -> float:
            return a

        return y, inner

    compiled, _ = counting(outer)
    with torch.no_grad():
        for _ in range(2):
            y, inner = compiled(X)
            assert torch.equal(y, X + 1)
            assert inner.__annotations__ == {"a": int, "b": "str", "return": float}
