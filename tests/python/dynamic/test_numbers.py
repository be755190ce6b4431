"""Ints and floats from outside that vary between calls. From the second value on, one recording holds for all of them:
what is computed of numbers alone is computed on each call, and what tensors are computed with them has a graph for each
value. Each call is compared with eager, and the number of recordings is stated."""

import array
import collections
import itertools
import operator

import pytest
import torch
from dynamic_testing import assert_same_as_eager, demands, recordings, traces
from framejit_testing import assert_same
from torch import nn
from torch.nn import functional as F

import framejit

NUMBERS = (3, 4, 2, 7, 1, 5, 6, 3, 9, 11, 4)
Pair = collections.namedtuple("Pair", ["first", "second"])


def data(rows: int = 12, width: int = 4) -> torch.Tensor:
    return torch.arange(rows * width, dtype=torch.float32).reshape(rows, width).sin()


def windows(x, k):
    return torch.stack([x[i : i + k].amax() for i in range(0, 12, 6)])


def in_a_class(x, k):
    class Config:
        def __init__(self, k):
            self.k = k

        def scale(self, y):
            return y * self.k

    return Config(k).scale(x)


def written_slice(x, k):
    y = x.clone()
    y[:k] = k
    return y


# Served by one recording from the second value on.
SERVED = {
    "scalar": lambda x, k: x * k + 1,
    "alpha": lambda x, k: torch.add(x, x, alpha=k),
    "slice": lambda x, k: x[:k] * 2,
    "negative_slice": lambda x, k: x[-k:],
    "two_slices": lambda x, k: torch.cat([x[k:], x[:k]]),
    "index": lambda x, k: x[k] + x[-k],
    "narrow": lambda x, k: x.narrow(0, 1, k),
    "size": lambda x, k: x.new_zeros(k, 4) + 1,
    "arange": lambda x, k: torch.arange(k, 2 * k) * 2,
    "arithmetic": lambda x, k: x * (k // 2 + k % 3 - 2**k) / max(k, 4),
    "division": lambda x, k: x * (1 / k),
    "repeat": lambda x, k: x.repeat(k, 1),
    "roll": lambda x, k: x.roll(k, 0),
    "tril": lambda x, k: x.tril(k - 3),
    "topk": lambda x, k: x.topk(k, dim=0).values,
    "pad": lambda x, k: F.pad(x, (k, 0)),
    "kernel_size": lambda x, k: F.avg_pool1d(x.t()[None], k),
    "returned": lambda x, k: (x + 1, k, k * 2, [k], {"k": k + 1}),
    "of_sizes": lambda x, k: x.reshape(-1)[: x.shape[1] * k],
    "windows": windows,
    "in_a_class": in_a_class,
    "tuple": lambda x, k: x * Pair(k, 2).first,
    "sorted": lambda x, k: x * sorted([k, 5])[0],
    "negated": lambda x, k: x * -k,
    "written_slice": written_slice,
    "is_none": lambda x, k: x + 1 if k is None else x * k,
}

# Of numbers alone: no call needs another graph.
LOOSE = {
    "only_returned": lambda x, k: (x + 1, k, k * 2 + 1),
    "logged": lambda x, k: (x + 1, "many") if k > 100 else (x + 1, "few"),
    "every_tenth": lambda x, k: (x + 1, k + 1) if k % 10 == 20 else (x + 1, k - 1),
}

# A condition or a text fixes what it says.
FIXED = {
    "condition": (lambda x, k: x + k if k > 3 else x - k, 3),
    "parity": (lambda x, k: x + 1 if k % 2 else x - 1, 3),
    "chain": (lambda x, k: x + 1 if 2 < k < 6 else x - 1, 4),
    "truth": (lambda x, k: x + 1 if k - 4 else x - 1, 3),
}
SPECIALISED = {
    "range": lambda x, k: sum(x[i] for i in range(k)),
    "text": lambda x, k: x * len(f"{k:b}") + int(str(k)),
    "list_index": lambda x, k: x * list(range(20))[k],
    "dict_key": lambda x, k: x * {n: n + 1 for n in range(20)}[k],
    "islice": lambda x, k: x * len(list(itertools.islice(range(100), k))),
    "set": lambda x, k: x * len({k, 3, 4}),
    "getter": lambda x, k: x * operator.itemgetter(k)(list(range(20))),
}


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("name", SERVED)
def test_served(name, backend):
    function = SERVED[name]
    compiled = framejit.compile(function, backend=backend)
    for k in NUMBERS:
        assert_same_as_eager(compiled, function, data(), k)
    assert recordings(compiled) == 2


@pytest.mark.parametrize("name", SERVED)
def test_served_with_sizes(name):
    """The tensor varies as well."""
    function = SERVED[name]
    compiled = framejit.compile(function)
    for rows, k in zip((12, 13, *range(12, 30)), NUMBERS * 2, strict=False):
        assert_same_as_eager(compiled, function, data(rows), k)
    assert recordings(compiled) == 2


@pytest.mark.parametrize("name", LOOSE)
def test_numbers_beside_the_graph(name):
    function = LOOSE[name]
    compiled = framejit.compile(function)
    for k in range(90):
        assert_same_as_eager(compiled, function, data(), k)
    assert recordings(compiled) == 2
    assert traces(compiled)[0]["size_variants"] == 1


@pytest.mark.parametrize("name", FIXED)
def test_fixed_by_a_condition(name):
    function, expected = FIXED[name]
    compiled = framejit.compile(function)
    for k in (*NUMBERS, *NUMBERS):
        assert_same_as_eager(compiled, function, data(), k)
    assert recordings(compiled) == expected
    assert demands(compiled)


@pytest.mark.parametrize("name", SPECIALISED)
def test_fixed_to_each_value(name):
    function = SPECIALISED[name]
    compiled = framejit.compile(function, options={"recompile_limit": 64})
    for k in (*NUMBERS, *NUMBERS):
        assert_same_as_eager(compiled, function, data(), k)
    assert 2 < recordings(compiled) <= len(set(NUMBERS))


def test_demands_are_readable():
    function = FIXED["condition"][0]
    compiled = framejit.compile(function)
    for k in (5, 6, 7, 2):
        compiled(data(), k)
    assert demands(compiled) == ["not (L['k'] > 3)", "(L['k'] > 3)"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, p: x * p,
        lambda x, p: x.clamp(max=p) + p * 2,
        lambda x, p: (x + 1, p / 2, round(p)),
        lambda x, p: F.leaky_relu(x, p),
        lambda x, p: x ** (1 + p),
        lambda x, p: torch.full((2, 2), p),
    ],
)
def test_floats(function):
    compiled = framejit.compile(function)
    for p in (0.5, 0.25, 0.0, -0.0, 1e-3, float("inf"), 0.5, 3.0, float("-inf"), 2.5):
        try:
            function(data(), p)
        except (OverflowError, ValueError):
            continue
        assert_same_as_eager(compiled, function, data(), p)
    assert recordings(compiled) == 2


