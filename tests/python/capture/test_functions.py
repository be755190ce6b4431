"""Functions inside functions: closures, comprehensions, decorators, recursion, generators, callbacks from C.

PYTEST_DONT_REWRITE: an assert statement in here is a subject, and stays as it is written."""

import contextlib
import functools
import itertools
import operator
import types

import pytest
import torch
from framejit_testing import Cases, check, vector

import framejit

case = Cases()
X, Y = vector(seed=1), vector(seed=2)
GLOBAL_SCALE = 3
GLOBAL_TENSOR = vector(seed=5)


def make_adder(amount):
    def add(x):
        return x + amount

    return add


def logged(function):
    calls = []

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        return result * 2

    wrapper.calls = calls
    return wrapper


def repeat(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(x):
            for _ in range(times):
                x = function(x)
            return x

        return wrapper

    return decorate


@logged
def decorated(x):
    return torch.sin(x)


@repeat(3)
def repeated(x):
    return x * 1.5


def helper(x):
    return x * GLOBAL_SCALE + GLOBAL_TENSOR


add_tensor = make_adder(vector(seed=4))
add_number = make_adder(7)


@case(X)
def calls_global_function(x):
    return helper(x) - helper(x + 1)


@case(X)
def calls_closures(x):
    return add_tensor(x) * add_number(x)


@case(X)
def calls_decorated(x):
    return decorated(x) + repeated(x)


@case(X)
def reads_name_of_decorated(x):
    return x + len(decorated.__name__)


@case(X)
def inner_closure(x):
    scale = 2

    def inner(y):
        return y * scale + x

    return inner(x) + inner(x + 1)


@case(X)
def nonlocal_counter(x):
    count = 0

    def step(y):
        nonlocal count
        count += 1
        return y * count

    return step(x) + step(x) + step(x), count


@case(X)
def lambda_default(x):
    return (lambda y, scale=4: y * scale)(x)


@case(X)
def returns_closure_result(x):
    functions = [lambda y, i=i: y + i for i in range(3)]
    return [f(x) for f in functions]


@case(X)
def list_comprehension(x):
    return torch.stack([x * i for i in range(4) if i != 2])


@case(X)
def nested_comprehension(x):
    return [[x[i] * j for j in range(2)] for i in range(3)]


@case(X)
def dict_comprehension(x):
    return {f"k{i}": x + i for i in range(3)}


@case(X)
def set_comprehension(x):
    return x * len({i % 3 for i in range(10)})


@case(X)
def generator_expression(x):
    return sum(x * i for i in range(4))


@case(X)
def generator_function(x):
    def powers(y, n):
        for _ in range(n):
            yield y
            y = y * y

    return list(powers(x, 3))


@case(X)
def generator_with_send(x):
    def accumulate():
        total = 0
        while True:
            received = yield total
            if received is None:
                return
            total = total + received

    g = accumulate()
    next(g)
    first = g.send(x)
    return first, g.send(x * 2)


@case(X)
def yield_from(x):
    def inner():
        yield x
        yield x + 1
        return 5

    def outer():
        value = yield from inner()
        yield x * value

    return list(outer())


@case(X)
def recursion(x):
    def power(y, n):
        return y if n == 0 else power(y, n - 1) * x

    return power(x, 3)


@case(vector(3, 4))
def sorted_with_key(x):
    rows = [(2, x[0]), (0, x[1]), (1, x[2])]
    return [tensor for _, tensor in sorted(rows, key=lambda row: row[0])]


@case(X)
def sorted_key_computes_tensor(x):
    seen = []

    def key(i):
        seen.append(x + i)
        return -i

    order = sorted([1, 3, 2], key=key)
    return order, seen


@case(X)
def map_with_lambda(x):
    return list(map(lambda i: x * i, range(3)))


@case(X)
def filter_with_lambda(x):
    return [x + i for i in filter(lambda i: i % 2, range(5))]


@case(X, Y)
def reduce_with_operator(x, y):
    return functools.reduce(operator.add, [x, y, x])


@case(X)
def reduce_with_lambda(x):
    return functools.reduce(lambda a, b: a * b + x, [x, x + 1, x + 2])


@case(X)
def partial_of_function(x):
    return functools.partial(helper, x)() + functools.partial(torch.mul, x)(2)


@case(X, Y)
def zip_enumerate(x, y):
    return [a * i + b for i, (a, b) in enumerate(zip([x, y], [y, x]))]


@case(X)
def itertools_chain(x):
    return [x + i for i in itertools.chain([1, 2], (3,))]


@case(X)
def min_max_key(x):
    return x * max([1, -5, 3], key=abs) + min(4, 2)


@case(X)
def any_all(x):
    return x + 1 if any(i > 2 for i in range(4)) and all(i < 9 for i in range(4)) else x


@case(X)
def context_manager(x):
    @contextlib.contextmanager
    def scaled():
        yield 3

    with scaled() as scale:
        return x * scale


@case(X)
def reads_the_names_of_globals(x):
    return x * len([name for name in globals() if name == "X"])


class Doubler:
    def __enter__(self):
        self.entered = True
        return self

    def __exit__(self, *exc):
        self.entered = False
        return False


@case(X)
def class_context_manager(x):
    doubler = Doubler()
    with doubler as d:
        y = x * 2 if d.entered else x
    return y, doubler.entered


@case(X)
def unpacking(x):
    first, *middle, last = [x, x + 1, x + 2, x + 3]
    a, b = b, a = middle
    return first, a, b, last


@case(X)
def walrus(x):
    return y + 1 if (y := x * 2) is not None else x


@case(X)
def while_loop(x):
    n = 0
    while True:
        n += 1
        if n == 2:
            continue
        if n > 4:
            break
        x = x + n
    else:
        x = x * 100
    return x


@case(X)
def for_else(x):
    for i in range(3):
        x = x + i
    else:
        x = x * 2
    return x


@case(X, 3)
def match_statement(x, n):
    match n:
        case 1:
            return x
        case int(k) if k > 2:
            return x * k
        case _:
            return -x


class Point:
    __match_args__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


@case(X, {"kind": "scale", "by": 3, "rest": 1})
def match_mapping(x, options):
    match options:
        case {"kind": "shift", "by": n}:
            return x + n
        case {"kind": "scale", "by": n, **others}:
            return x * n, others
    return x


@case(X)
def match_class(x):
    result = []
    for subject in (Point(1, x), Point(2, 3), {"a": 1}, (1, 2), "text"):
        match subject:
            case Point(1, y):
                result.append(y + 1)
            case Point(x=first, y=int(second)):
                result.append(x * first * second)
            case {"b": _} | Point(z=_):
                result.append("never")
            case {"a": int() | float()}:
                result.append("mapping")
            case [first, *_]:
                result.append(first)
            case str(text):
                result.append(text)
    return result


@case(X, graphs=0)
def match_too_many(x):
    match Point(1, x):
        case Point(1, 2, 3):
            return x
    return x + 1


@case(X)
def f_strings(x):
    return {f"{x.dim()}d-{tuple(x.shape)!r}-{1.5:.2f}-{'a':>3}": x + 1}


@case(X)
def string_methods(x):
    name = "-".join(["a", "b"]).upper().replace("A", "c")
    return {name: x, "%s %d" % (name, 3): x * 2, "{} {}".format(1, name): x * 3}


@case(X)
def conditional_on_shape(x):
    if x.shape[0] > 3 and x.dim() == 1 and x.numel() % 2 == 0:
        return x.view(2, -1)
    return x


@case(X)
def conditional_on_dtype(x):
    return x.double() if x.dtype == torch.float32 and x.is_floating_point() else x.half()


@case(X)
def chained_comparison(x):
    return x if 0 < x.shape[0] <= 3 else -x


@case(X)
def del_variable(x):
    y = x + 1
    z = y * 2
    del y
    return z


@case(X)
def assertion_holds(x):
    assert x.dim() == 1, "one dimension"
    return x + 1


@case(X)
def import_inside(x):
    import math

    from torch.nn import functional

    return functional.relu(x) * math.pi


@case(X)
def global_math(x):
    return x * (2**0.5) // 1 % 3


@case(X)
def integer_arithmetic(x):
    n = (7 // 2) ** 2 % 5 + (1 << 3) - (6 & 3) | 1 ^ 2
    return x * n, ~n, -n, +n, n >= 3, not n


@case(X)
def isinstance_and_type(x):
    checks = isinstance(x, torch.Tensor), type(x) is torch.Tensor, isinstance(3, (int, str)), callable(torch.sin)
    return x + sum(checks), checks


@case(X)
def exit_stack(x):
    log = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(contextlib.suppress(KeyError))
        stack.callback(log.append, "closed")
        y = x.sin()
        log.append(torch.is_grad_enabled())
    return y * 2, log, torch.is_grad_enabled()


@case(X)
def exit_stack_that_suppresses(x):
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyError))
        x = x.sin()
        raise KeyError("suppressed")
    return x * 2


@case(X)
def bound_method_made_by_hand(x):
    def scaled(self, y):
        return y * len(self)

    return types.MethodType(scaled, [1, 2, 3])(x)


@pytest.mark.parametrize(*case.table)
def test_functions(function, args, expectations):
    check(function, *args, **expectations)


def test_result_without_tensors():
    """Whether a graph that nobody needs is compiled is not specified; the result is."""

    def nothing(x):
        y = x + 1
        return None

    def number(x):
        return x.shape[0] * 2

    for function in (nothing, number):
        compiled = framejit.compile(function)
        for _ in range(2):
            assert compiled(X) == function(X)
