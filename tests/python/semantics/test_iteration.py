"""Iterators, generators and the libraries made of them: send, throw, close, yield from; itertools, functools,
operator."""

import functools
import itertools
import operator
import sys

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)


class Countdown:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return self

    def __next__(self):
        if self.n == 0:
            raise StopIteration
        self.n -= 1
        return self.n


class Sequence:
    """Iterated by __getitem__ and __len__."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, i):
        if i >= 3:
            raise IndexError(i)
        return self.x * i


class Fresh:
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        yield self.x
        yield self.x + 1

    def __reversed__(self):
        return iter([self.x + 1, self.x])

    def __contains__(self, item):
        return item == 1

    def __length_hint__(self):
        return 2


@case(X)
def user_iterators(x):
    values = [x * n for n in Countdown(3)]
    seq = Sequence(x)
    fresh = Fresh(x)
    a, b = fresh
    return (
        values,
        list(seq),
        list(reversed(seq)),
        a,
        b,
        list(reversed(fresh)),
        1 in fresh,
        [*fresh],
        len(seq),
        max(Countdown(4)),
    )


@case(Countdown(3), X)
def iterator_as_argument(it, x):
    return [x * n for n in it], it.n


@case(X)
def iter_with_sentinel(x):
    items = iter([1, 2, 0, 3])
    return x, list(iter(lambda: next(items), 0)), next(items), next(items, "end")


def counter(n):
    received = []
    for i in range(n):
        value = yield i
        received.append(value)
    return received


@case(X)
def send(x):
    gen = counter(3)
    out = [next(gen), gen.send(x)]
    out.append(gen.send("b"))
    try:
        gen.send("c")
    except StopIteration as stop:
        return out, stop.value


def delegating(x):
    first = yield from counter(2)
    yield first
    second = yield from [x, x + 1]
    return first, second


@case(X)
def yield_from(x):
    gen = delegating(x)
    out = [next(gen), gen.send(1), gen.send(2), next(gen), next(gen)]
    try:
        next(gen)
    except StopIteration as stop:
        return x, out, stop.value


def careful(log):
    try:
        while True:
            try:
                yield len(log)
            except ValueError as error:
                log.append(str(error))
    finally:
        log.append("closed")


@case(X)
def throw_and_close(x):
    log = []
    gen = careful(log)
    first = next(gen)
    second = gen.throw(ValueError("v"))
    third = gen.throw(ValueError, "w") if sys.version_info < (3, 12) else gen.throw(ValueError("w"))
    gen.close()
    return x, first, second, third, log, list(gen)


def outer_generator(log):
    try:
        yield from careful(log)
    except KeyError:
        log.append("key")
        yield "after"


@case(X)
def throw_through_yield_from(x):
    log = []
    gen = outer_generator(log)
    next(gen)
    gen.throw(ValueError("v"))
    return x, gen.throw(KeyError("k")), log


@case(X)
def generator_dropped_half_way(x):
    log = []
    gen = careful(log)
    next(gen)
    del gen
    for value in careful(log):
        if value:
            break
    return x, log


@case(X)
def generator_state(x):
    gen = counter(2)
    before = gen.gi_frame is not None
    list(gen)
    return x, before, gen.gi_frame, gen.gi_running, gen.__name__


@case(X)
def stop_iteration_inside_a_generator(x):
    def bad():
        yield 1
        next(iter([]))

    try:
        return list(bad())
    except RuntimeError as error:
        return x, str(error), type(error.__cause__).__name__


def primes():
    found = []
    for n in itertools.count(2):
        if all(n % p for p in found):
            found.append(n)
            yield n


@case(X)
def infinite_generator(x):
    return [x * p for p in itertools.islice(primes(), 4)], next(p for p in primes() if p > 10)


@case(X)
def recursive_generator(x):
    def walk(tree):
        for item in tree:
            if isinstance(item, list):
                yield from walk(item)
            else:
                yield item

    return [x * n for n in walk([1, [2, [3]], 4])]


@case(X)
def pipeline_of_generators(x):
    def scale(items):
        for item in items:
            yield item * 2

    return list(scale(v for v in scale([x, x + 1]))), sum(scale(range(3)))


@case(X)
def generator_expression_details(x):
    items = [1, 2]
    gen = (i * n for i in items for n in range(i))
    items.append(3)
    return x, list(gen), list(gen), any(i > 1 for i in items), max((i for i in items), default=0)


@case(X)
def builtin_iteration_tools(x):
    return (
        [x * i + j for i, j in zip(range(3), itertools.count())], list(enumerate("ab", 1)), list(zip("ab", "xyz")),  # noqa: B905
        list(map(operator.add, [1, 2], [3, 4])), list(filter(None, [0, 1, 2])), list(map(lambda a, b: a * b, [x], [2])),
        list(map((1, 2, 3).__getitem__, {0, 1})), list(map(operator.mul, [x, 2], {3: 0, 4: 0})),
        dict(zip("ab", [x, 1], strict=True)), [*reversed(range(3))], sorted("bca"), list(map(str, [1])),
        list(filter(lambda v: v.dim() == 1, [x])),
    )  # fmt: skip


@case(X)
def zip_strict(x):
    try:
        return list(zip([1], [1, 2], strict=True))
    except ValueError as error:
        return x, str(error)


@case(X)
def itertools_functions(x):
    i = itertools
    return (
        list(i.chain([x], [1])), list(i.chain.from_iterable([[1], [2, 3]])), list(i.accumulate([1, 2, 3])),
        list(i.accumulate([x, x, x], operator.add)), list(i.accumulate([1, 2], lambda a, b: a * b, initial=5)),
        list(i.combinations("abc", 2)), list(i.combinations_with_replacement("ab", 2)), list(i.permutations(range(2))),
        list(i.product("ab", repeat=2)), list(i.islice(i.cycle("ab"), 5)), list(i.islice(range(10), 2, 8, 3)),
        list(i.repeat(x, 2)), list(i.starmap(pow, [(2, 3)])), list(i.starmap(lambda a, b: a * b, [(x, 2)])),
        list(i.takewhile(lambda v: v < 3, range(9))), list(i.dropwhile(lambda v: v < 7, range(9))),
        list(i.filterfalse(lambda v: v % 2, range(4))), list(i.compress("abc", [1, 0, 1])), list(i.pairwise([1, 2, 3])),
        [(k, list(g)) for k, g in i.groupby([1, 1, 2], key=lambda v: v % 2)],
        list(i.zip_longest("ab", "c", fillvalue="-")),
        [list(t) for t in i.tee([1, 2])], [next(c) for c in [i.count(5, 2)] for _ in range(3)],
    )  # fmt: skip


@functools.lru_cache(maxsize=None)
def cached(n):
    return n * n


@functools.singledispatch
def dispatched(value):
    return "object"


@dispatched.register
def _(value: int):
    return "int"


@dispatched.register(torch.Tensor)
def _(value):
    return value + 1


class Methods:
    def __init__(self, n):
        self.n = n

    def scale(self, x, k):
        return x * self.n * k

    double = functools.partialmethod(scale, k=2)

    @functools.singledispatchmethod
    def take(self, value):
        return "object"

    @take.register
    def _(self, value: int):
        return "int"


# From 3.13 on, singledispatchmethod keeps its methods by object, in a WeakKeyDictionary.
@case(X, breaks=1 if sys.version_info >= (3, 13) else 0)
def functools_functions(x):
    f = functools
    part = f.partial(operator.mul, x)
    more = f.partial(part)
    key = f.cmp_to_key(lambda a, b: b - a)
    return (
        part(2), more(3), part.args[0], f.partial(lambda a, *, b: a + b, b=2)(x), f.reduce(operator.add, [x, x, 1]),
        f.reduce(lambda a, b: a * b, [1, 2, 3], x), sorted([1, 3, 2], key=key), cached(3), cached(3),
        dispatched(1), dispatched("a"), dispatched(x), Methods(2).double(x), Methods(1).take(1), Methods(1).take("a"),
    )  # fmt: skip


@case(X)
def cache_made_inside(x):
    calls = []

    @functools.cache
    def f(n):
        calls.append(n)
        return n * 2

    return x * f(1), f(1), f(2), calls


@case(X)
def partial_attributes(x):
    p = functools.partial(max, 1, key=None)
    return x, p.func is max, p.args, p.keywords, p(5)


class Holder:
    def __init__(self, x):
        self.x, self.items, self.n = x, [x, 1], 3
        self.child = self

    def method(self, n):
        return self.x * n


@case(X)
def operator_functions(x):
    o, h = operator, Holder(x)
    items, table = [3, 1, 2], {"a": x}
    o.setitem(items, 0, 5)
    o.delitem(items, 1)
    return (
        o.add(x, 1), o.mul(2, x), o.neg(x), o.itemgetter(1)(items), o.itemgetter("a")(table),
        o.itemgetter(0, 1)(items), o.attrgetter("x")(h),
        o.attrgetter("child.x", "n")(h), o.methodcaller("method", 2)(h), o.methodcaller("method", n=3)(h),
        o.contains(items, 5), o.getitem(x, 1), o.truth(items),
        o.not_(0), o.is_(x, x), o.is_not(x, 1), o.concat([1], [2]), o.countOf([1, 1], 1), o.indexOf([1, 2], 2),
        o.length_hint([1]),
        o.index(True), o.iadd([1], [2]), o.pow(2, 3), o.floordiv(7, 2), o.mod(7, 4), o.matmul(x, x), o.lt(1, 2),
        o.eq(1, 1), o.inv(1),
        o.and_(6, 3), o.lshift(1, 3), o.abs(-2), o.pos(-1), o.call(o.add, 1, 2), o.ior({1}, {2}) == {1, 2},
        o.iconcat([1], [2]), o.ifloordiv(7, 2),
        o.imod(7, 4), o.ipow(2, 2), o.iand(3, 1), o.ixor(3, 1), o.ilshift(1, 1), o.irshift(4, 1), o.xor(1, 3),
        o.rshift(8, 1), o.sub(x, 1), o.truediv(x, 2),
    )  # fmt: skip


@case(X)
def sort_stability_and_keys(x):
    items = [("b", 1), ("a", 2), ("b", 0), ("a", 1)]
    items.sort(key=operator.itemgetter(0))
    numbers = [3, -1, 2]
    numbers.sort(key=abs, reverse=True)
    return (
        x,
        items,
        numbers,
        sorted(items, key=lambda t: t[1]),
        min(items, key=lambda t: t[1]),
        sorted({"b": 1, "a": 2}),
    )


@case(X)
def sum_and_product(x):
    import math

    return (
        sum([x, x]),
        sum([[1], [2]], []),
        sum(x * i for i in range(3)),
        math.prod([2, 3]),
        sum((1.5, 2)),
        sum([], start=x),
    )


@pytest.mark.parametrize(*case.table)
def test_iteration(function, args, expectations):
    check(function, *args, **expectations)


@pytest.mark.parametrize("leave", ["return", "raise", "break"])
def test_unfinished_generators_of_the_caller(leave):
    """A generator that is advanced by a compiled function and outlives it runs natively."""

    def advance(gen, x):
        return x + next(gen)

    import framejit

    compiled = framejit.compile(advance)
    eager_gen, gen = counter(5), counter(5)
    for _ in range(5):
        assert torch.equal(advance(eager_gen, X), compiled(gen, X))