def test_types_are_apart():
    def function(x, k):
        return x * k, type(k), k

    compiled = framejit.compile(function)
    for k in (3, 4, 2.0, 5, 7.5, True, False, 2, 1, 6, 0.5):
        assert_same_as_eager(compiled, function, data(), k)
    assert recordings(compiled) <= 6


def test_large_numbers():
    def function(x, k):
        return x + 1, k + 1, k * k

    compiled = framejit.compile(function)
    for k in (3, 4, 2**62, 2**63, -(2**63), 2**70, 5, 2**63 - 1):
        assert_same_as_eager(compiled, function, data(), k)


def test_number_itself_is_returned():
    def function(x, k):
        return x + 1, k

    compiled = framejit.compile(function)
    for k in (1000, 2000, 3000, 4000, 2.5, 3.5, 4.5):
        assert compiled(data(), k)[1] is k


def test_identity():
    def function(x, a, b):
        return x + 1 if a is b else x - 1

    compiled = framejit.compile(function)
    big = 10**9
    for a, b in ((3, 3), (4, 4), (5, 6), (big, big), (6, 6), (7, 8)):
        assert_same_as_eager(compiled, function, data(), a, b)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls % 1000 == 999:
            return x
        return self.linear(x)


def test_counter():
    """A counter that the module keeps: no graph depends on it."""
    module = Counting()
    compiled = framejit.compile(module)
    with torch.no_grad():
        for calls in range(1, 200):
            assert_same(compiled(data()), module.linear(data()))
            assert module.calls == calls
    assert recordings(compiled) == 2
    assert traces(compiled)[0]["size_variants"] == 1


