"""A recording is not used where a value that it read has become another one: one function, two values, for each kind of
value that programs pass around. And what dies, dies when it does in eager mode."""

import abc
import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import inspect
import operator
import re
import types
import weakref

import numpy
import pytest
import torch
from framejit_testing import assert_same, counting, vector

import framejit

X = vector(seed=1)
Space = types.SimpleNamespace


class Text(str):
    pass


class Int(int):
    pass


class Sub(torch.Tensor):
    pass


class Key:
    def __init__(self, n):
        self.n = n

    def __hash__(self):
        return hash(self.n)

    def __eq__(self, other):
        return self.n == other.n


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Name(str, enum.Enum):
    ONE = "one"
    TWO = "two"


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, **values):
        for name, value in values.items():
            setattr(self, name, value)


@dataclasses.dataclass
class Data:
    a: int


Pair = collections.namedtuple("Pair", "a")
DAY, OTHER_DAY = datetime.date(2021, 1, 1), datetime.date(2019, 1, 1)

# The function of x and a value, and two values for which it does not do the same.
PROBES = {
    "parameter": (lambda x, v: (v.detach() + 1, isinstance(v, torch.nn.Parameter)), X, torch.nn.Parameter(X, False)),
    "tensor subclass": (lambda x, v: v + 1, X, X.as_subclass(Sub)),
    "type of tensor": (lambda x, v: (x, type(v)), X, torch.nn.Parameter(X, False)),
    "str subclass compared": (lambda x, v: x if v == "a" else -x, Text("a"), Text("b")),
    "str subclass formatted": (lambda x, v: (x, f"{v}"), Text("a"), Text("b")),
    "str subclass measured": (lambda x, v: x * len(v), Text("a"), Text("abc")),
    "str subclass as key": (lambda x, v: x * {"a": 2, "b": 3}[v], Text("a"), Text("b")),
    "str subclass in a list": (lambda x, v: x if v == ["a"] else -x, [Text("a")], [Text("b")]),
    "int subclass": (lambda x, v: x * (v + 1), Int(3), Int(4)),
    "int subclass in a list": (lambda x, v: x if v in [1, 2] else -x, Int(1), Int(4)),
    "int subclass times a tensor": (lambda x, v: x * v, Int(3), Int(4)),
    "date ordered": (lambda x, v: x if v > datetime.date(2020, 1, 1) else -x, DAY, OTHER_DAY),
    "date in a list": (lambda x, v: x if v in [DAY] else -x, DAY, OTHER_DAY),
    "date as key": (lambda x, v: x * {DAY: 2}.get(v, 3), DAY, OTHER_DAY),
    "date formatted": (lambda x, v: (x, f"{v}"), DAY, OTHER_DAY),
    "list of dates": (lambda x, v: x if v == [DAY] else -x, [DAY], [OTHER_DAY]),
    "dict of dates": (lambda x, v: x if v == {1: DAY} else -x, {1: DAY}, {1: OTHER_DAY}),
    "least date": (lambda x, v: x if min(v) == v[0] else -x, [OTHER_DAY, DAY], [DAY, OTHER_DAY]),
    "field of a date": (lambda x, v: x * v.year, DAY, OTHER_DAY),
    "duration": (lambda x, v: x if v else -x, datetime.timedelta(1), datetime.timedelta(0)),
    "decimal": (lambda x, v: x if v < 1 else -x, decimal.Decimal("0.5"), decimal.Decimal("2")),
    "fraction": (lambda x, v: x * float(v), fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
    "range": (lambda x, v: x * len(v), range(3), range(4)),
    "slice": (lambda x, v: x[v], slice(0, 2), slice(0, 3)),
    "bytearray": (lambda x, v: x if v else -x, bytearray(b"a"), bytearray()),
    "array": (lambda x, v: x * v[0], array.array("i", [1]), array.array("i", [2])),
    "frozenset": (lambda x, v: x * len(v), frozenset({1}), frozenset({1, 2})),
    "set": (lambda x, v: x * len(v), {1}, {1, 2}),
    "deque": (lambda x, v: x * v[0], collections.deque([1]), collections.deque([2])),
    "counter": (lambda x, v: x * v["a"], collections.Counter("a"), collections.Counter("aa")),
    "mapping proxy": (lambda x, v: x * v["a"], types.MappingProxyType({"a": 1}), types.MappingProxyType({"a": 2})),
    "partial": (lambda x, v: v(x), functools.partial(torch.add, other=1), functools.partial(torch.add, other=2)),
    "itemgetter": (lambda x, v: v([x, -x]), operator.itemgetter(0), operator.itemgetter(1)),
    "methodcaller": (lambda x, v: v(x), operator.methodcaller("neg"), operator.methodcaller("abs")),
    "pattern": (lambda x, v: x if v.match("a") else -x, re.compile("a"), re.compile("b")),
    "enum": (lambda x, v: x * v.value, Color.RED, Color.BLUE),
    "enum compared": (lambda x, v: x if v == Color.RED else -x, Color.RED, Color.BLUE),
    "enum of texts": (lambda x, v: (x, v.upper(), v == "one"), Name.ONE, Name.TWO),
    "object as key": (lambda x, v: x * {Key(1): 2}.get(v, 3), Key(1), Key(4)),
    "list of objects": (lambda x, v: x if v == [Key(1)] else -x, [Key(1)], [Key(4)]),
    "slot": (lambda x, v: x * getattr(v, "b", 7), Slots(a=1), Slots(a=1, b=3)),
    "namespace": (lambda x, v: x if v == Space(a=1) else -x, Space(a=1), Space(a=2)),
    "data class": (lambda x, v: (x, v == Data(1), repr(v)), Data(1), Data(2)),
    "named tuple": (lambda x, v: x * v.a, Pair(1), Pair(2)),
    "exception": (lambda x, v: (x, str(v)), ValueError(1), ValueError(2)),
    "numpy scalar": (lambda x, v: x * float(v), numpy.float32(2), numpy.float32(3)),
    "numpy scalar's type": (lambda x, v: (x, type(v)), numpy.float32(2), numpy.float64(2)),
    "numpy scalar's truth": (lambda x, v: x if v else -x, numpy.int64(1), numpy.int64(0)),
    "numpy array": (lambda x, v: x * float(v[0]), numpy.array([1.0]), numpy.array([2.0])),
    "numpy array's dtype": (lambda x, v: (x, str(v.dtype)), numpy.array([1.0]), numpy.array([1])),
    "numpy table": (lambda x, v: x * float(v.a[0]), Space(a=numpy.array([1.0])), Space(a=numpy.array([2.0]))),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
def test_another_value_is_noticed(name):
    function, first, second = PROBES[name]
    compiled, _ = counting(function)
    native = framejit.compile(function)
    for value in (first, second, first):
        assert_same(compiled(X, value), function(X, value))
        assert_same(native(X, value), function(X, value))


LOG = []


class Finalized:
    def __init__(self, x):
        self.x = x

    def __del__(self):
        LOG.append("del")


def dies_early(x):
    thing = Finalized(x)
    y = thing.x + 1
    del thing
    LOG.append("after")
    return y


def dies_at_exit(x):
    thing = Finalized(x)
    y = thing.x + 1
    LOG.append("before")
    return y


def dies_with_its_cycle(x):
    thing = Finalized(x)
    thing.own = thing
    return thing.x + 1


def outlives_a_break(x):
    thing = Finalized(x)
    y = thing.x + 1
    print(end="")
    LOG.append("behind the break")
    return y


def cycle_and_break(x):
    thing = Finalized(x)
    thing.own = thing
    print(end="")
    return thing.x + 1


def generator_in_a_cycle(x):
    def items():
        me = [it]
        me.append(me)
        try:
            yield me
        finally:
            LOG.append("finally")

    it = items()
    next(it)
    return x + 1


def generator_dropped(x):
    def items():
        try:
            yield 1
        finally:
            LOG.append("finally")

    it = items()
    next(it)
    del it
    LOG.append("after")
    return x + 1


def weakly_held_over_a_break(x):
    thing = Finalized(x)
    reference = weakref.ref(thing)
    print(end="")
    return x + 1, reference() is not None


def weak_callback(x):
    thing = Finalized(x)
    reference = weakref.ref(thing, lambda _: LOG.append("callback"))
    del thing
    return x + 1, reference() is None


def raises_with_a_finalizer_alive(x):
    thing = Finalized(x)
    try:
        raise ValueError(thing)
    except ValueError:
        LOG.append("caught")
    return x + 1


@pytest.mark.parametrize(
    "function",
    [
        dies_early, dies_at_exit, dies_with_its_cycle, outlives_a_break, cycle_and_break, generator_in_a_cycle,
        generator_dropped, weakly_held_over_a_break, weak_callback, raises_with_a_finalizer_alive,
    ],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_finalizers_run_when_they_do_in_eager_mode(function, capfd):
    def log_of(target):
        LOG.clear()
        result = target(X)
        at_return = list(LOG)
        gc.collect()
        return result, at_return, list(LOG)

    gc.collect()
    expected = log_of(function)
    for compiled in (counting(function)[0], framejit.compile(function)):
        for _ in range(3):
            assert_same(log_of(compiled), expected)
    assert "ignored" not in capfd.readouterr().err


def test_returned_object_is_finalized_once():
    compiled = framejit.compile(lambda x: Finalized(x + 1))
    for _ in range(2):
        thing = compiled(X)
        LOG.clear()
        del thing
        gc.collect()
        assert LOG == ["del"]


def test_torch_function_of_the_users_runs_once_per_call():
    calls = []

    class Noted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})

    def f(x):
        return x + 1

    x = X.as_subclass(Noted)
    f(x)
    expected = list(calls)
    for compiled in (counting(f)[0], framejit.compile(f)):
        for _ in range(3):
            calls.clear()
            result = compiled(x)
            assert type(result) is Noted and calls == expected
            assert_same(result.as_subclass(torch.Tensor), X + 1)


class Shape(abc.ABC):
    pass


class Solid(abc.ABC):
    pass


@pytest.mark.parametrize("direct", [True, False])
def test_classes_that_an_abstract_class_is_given_later(direct):
    class Round:
        pass

    def f(x, thing):
        return x + 1 if isinstance(thing, Shape) or issubclass(type(thing), Shape) else x - 1

    compiled, backend = counting(f)
    Shape.register(Solid)
    for _ in range(2):
        assert torch.equal(compiled(X, Round()), X - 1)
    (Shape if direct else Solid).register(Round)
    for _ in range(2):
        assert torch.equal(compiled(X, Round()), X + 1)
    assert backend.count == 2


WEIGHT = vector(seed=3)


@pytest.mark.parametrize(
    "look",
    [
        lambda f: inspect.signature(f),
        lambda f: inspect.get_annotations(f),
        lambda f: f.__globals__["WEIGHT"],
        lambda f: len(f.__builtins__) > 0,
    ],
)
def test_namespaces_of_functions_made_inside_are_the_users(look):
    """Those that are read as a function's attributes were filled with the recording's tensors."""

    def f(x):
        def inner(a: torch.Tensor, *, b=2):
            return a * b

        look(inner)
        return inner(x) + WEIGHT

    weight, before = WEIGHT, dict(globals())
    compiled, backend = counting(f)
    for _ in range(3):
        assert torch.equal(compiled(X), X * 2 + weight)
    assert backend.count == 1
    assert all(globals()[name] is value for name, value in before.items())


def test_abstract_classes_made_inside():
    def f(x):
        class Given(abc.ABC):
            pass

        class Taken:
            pass

        Given.register(Taken)
        return x + 1 if isinstance(Taken(), Given) else x - 1

    compiled, backend = counting(f)
    for _ in range(3):
        assert torch.equal(compiled(X), X + 1)
    assert backend.count == 1
