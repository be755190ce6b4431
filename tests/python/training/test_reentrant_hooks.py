"""Hooks that start a backward of the graph that runs, and hooks that raise."""

import gc
import threading
import weakref

import pytest
import torch

import framejit


def late(x, y):
    a = y.exp()
    return a - x


def early(x, y):
    b = -x
    return y.exp() + b


def order_of_hooks(function):
    """What runs in a second backward over a freed graph, whose hooks go backward through it again."""
    events, armed = [], False
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)

    def hook(name):
        events.append(name)
        if armed and len(events) < 9:
            try:
                result.sum().backward(retain_graph=True)
            except RuntimeError as error:
                events.append(str(error)[:40])

    x.register_hook(lambda gradient: hook("x"))
    y.register_hook(lambda gradient: hook("y"))
    result = function(x, y)
    result.sum().backward()
    armed = True
    try:
        result.sum().backward()
    except RuntimeError as error:
        events.append(str(error)[:40])
    return events


@pytest.mark.parametrize("function", [late, early])
def test_a_hook_of_a_leaf_goes_backward_again(function):
    expected, found = order_of_hooks(function), []
    thread = threading.Thread(target=lambda: found.append(order_of_hooks(framejit.compile(function))), daemon=True)
    thread.start()
    thread.join(60)
    assert found == [expected]


def test_a_backward_that_raises_keeps_no_tangents():
    def raises(gradient):
        raise ValueError

    def function(x):
        return x * 2, x.sin()

    for callee in (function, framejit.compile(function)):
        results = callee(torch.ones(3, requires_grad=True))
        results[0].register_hook(raises)
        for _ in range(3):
            tangents = [torch.ones(3), torch.ones(3)]
            alive = [weakref.ref(tangent) for tangent in tangents]
            with pytest.raises(ValueError):
                torch.autograd.backward(results, tangents, retain_graph=True)
            del tangents
            gc.collect()
            assert [tangent() for tangent in alive] == [None, None]
