"""Recursion: compiled functions that break reach the depth that plain ones reach, and no deeper than the C stack."""

import inspect
import sys
import threading

import pytest
import torch
from framejit_testing import run, vector

import framejit

X = vector(seed=6)


class Sink:
    @staticmethod
    def write(text):
        pass


class Recursion:
    """A recursive function, plain or compiled, and how many calls of it were alive at once."""

    def __init__(self, compiled):
        self.deepest = 0

        def descend(x, level):
            self.deepest = max(self.deepest, level)
            y = x + 1
            print("", end="", file=Sink)
            return outer(y, level + 1) * 1

        def bounded(x, levels):
            y = x.sin()
            print("", end="", file=Sink)
            if levels == 0:
                return y
            return other(y, levels - 1).cos()

        def mutual(x, levels):
            y = bounded_entry(x * 2, levels)
            return y + 1

        outer = framejit.compile(descend) if compiled else descend
        bounded_entry = framejit.compile(bounded) if compiled else bounded
        other = framejit.compile(mutual) if compiled else mutual
        self.descend, self.bounded = outer, bounded_entry

    def depth(self):
        self.deepest = 0
        with pytest.raises(RecursionError):
            self.descend(X, 1)
        return self.deepest


def in_a_thread(function, stack_size):
    """Runs it in a thread with a C stack of that many bytes."""
    outcome = []
    previous = threading.stack_size(stack_size)
    try:
        thread = threading.Thread(target=lambda: outcome.append(run(function, (), {})))
        thread.start()
    finally:
        threading.stack_size(previous)
    thread.join()
    if outcome[0].error is not None:
        raise outcome[0].error
    return outcome[0].value


@pytest.fixture
def recursion_limit():
    limit = sys.getrecursionlimit()
    yield sys.setrecursionlimit
    sys.setrecursionlimit(limit)


def test_the_recursion_error_comes_at_eagers_depth():
    limit = sys.getrecursionlimit()
    expected = Recursion(compiled=False).depth()
    recursion = Recursion(compiled=True)
    for _ in range(4):
        assert recursion.depth() == expected
    assert sys.getrecursionlimit() == limit


def test_results_of_recursive_functions():
    plain, compiled = Recursion(compiled=False), Recursion(compiled=True)
    for levels in (0, 1, 2, 5, 30, 3, 30):
        assert torch.allclose(compiled.bounded(X, levels), plain.bounded(X, levels), rtol=1e-5, atol=0)


def test_a_callee_behind_a_break_recurses_as_deep():
    def depth(level=0):
        try:
            return depth(level + 1)
        except RecursionError:
            return level

    def inner(x):
        y = x.sin()
        found.append(depth())
        return y.cos()

    def outer(x):
        return inner(x + 1) * 2

    found = []
    compiled = framejit.compile(outer)
    for _ in range(4):
        compiled(X)
        outer(X)
    assert found[0] > 500
    assert found[::2] == found[1::2]


def test_the_limit_of_the_program_is_kept(recursion_limit):
    recursion_limit(2000)
    expected = Recursion(compiled=False).depth()
    assert Recursion(compiled=True).depth() == expected
    assert sys.getrecursionlimit() == 2000


@pytest.mark.parametrize("megabytes", [1, 8])
def test_recursion_without_a_limit_ends_with_the_c_stack(recursion_limit, megabytes):
    """A plain function would go on to the limit; each call of a compiled one needs C stack, which ends before."""
    recursion_limit(100_000)

    def depths():
        recursion = Recursion(compiled=True)
        return [recursion.depth() for _ in range(2)]

    assert min(in_a_thread(depths, megabytes << 20)) > 400 * megabytes


def test_recording_deep_frames_ends_with_the_c_stack(recursion_limit):
    recursion_limit(100_000)

    class Chain:
        def __getattr__(self, name):
            level = int(name[1:])
            return X if level == 0 else getattr(self, f"a{level - 1}")

    def reads(chain):
        return chain.a300 + 1

    compiled = framejit.compile(reads)
    for size in (1 << 18, 1 << 19, 1 << 23):
        framejit.reset()
        assert torch.equal(in_a_thread(lambda: compiled(Chain()), size), X + 1)


def test_an_error_of_the_recursion_limit_is_no_example_for_calls_that_are_less_deep():
    """How deep a call is no guard says: what was seen near the limit must not be repeated elsewhere."""

    def nested(depth):
        value = []
        for _ in range(depth):
            value = [value]
        return value

    def compares(x, a, b):
        try:
            same = a == b
        except RecursionError:
            return x - 1
        return x + same

    def at(level, function):
        return function() if level == 0 else at(level - 1, function)

    a, b = nested(400), nested(400)
    room = sys.getrecursionlimit() - len(inspect.stack())
    for remaining in (500, 420, 390, 350, 250, 150):
        framejit.reset()
        compiled = framejit.compile(compares)
        for level in (room - remaining, 5):
            results = [at(level, lambda function=function: function(X, a, b)) for function in (compiled, compares)]
            # Deep down, the interpreter has a little more room or less than under a compiled function.
            if level == 5:
                assert torch.equal(*results)
                assert torch.equal(results[0], X + 1)
