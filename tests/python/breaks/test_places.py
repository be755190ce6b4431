"""Breaks of every kind at every place: the result, the side effects and their order are eager's, what comes before and
after the break is compiled, and the second call finds it all again."""

import contextlib

import pytest
import torch
from framejit_testing import assert_same_outcome, counting, run, vector

import framejit

X = vector(seed=1)
events: list = []


# --- kinds: each returns a tensor made of its argument --------------------------------------------------------------


def c_function(x):
    print("seen", file=Sink)
    return x


class Sink:
    @staticmethod
    def write(text):
        events.append(text)


@framejit.disable
def disabled(x):
    events.append("disabled")
    return x + 1


def explicit(x):
    framejit.graph_break()
    return x


def item(x):
    return x * (x.abs().sum().item() > 0)


def branch(x):
    if x.abs().sum() > 0:
        return x * 2
    return x


def boolean_mask(x):
    return x + x[x.abs() >= 0].sum()


def as_list(x):
    return x + len(x.tolist())


KINDS = [c_function, disabled, explicit, item, branch, boolean_mask, as_list]


# --- places: `hit` breaks; x.sin() runs before it and .cos() after it ------------------------------------------------


def top(x, hit):
    y = x.sin()
    y = hit(y)
    return y.cos()


def in_a_loop(x, hit):
    y = x
    for k in range(3):
        y = y.sin() + k
        y = hit(y)
        y = y.cos()
    return y


def in_no_grad(x, hit):
    with torch.no_grad():
        y = x.sin()
        y = hit(y)
        y = y.cos()
    return y + torch.is_grad_enabled()


@contextlib.contextmanager
def noted(name):
    events.append(("enter", name))
    try:
        yield name
    finally:
        events.append(("exit", name))


class Manager:
    def __enter__(self):
        events.append("enter")
        return self

    def __exit__(self, *error):
        events.append(("exit", error[0]))


def in_with(x, hit):
    with Manager() as manager:
        y = x.sin()
        y = hit(y)
        y = y.cos()
    return y, type(manager).__name__


def in_contextmanager(x, hit):
    with noted("block") as name:
        y = x.sin()
        y = hit(y)
        y = y.cos()
    return y, name


def in_try(x, hit):
    try:
        y = x.sin()
        y = hit(y)
        y = y.cos()
    except ValueError:
        events.append("except")
    finally:
        events.append("finally")
    return y


def in_except(x, hit):
    y = x.sin()
    try:
        raise ValueError("expected")
    except ValueError as error:
        y = hit(y)
        events.append(str(error))
    return y.cos()


def in_finally(x, hit):
    try:
        y = x.sin()
    finally:
        y = hit(y)
        events.append("finally")
    return y.cos()


def in_comprehension(x, hit):
    return [hit(x.sin() + k).cos() for k in range(2)]


def three_deep(x, hit):
    def inner(y):
        z = hit(y.sin())
        return z.cos()

    def middle(y):
        return inner(y * 2) + y

    return middle(x + 1) * 3


def in_an_expression(x, hit):
    return (x.sin(), x + 1, [x * 2, hit(x.exp()).cos()], {"a": x})


def numbers(count):
    for k in range(count):
        events.append(("next", k))
        yield k


def over_a_generator(x, hit):
    y = x
    for k in numbers(3):
        y = hit(y.sin() + k).cos()
    return y


def over_containers(x, hit):
    table = {"a": x, "b": x + 1}
    total = x
    for position, (key, value) in enumerate(table.items()):
        total = hit(total + value * position).cos()
        events.append(key)
    for value, other in zip([x, x * 2], (x.sin(), x.cos()), strict=False):
        total = hit(total + value) * other
    return total


def with_closure(x, hit):
    count = 0

    def add(y):
        nonlocal count
        count += 1
        return y + count

    y = add(x)
    y = hit(y)
    y = add(y)
    return y, count, add(x)


def writes_around(x, hit):
    made = {"list": []}
    made["list"].append(x.sin())
    y = hit(x)
    made["list"].append(y.cos())
    made["same"] = made["list"]
    return made


PLACES = [
    top, in_a_loop, in_no_grad, in_with, in_contextmanager, in_try, in_except, in_finally, in_comprehension, three_deep,
    in_an_expression, over_a_generator, over_containers, with_closure, writes_around,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_break(kind, place):
    def once(function):
        events.clear()
        x = X.clone()
        outcome = run(function, (x, kind), {})
        return outcome, list(events)

    compiled, backend = counting(place)
    native = framejit.compile(place)
    counts = []
    for _ in range(4):
        expected, expected_events = once(place)
        for target in (compiled, native):
            actual, actual_events = once(target)
            assert_same_outcome(actual, expected)
            assert actual_events == expected_events
        counts.append(backend.count)
    assert counts[0] >= 1, "nothing was compiled"
    assert counts[1:] == counts[1:2] * 3, f"recorded again on later calls: {counts}"
