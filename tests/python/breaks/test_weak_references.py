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


def in_a_container(x):
    held = [x * 3]
    reference = weakref.ref(held[0])
    held.clear()
    return x * 3 if reference() is not None else x * 2


class Node:
    def __init__(self, parent):
        self.parent = weakref.ref(parent)


def in_an_attribute(x):
    y = x * 3
    node = Node(y)
    del y
    framejit.graph_break()
    return x * 3 if node.parent() is not None else x * 2


@pytest.mark.parametrize("function", [dropped, kept, never_held, replaced, in_a_container, in_an_attribute])
def test_references_to_what_was_made_before_the_break(function):
    compiled = framejit.compile(function)
    for _ in range(3):
        assert torch.equal(compiled(X), function(X))
    breaks = [trace["break"] for trace in framejit._C.traces(compiled)]
    assert breaks[0]["code"] == "UnsupportedCallable" and breaks[-1] is None


def test_of_an_argument():
    def function(x, reference):
        framejit.graph_break()
        return x * 3 if reference() is x else x * 2

    compiled = framejit.compile(function)
    other = torch.zeros(2)
    for reference in (weakref.ref(X), weakref.ref(other), weakref.ref(X)):
        assert torch.equal(compiled(X, reference), function(X, reference))
