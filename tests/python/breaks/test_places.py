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


# For each place what its breaks cost, whatever breaks: how many graphs, and how many instructions explain() names.
# A graph ends at each break and one begins behind it, so a straight line with one break has two of them. Where no
# operator lies between two instructions that run natively, there is no graph between them.
EXPECTED = {
    top: (2, 1),
    # Up to the first break; the turn to k=1, at that place in the range; then, for all turns, the rest of a turn up to
    # the iterator, which runs natively, and from there to the break of k=2.
    in_a_loop: (4, 2),
    in_no_grad: (2, 1),
    in_with: (2, 1),
    # The generator is made, entered and left natively: it existed before a recording would advance it.
    in_contextmanager: (2, 3),
    in_try: (2, 1),
    # The exception has a traceback, so that it is raised natively. There is no operator from there to the break.
    in_except: (2, 1),
    in_finally: (2, 1),
    # As in a loop: the list is not looked at while it grows, and the range ends with the second turn.
    in_comprehension: (3, 2),
    three_deep: (2, 1),
    in_an_expression: (2, 1),
    # The generator runs natively each time. To the break of k=0, of k=1; then k varies, so that `+ k` runs natively and
    # a graph ends there; and the rest of a turn.
    over_a_generator: (4, 4),
    # First loop: to the break of the first turn; of the second; the rest of a turn. Second loop, likewise: from its
    # beginning to the break; to that of the second turn; the rest of a turn.
    over_containers: (6, 4),
    with_closure: (2, 1),
    writes_around: (2, 1),
}  # fmt: skip

# Kinds that compute something before they break have it in a graph of its own where an instruction that runs natively
# comes just before the call.
COMPUTES_BEFORE = {item, branch, boolean_mask}
CALLED_BEHIND_A_BREAK = {in_except: 1, over_a_generator: 1}
# item() leaves a float behind, which is another one in the second turn: from then on its comparison runs natively as
# well, and what follows is a segment of its own. In front of the generator's next item that is one more graph; where
# the loop ends there, its end is recorded in that segment first, so that no graph for all turns is needed.
FLOAT_VARIES = {in_a_loop: (0, 1), over_a_generator: (1, 1), over_containers: (-1, 0)}


def expected_counts(kind, place):
    graphs, breaks = EXPECTED[place]
    if kind in COMPUTES_BEFORE:
        graphs += CALLED_BEHIND_A_BREAK.get(place, 0)
    if kind is item:
        more_graphs, more_breaks = FLOAT_VARIES.get(place, (0, 0))
        graphs, breaks = graphs + more_graphs, breaks + more_breaks
    return graphs, breaks


@pytest.mark.parametrize("place", EXPECTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_break(kind, place):
    def once(function):
        events.clear()
        x = X.clone()
        outcome = run(function, (x, kind), {})
        return outcome, list(events)

    graphs, breaks = expected_counts(kind, place)
    compiled, backend = counting(place)
    native = framejit.compile(place)
    for _ in range(4):
        expected, expected_events = once(place)
        for target in (compiled, native):
            actual, actual_events = once(target)
            assert_same_outcome(actual, expected)
            assert actual_events == expected_events
        # Of the first call; the later ones find all of it again.
        assert backend.count == graphs
    report = once(framejit.explain(place))[0].value
    assert (report.graph_count, report.break_count) == (graphs, breaks)