def test_effects_that_are_none_at_the_recorded_value():
    class Kept:
        def __init__(self, k):
            self.k, self.list, self.table, self.deque = k, [k], {"k": k}, collections.deque([k])

    def function(x, kept):
        total = x * kept.k + kept.list[0] + kept.table["k"] + kept.deque[0]
        kept.k = kept.list[0] = kept.table["k"] = kept.deque[0] = 4
        return total

    compiled = framejit.compile(function)
    for k in (3, 4, 5, 4, 6):
        ours, theirs = Kept(k), Kept(k)
        assert_same(compiled(data(), ours), function(data(), theirs))
        assert vars(ours) == vars(theirs)


def test_training_with_a_step():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)

    def loss(x, step):
        value = layer(x).square().mean()
        return value, step % 10 == 100

    compiled = framejit.compile(loss)
    for step in range(50):
        layer.weight.grad = None
        compiled(data(), step)[0].backward()
        actual = layer.weight.grad
        layer.weight.grad = None
        loss(data(), step)[0].backward()
        assert_same(actual, layer.weight.grad)
    assert recordings(compiled) <= 3
    assert all(trace["has_backward"] for trace in traces(compiled))


def test_numbers_in_what_is_passed():
    class Config:
        def __init__(self, k):
            self.k, self.more, self.table = k, (k, k + 1), {"k": k, "list": [k, 2]}

    def function(x, config):
        return x * config.k + config.more[1] - config.table["k"] * config.table["list"][0]

    compiled = framejit.compile(function)
    for k in NUMBERS:
        assert_same_as_eager(compiled, function, data(), Config(k))
    assert recordings(compiled) == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c: x * max(c.table["list"]),
        lambda x, c: x * sum(c.table["list"]),
        lambda x, c: x * sorted(c.table.values(), key=str)[0],
        lambda x, c: x * len(str(c.table)),
        lambda x, c: x * operator.attrgetter("k")(c),
        lambda x, c: x * vars(c)["k"],
        lambda x, c: x * len(f"{c.more}"),
        lambda x, c: x + 1 if 4 in c.table["list"] else x - 1,
        lambda x, c: x + 1 if c.more == (4, 5) else x - 1,
        lambda x, c: x + 1 if c.table == {"k": 4, "list": [4, 2]} else x - 1,
        lambda x, c: x * c.table["list"].index(2),
        lambda x, c: x.new_zeros(c.table["list"]).sum() + x,
        lambda x, c: x.new_zeros(c.more).sum() + x,
        lambda x, c: x.new_zeros(c.size).sum() + x,
        lambda x, c: x[c.slice],
        lambda x, c: x * list(range(20))[c.slice][0],
        lambda x, c: x * list(reversed(c.table["list"]))[1] * list(enumerate(c.table["list"]))[0][1],
    ],
)
def test_numbers_that_c_code_reads(function):
    class Config:
        def __init__(self, k):
            self.k, self.more, self.table = k, (k, k + 1), {"k": k, "list": [k, 2]}
            self.size, self.slice = torch.Size([k, 2]), slice(k, k + 3)

    compiled = framejit.compile(function, options={"recompile_limit": 64})
    for k in (3, 4, 2, 7, 1, 5, 6, 3, 8, 4):
        assert_same_as_eager(compiled, function, data(), Config(k))


