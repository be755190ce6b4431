"""Weak references that cross a break: what the frames have dropped by then is dead, as in eager mode."""

import weakref

import pytest
import torch

import framejit

X = torch.ones(2)


def dropped(x):
    y = x * 3
    reference = weakref.ref(y)
    del y
    return x * 3 if reference() is not None else x * 2


def kept(x):
    y = x * 3
    reference = weakref.ref(y)
    return y + 1 if reference() is not None else x * 2


def never_held(x):
    reference = weakref.ref(x * 3)
    return x * 3 if reference() is not None else x * 2


def replaced(x):
    y = x * 3
    reference = weakref.ref(y)
    y = y + 1
    return y if reference() is not None else y * 2


class Node:
    def __init__(self, parent):
        self.parent = weakref.ref(parent)


def in_an_attribute(x):
    y = x * 3
    node = Node(y)
    del y
    framejit.graph_break()
    return x * 3 if node.parent() is not None else x * 2


def kept_without_being_read(x):
    y = x * 3
    reference = weakref.ref(y)
    return x * 3 if reference() is not None else x * 2


def kept_by_an_outer_frame(x):
    y = x * 3

    def look(value):
        reference = weakref.ref(value)
        del value
        return reference() is not None

    return x * 3 if look(y) else x * 2


def in_a_closure(x):
    y = x * 3

    def look():
        return y

    reference = weakref.ref(y)
    return look() + 1 if reference() is not None else x * 2


def read_before(x):
    y = x * 3
    reference = weakref.ref(y)
    z = y + 1
    alive = reference() is not None
    del y
    return z, alive, reference() is None


def assert_breaks(compiled):
    """Where a reference is made and where it is read."""
    breaks = [trace["break"] for trace in framejit._C.traces(compiled)]
    assert breaks[0]["code"] == "UnsupportedCallable" and breaks[-1] is None, breaks


@pytest.mark.parametrize("function", [dropped, never_held, replaced, in_an_attribute, read_before])
def test_references_to_what_was_dropped_since_the_break(function):
    compiled = framejit.compile(function)
    for _ in range(3):
        torch.testing.assert_close(compiled(X), function(X), rtol=0, atol=0)
    assert_breaks(compiled)


@pytest.mark.parametrize("function", [kept, kept_without_being_read, kept_by_an_outer_frame, in_a_closure])
def test_references_to_what_is_still_held(function):
    compiled = framejit.compile(function)
    for _ in range(3):
        assert torch.equal(compiled(X), function(X))
    assert_breaks(compiled)


def cleared(x, items, reference):
    items.clear()
    return x * 3 if reference() is not None else x * 2


def deleted(x, items, reference):
    del items[0]
    items.append(2)
    return x * 3 if reference() is not None else x * 2


def left_alone(x, items, reference):
    return x * 3 if reference() is not None else x * 2


@pytest.mark.parametrize("function", [cleared, deleted, left_alone])
def test_references_to_what_writes_drop(function):
    compiled = framejit.compile(function)
    for _ in range(3):
        for callee in (function, compiled):
            items = [torch.ones(3)]
            reference = weakref.ref(items[0])
            result = callee(X, items, reference)
            assert torch.equal(result, X * (3 if function is left_alone else 2))
    breaks = [trace["break"] for trace in framejit._C.traces(compiled)]
    assert (breaks[0] is None) == (function is left_alone) and breaks[-1] is None


def test_of_an_argument():
    def function(x, reference):
        framejit.graph_break()
        return x * 3 if reference() is x else x * 2

    compiled = framejit.compile(function)
    other = torch.zeros(2)
    for reference in (weakref.ref(X), weakref.ref(other), weakref.ref(X)):
        assert torch.equal(compiled(X, reference), function(X, reference))
