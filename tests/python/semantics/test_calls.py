"""Arguments and calls: every way to pass and to receive, closures, lambdas, decorators, defaults, and writes to outer
names."""

import functools

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)
COUNT = 0
SEEN = []


def everything(a, b=2, /, c=3, *rest, d=4, e, **others):
    return [a * b, a + c, [a * r for r in rest], a - d, a / e, {k: a + v for k, v in others.items()}]


@case(X)
def positional_only_and_keyword_only(x):
    return everything(x, e=2), everything(x, 1, 2, 3, 4, e=5), everything(x, e=1, d=0, f=2, b=9)


@case(X)
def star_arguments(x):
    parts, named = [1, 2], {"e": 3, "f": 4}
    return everything(x, *parts, **named), everything(*(x, 1), *parts, **named, **{"g": 1})


@case(X)
def star_of_a_generator(x):
    return everything(*(x * i for i in range(1, 3)), e=1)


def keywords(**named):
    return list(named)


@case(X)
def order_of_keywords(x):
    names = keywords(b=1, a=2, **{"z": 1, "c": 2})
    return [x + i for i, name in enumerate(names) if name != "z"], names


class Keys:
    def __init__(self, x):
        self.x = x

    def keys(self):
        return ["e", "d"]

    def __getitem__(self, name):
        return {"e": 2, "d": self.x}[name]


@case(X)
def double_star_of_a_mapping_of_ones_own(x):
    return everything(x, **Keys(x))


@case(X, 2, *[3, 4], kwargs={"e": 5, "k": 6})
def entry_with_everything(a, b, /, *rest, d=4, e, **others):
    return everything(a, b, *rest, d=d, e=e, **others)


@case(X)
def wrong_arguments_are_caught(x):
    found = []
    for call in (
        lambda: everything(x),
        lambda: keywords(1),
        lambda: (lambda a: a)(),
        lambda: len(),
    ):
        try:
            call()
        except TypeError as error:
            found.append(str(error).split("(")[0])
    return x + len(found), found


def default_list(x, seen=[]):  # noqa: B006
    seen.append(len(seen))
    return x * len(seen)


@case(X, setup=default_list.__defaults__[0].clear)
def default_that_changes(x):
    return default_list(x) + default_list(x)


def annotated(x: torch.Tensor, n: "int" = 2) -> torch.Tensor:
    return x * n


@case(X)
def reads_annotations(x):
    n = len(annotated.__annotations__)
    return annotated(x, n), annotated.__name__, annotated.__defaults__


@case(X)
def lambdas(x):
    add = lambda a, *b, c=1, **d: a + sum(b) + c + len(d)  # noqa: E731
    return add(x), add(x, 1, 2, c=3, e=4), (lambda: x)(), [f(x) for f in (lambda v, i=i: v * i for i in range(3))]


@case(X)
def late_binding(x):
    functions = [lambda v: v * i for i in range(3)]  # noqa: B023
    return [f(x) for f in functions]


@case(X)
def nested_closures(x):
    total = 0

    def outer(n):
        scale = n

        def inner(v):
            nonlocal total, scale
            total += 1
            scale += 1
            return v * scale + total

        return inner

    first, second = outer(1), outer(10)
    return first(x), second(x), first(x), total


@case(X)
def closure_deleted_and_unset(x):
    def read():
        return value  # noqa: F821

    try:
        read()
    except NameError as error:
        message = str(error)
    value = x + 1
    first = read()
    del value
    try:
        read()
    except NameError:
        return first, message


def write_global(x):
    global COUNT
    COUNT += 1
    SEEN.append(COUNT)
    return x + COUNT


def reset():
    global COUNT
    COUNT = 0
    SEEN.clear()


@case(X, setup=reset)
def global_writes(x):
    y = write_global(write_global(x))
    globals()["COUNT"] = 7
    return y, COUNT, list(SEEN)


def make_counter():
    count = 0

    def step(x):
        nonlocal count
        count += 1
        return x * count

    return step


@case(X)
def counter_made_inside(x):
    step = make_counter()
    return step(x), step(x), make_counter()(x)


def test_nonlocal_of_an_outside_closure():
    eager, compiled = make_counter(), make_counter()
    import framejit

    compiled = framejit.compile(compiled)
    for _ in range(4):
        assert torch.equal(eager(X), compiled(X))


def tagged(name):
    def wrap(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            return name, function(*args, **kwargs)

        call.name = name
        return call

    return wrap


@tagged("outer")
@tagged("inner")
def twice_decorated(x, *, n=2):
    """Doc."""
    return x * n


@case(X)
def decorators(x):
    return twice_decorated(x, n=3), twice_decorated.__name__, twice_decorated.__doc__, twice_decorated.name


@case(X)
def decorator_used_inside(x):
    @tagged("local")
    def local(v, n=1):
        return v + n

    return local(x), local.name, local.__wrapped__(x), local.__name__


@case(X)
def function_attributes(x):
    def f(v):
        f.calls += 1
        return v * f.calls

    f.calls = 0
    return f(f(x)), f.calls


class Callable:
    def __init__(self, n):
        self.n = n

    def __call__(self, x, *more, k=0):
        return x * self.n + sum(more) + k


@case(X)
def callable_objects(x):
    f = Callable(3)
    return f(x), f(x, 1, 2, k=4), list(map(f, [x, x + 1])), Callable.__call__(f, x), callable(f)


@case(X)
def bound_and_unbound_methods(x):
    class_method, method = Callable.__call__, Callable(2).__call__
    return class_method(Callable(3), x), method(x), method.__self__.n, method.__func__ is Callable.__call__


@case(X)
def recursion_with_closures(x):
    def walk(tree):
        if isinstance(tree, tuple):
            return sum((walk(part) for part in tree), start=x * 0)
        return x * tree

    return walk((1, (2, 3), ((4,), 5)))


@case(X)
def evaluation_order(x):
    log = []

    def note(name, value):
        log.append(name)
        return value

    table = {note("key", 1): note("value", x)}
    table[note("k", 2)] = note("v", x) + note("w", 1)
    everything(note("a", x), *note("b", [1]), e=note("e", 2), **note("more", {"f": 1}))
    first = note("one", 1) < note("two", 2) < note("three", 2) < note("never", 4)
    return table[2], log, first


@case(X)
def short_circuit(x):
    calls = []
    left = calls.append(1) or x
    right = None and calls.append(2)
    both = [] or {} or 0 or "" or "last"
    return left, right, both, (1 and 2) + 1, not calls


@case(X, 3)
def conditional_expression(x, n):
    return x * (1 if n > 2 else -1), [x if i % 2 else -x for i in range(n)]


@case(X)
def star_expressions_in_displays(x):
    parts = [x, x + 1]
    return [*parts, *range(2)], (*parts, 3), {*range(3), *"ab"} == {0, 1, 2, "a", "b"}, {**{"a": 1}, "b": x, **{"a": 2}}


@pytest.mark.parametrize(*case.table)
def test_calls(function, args, expectations):
    check(function, *args, **expectations)