def test_closures_and_globals():
    k = 0

    def function(x):
        return x * k + SCALE

    global SCALE
    compiled = framejit.compile(function)
    for k, SCALE in zip(NUMBERS, reversed(NUMBERS), strict=True):
        assert_same(compiled(data()), data() * k + SCALE)
    assert recordings(compiled) == 2


SCALE = 1


@pytest.mark.parametrize("dynamic, expected", [(None, 2), (True, 2), (False, 5)])
def test_option(dynamic, expected):
    def function(x, k):
        return x * k

    compiled = framejit.compile(function, dynamic=dynamic)
    for k in (3, 4, 5, 6, 7):
        assert_same_as_eager(compiled, function, data(), k)
    assert recordings(compiled) == expected


def test_values_that_never_come_again(caplog):
    """A graph for each of thousands of values would be a waste: what uses the number runs in the interpreter then."""

    def function(x, k):
        return x.norm(k) + 1

    compiled = framejit.compile(function)
    for k in range(400):
        assert_same_as_eager(compiled, function, data(), k)
    found = traces(compiled)
    assert 2 < len(found) <= 9
    settled = sum(trace["size_variants"] for trace in found)
    for k in range(400, 420):
        assert_same_as_eager(compiled, function, data(), k)
    assert sum(trace["size_variants"] for trace in traces(compiled)) == settled


def test_across_a_break():
    def function(x, k):
        y = x * k
        framejit.graph_break()
        return y + k, k

    compiled = framejit.compile(function)
    for k in NUMBERS:
        assert_same_as_eager(compiled, function, data(), k)


def is_in(x, n, items):
    return x + (10 if n in items else 20)


def is_in_what_was_read(x, n, items):
    return x + items[0] + (10 if n in items else 20)


def is_an_item(x, n, items):
    return x + (10 if [n, 1] == items else 20)


def has_the_shape(x, n, items):
    return x + (10 if list(x.shape) == items else 20)


def is_a_pair(x, n, items):
    return x + (10 if (n, items) == (3, [1]) else 20)


def has_a_shape_of(x, n, items):
    return x + (10 if tuple(x.shape) in items else 20)


CONTAINERS = [
    (is_in, [(n, [1, 2, 3]) for n in (1, 2, 3, 4)]),
    (is_in, [(1, {1: 0}), (2, {1: 0}), (7, {7: 0}), (7, {})]),
    (is_in, [(1, {1}), (2, {1}), (7, {7}), (7, set())]),
    (is_in, [(n, array.array("i", [m])) for n, m in ((1, 1), (2, 1), (4, 1), (4, 4))]),
    (is_in_what_was_read, [(n, [1, 2, 3]) for n in (1, 2, 3, 4)]),
    (is_an_item, [(1, [1, 1]), (2, [2, 1]), (3, [3, 1]), (3, [3])]),
    (has_the_shape, [(1, [1]), (2, [2]), (3, [3]), (3, [2])]),
    (is_a_pair, [(1, [1]), (2, [1]), (3, [1]), (3, [2])]),
    (has_a_shape_of, [(n, [(2,), (3,)]) for n in (1, 2, 3, 4)]),
]


@pytest.mark.parametrize("function, calls", CONTAINERS)
@pytest.mark.parametrize("dynamic", [None, True])
def test_a_number_that_varies_beside_a_container_from_outside(function, calls, dynamic):
    """What is compared with the number is guarded, or read, as it is beside any other."""
    compiled = framejit.compile(function, dynamic=dynamic)
    for n, items in [*calls, *calls]:
        assert_same_as_eager(compiled, function, torch.zeros(n), n, items)


def test_a_schedule_of_steps():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.milestones = 0, [3, 5, 6]

        def forward(self, x):
            self.step += 1
            return x * (2 if self.step in self.milestones else 1)

    plain, compiled = Model(), framejit.compile(Model())
    for _ in range(9):
        assert_same(compiled(torch.ones(3)), plain(torch.ones(3)))
