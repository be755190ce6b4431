"""Small programs that once were wrong: what C code does behind an ordinary line, and what changes between two calls."""

import abc
import collections
import copy
import functools
import io
import os
import queue
import threading
import weakref

import pytest
import torch
from framejit_testing import Cases, assert_same_outcome, check, counting, run, vector
from torch import nn

import framejit

case = Cases()
X, Y = vector(seed=1), vector(seed=2)


@case(X)
def what_errors_name(x):
    class Holder:
        @property
        def fixed(self):
            return 1

        def __getattr__(self, name):
            raise AttributeError("custom " + name)

    h, errors = Holder(), []
    for action in (
        lambda: h.missing, lambda: Holder.missing, lambda: x.missing, lambda: torch.missing, lambda: missing,  # noqa: F821
        lambda: getattr(h, "missing"), lambda: setattr(h, "fixed", 2), lambda: delattr(h, "fixed"),
    ):  # fmt: skip
        try:
            action()
        except (AttributeError, NameError) as error:
            errors.append((str(error), error.name))
            same = getattr(error, "obj", None) is h
    return x, errors, same


@case(X)
def methods_borrowed_from_c(x):
    class Config(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__
        __delattr__ = dict.__delitem__

    class Lenient(dict):
        __getitem__ = dict.get

    c = Config(a=2)
    c.b = 3
    c.c = 4
    del c.c
    return x * c.a * c.b, sorted(c), vars(c), Lenient()["nothing"]


class Restarting:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        self.i = 0
        return self

    def __next__(self):
        self.i += 1
        if self.i > self.n:
            raise StopIteration
        return self.i


@case(X)
def unpacking_asks_for_an_iterator_twice(x):
    first, *rest = Restarting(3)
    *start, last = Restarting(3)
    return x * first, rest, start, last


@case(X)
def locks_made_inside(x):
    q = queue.Queue()
    q.put(x)
    lock = threading.Lock()
    with lock:
        held = lock.locked()
    return q.get() + 1, held, lock.locked()


LOCK, CONDITION = threading.Lock(), threading.Condition()


# The lock is held while what it guards runs.
@case(X, graphs=2, breaks=8)
def locks_from_outside(x):
    with LOCK:
        held = LOCK.locked()
        print(end="")
        x = x + 1
    with CONDITION:
        CONDITION.notify_all()
    return x * 2, held, LOCK.locked()


class Locked:
    @functools.cached_property
    def value(self):
        print(end="")
        return 3


# From 3.12 on there is no lock; before, a break in the property is one in front of it.
@case(X, graphs=2, breaks=1)
def break_under_a_lock_of_a_library(x):
    y = x + 1
    return y * Locked().value


@case(X)
def files_in_memory(x):
    text, data = io.StringIO(), io.BytesIO(b"ab")
    text.write("a")
    print("b", 3, file=text)
    return x, text.getvalue(), data.read(1), os.path.join("a", "b"), os.path.splitext("a.b")


# What torch says of a shape may be another text where only metadata is computed.
@case(X, graphs=2, breaks=1)
def message_of_torch(x):
    try:
        return x @ torch.ones(7)
    except RuntimeError as error:
        return x + 1, str(error)


@case(X)
def cached_function_made_inside(x):
    calls = []

    @functools.lru_cache(maxsize=None)
    def fibonacci(n):
        calls.append(n)
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    return x * fibonacci(10), calls, fibonacci.cache_info().hits


# A cached function cannot be rebuilt, and runs in the interpreter behind a break: a recording has other cells.
@case(X, breaks=3)
def cached_function_across_a_break(x):
    calls = []

    @functools.lru_cache(maxsize=None)
    def fibonacci(n):
        calls.append(n)
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    y = x * fibonacci(4)
    print(end="")
    return y, calls, fibonacci(5)


class Plain:
    pass


# print() ends the recording; the variable is not read any more, but keeps its object alive. Whether it does is for the
# interpreter to say, as the state that was carried over the break holds it as well.
@case(X, breaks=3)
def variable_that_keeps_alive(x):
    references = []

    def register(target):
        print(end="")
        references.append(weakref.ref(target))

    plain = Plain()
    register(plain)
    return x * 2, references[0]() is not None


@case(X)
def descriptor_of_a_slot(x):
    class Base:
        __slots__ = ("a",)

    class Derived(Base):
        __slots__ = ("b", "__dict__")

    d = Derived()
    d.a, d.b, d.c = x, 2, 3
    return d.a * d.b * d.c, d.__dict__, Base.a.__get__(d) is x


@case(X)
def subclass_of_tensor_made_inside(x):
    class Named(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return super().__torch_function__(func, types, args, kwargs or {})

    t = x.as_subclass(Named)
    return (t * 2).as_subclass(torch.Tensor), type(t + 1).__name__


@pytest.mark.parametrize(*case.table)
def test_adversary(function, args, expectations):
    check(function, *args, **expectations)


def compare(function, *calls):
    """Each call's arguments are made anew by a function, for eager mode and for the compiled function."""
    compiled = framejit.compile(function)
    for make in calls:
        expected = run(function, make(), {})
        assert_same_outcome(run(compiled, make(), {}), expected)


def test_abstract_class_registered_later():
    class Abstract(abc.ABC):  # noqa: B024
        pass

    class Concrete:
        pass

    @functools.singledispatch
    def kind(value):
        return 1

    @kind.register
    def _(value: Abstract):
        return 2

    def call(x, value):
        return x * kind(value)

    value = Concrete()
    compare(call, lambda: (X, value), lambda: (X, value))
    compiled = framejit.compile(call)
    assert torch.equal(compiled(X, value), X)
    Abstract.register(Concrete)
    assert torch.equal(compiled(X, value), X * 2)


def test_identity_by_address():
    def call(x, a, b):
        return x * (2 if id(a) == id(b) else 3), copy.deepcopy([a, b])

    for make in (lambda: [1], lambda: X.clone(), lambda: nn.Parameter(X.clone()), lambda: {"a": 1}):
        compare(call, *[lambda: (X, make(), make()), lambda: (X, *[make()] * 2)] * 2)  # noqa: B023


def test_address_that_leaves():
    items = [1]
    compiled = framejit.compile(lambda x, a: (x + 1, id(a), {id(a): 1}))
    for _ in range(2):
        assert compiled(X, items)[1:] == (id(items), {id(items): 1})


def test_addresses_as_keys_of_a_cache():
    """As torch.nn.utils.parametrize.cached has them."""
    cache = {}

    def call(x, a):
        key = (id(a), "k")
        if key not in cache:
            cache[key] = a.k
        return x * cache[key]

    first, second = Plain(), Plain()
    first.k, second.k = 2, 3
    compiled, backend = counting(call)
    for _ in range(3):
        for value in (first, second):
            assert torch.equal(compiled(X, value), X * value.k)
    assert cache == {(id(first), "k"): 2, (id(second), "k"): 3}
    assert backend.count == 4  # of each, without and with its key


def test_text_with_an_address():
    first, second = Plain(), Plain()
    compiled = framejit.compile(lambda x, a: (x + 1, repr(a), f"{a}", "%s" % (a,), str([a])))
    for value in (first, second, first):
        assert compiled(X, value)[1:] == (repr(value), f"{value}", "%s" % (value,), str([value]))


def test_copies_of_parts_of_memory():
    memory = torch.arange(8.0)

    def call(a, b):
        first, second = copy.deepcopy([a, b])
        first.zero_()
        return second + 1, first.storage_offset()

    compare(
        call, lambda: (X.clone(), Y.clone()), lambda: (memory[:4], memory[2:6]), lambda: (memory[1:5], X.clone()),
        lambda: (X.clone(), Y.clone()),
    )  # fmt: skip


def test_namespaces_that_change():
    names = {"k": 2}
    compiled = framejit.compile(lambda x: eval("x * k", {"x": x, "k": names["k"]}))
    for k in (2, 2, 3, 2):
        names["k"] = k
        assert torch.equal(compiled(X), X * k)


def test_bases_that_change():
    class Base:
        k = 1

    def call(x):
        class Derived(Base):
            pass

        point = collections.namedtuple("Point", "a")
        return x * Derived().k, point.__module__

    compiled = framejit.compile(call)
    for k in (1, 1, 2, 1):
        Base.k = k
        result, module = compiled(X)
        assert torch.equal(result, X * k) and module == __name__
