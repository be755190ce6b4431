"""Control flow: exceptions with handlers and chaining, context managers, match, comprehensions, walrus, unpacking,
slices, f-strings."""

import contextlib
import dataclasses

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)


class Own(Exception):
    def __init__(self, value, code=0):
        super().__init__(value, code)
        self.value, self.code = value, code


def fail(kind, *args):
    raise kind(*args)


@case(X)
def handlers_are_chosen(x):
    found = []
    for kind in (KeyError, IndexError, ZeroDivisionError, ValueError, Own):
        try:
            fail(kind, 1)
        except (KeyError, IndexError) as error:
            found.append(("lookup", type(error).__name__, error.args))
        except ArithmeticError:
            found.append("arithmetic")
        except Own as own:
            found.append((own.value, own.code))
        except Exception as error:
            found.append(repr(error))
        else:
            found.append("never")
        finally:
            found.append("finally")
    return x * len(found), found


@case(X)
def chaining(x):
    try:
        try:
            {}["a"]
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        cause, context = error.__cause__, error.__context__
        first = (type(cause).__name__, cause is context, error.__suppress_context__)
    try:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            fail(ValueError, "second")
    except ValueError as error:
        second = (type(error.__context__).__name__, error.__cause__)
    try:
        try:
            fail(KeyError)
        except KeyError:
            raise ValueError from None
    except ValueError as error:
        third = (error.__cause__, error.__suppress_context__, type(error.__context__).__name__)
    return x + 1, first, second, third


@case(X)
def name_is_deleted_after_handler(x):
    try:
        fail(ValueError)
    except ValueError as error:
        kept = error
    try:
        error  # noqa: B018
    except NameError:
        return x + 1, type(kept).__name__


@case(X)
def reraise_and_finally_order(x):
    log = []

    def inner():
        try:
            log.append("try")
            fail(Own, 3)
        except Own:
            log.append("handler")
            raise
        finally:
            log.append("finally")

    try:
        inner()
    except Own as own:
        log.append(own.value)
    return x, log


@case(X)
def return_from_finally(x):
    def f():
        try:
            return x
        finally:
            return x + 1  # noqa: B012

    def g():
        for i in range(3):
            try:
                continue
            finally:
                if i == 1:
                    break  # noqa: B012
        return i

    return f(), g()


@case(X)
def exception_notes_and_args(x):
    try:
        error = ValueError("a", 1)
        error.add_note("note")
        raise error
    except ValueError as caught:
        return x, caught.__notes__, caught.args, str(caught), caught is error


@case(X)
def exceptions_that_carry_tensors(x):
    try:
        fail(Own, x * 2, 3)
    except Own as own:
        return own.value + own.code


@case(X)
def builtin_errors(x):
    found = []
    for action in (
        lambda: [][1], lambda: {}["k"], lambda: int("z"), lambda: None.a, lambda: 1 + "a", lambda: undefined_name,  # noqa: F821
        lambda: (1).foo, lambda: len(3), lambda: iter(4), lambda: next(iter([])), lambda: "a".index("b"),
        lambda: [1].remove(2), lambda: {1}.remove(2), lambda: float("x"), lambda: 1 // 0, lambda: 2**-1 % 0,
        lambda: chr(-1), lambda: range(1, 2, 0), lambda: object() < object(), lambda: None(1), lambda: "%d" % "a",
        lambda: dict([(1, 2, 3)]), lambda: (_ for _ in ()).throw(KeyError), lambda: setattr(1, "a", 2), lambda: {[]: 1},
    ):  # fmt: skip
        try:
            action()
        except Exception as error:
            found.append((type(error).__name__, str(error)))
    return x * len(found), found


@case(X)
def exception_groups(x):
    found = []
    try:
        raise ExceptionGroup("g", [ValueError(1), TypeError(2), KeyError(3)])
    except* ValueError as group:
        found.append([e.args for e in group.exceptions])
    except* (TypeError, KeyError) as group:
        found.append(len(group.exceptions))
    return x * len(found), found


@case(X)
def assertion_message(x):
    try:
        if x.dim() != 2:
            raise AssertionError(f"dim {x.dim()}")
    except AssertionError as error:
        return x, str(error)


@case(X)
def loop_with_else_and_nested_breaks(x):
    log = []
    for i in range(4):
        for j in range(4):
            if j == i:
                break
            if j == 2:
                continue
            log.append((i, j))
        else:
            log.append("else")
    while True:
        log.append("while")
        if len(log) > 8:
            break
    else:
        log.append("never")
    return x * len(log), log


class Manager:
    def __init__(self, log, suppress=False, name="m"):
        self.log, self.suppress, self.name = log, suppress, name

    def __enter__(self):
        self.log.append(("enter", self.name))
        return self

    def __exit__(self, kind, value, trace):
        self.log.append(("exit", self.name, None if kind is None else kind.__name__, str(value)))
        return self.suppress


@case(X)
def with_class_managers(x):
    log = []
    with Manager(log, name="a") as a, Manager(log, name="b"):
        y = x + len(a.log)
    with Manager(log, suppress=True):
        fail(ValueError, "v")
    try:
        with Manager(log, name="c"), Manager(log, name="d"):
            fail(KeyError, 1)
    except KeyError:
        log.append("caught")
    return y, log


@case(X)
def with_returns_and_breaks(x):
    log = []

    def f():
        for i in range(3):
            with Manager(log, name=i):
                if i == 1:
                    return i
                continue

    return x * f(), log


@contextlib.contextmanager
def managed(log, swallow=False):
    log.append("enter")
    try:
        yield len(log)
    except ValueError:
        log.append("error")
        if not swallow:
            raise
    finally:
        log.append("exit")


@case(X)
def with_generator_managers(x):
    log = []
    with managed(log) as n, managed(log) as m:
        y = x * n + m
    with managed(log, swallow=True):
        fail(ValueError)
    try:
        with managed(log):
            fail(ValueError, 3)
    except ValueError as error:
        log.append(error.args)
    return y, log


@managed([])
def decorated_by_a_manager(x):
    return x + 1


@case(X)
def manager_as_decorator(x):
    log = []

    @managed(log)
    def f(v):
        return v * 2

    return f(x) + f(x), log


@case(X)
def contextlib_tools(x):
    log = []
    with contextlib.suppress(KeyError, ValueError):
        fail(KeyError)
    with contextlib.nullcontext(3) as n:
        log.append(n)
    with contextlib.ExitStack() as stack:
        stack.callback(log.append, "callback")
        stack.enter_context(Manager(log, name="s"))
        stack.push(lambda *details: log.append(details[0]))
    return x * n, log


class Closing:
    def __init__(self, log):
        self.log = log

    def close(self):
        self.log.append("closed")


@case(X)
def contextlib_closing(x):
    log = []
    with contextlib.closing(Closing(log)) as c:
        c.log.append("body")
    return x, log


class Both(contextlib.ContextDecorator):
    def __init__(self, log):
        self.log = log

    def __enter__(self):
        self.log.append("in")

    def __exit__(self, *details):
        self.log.append("out")


@case(X)
def context_decorator(x):
    log = []

    @Both(log)
    def f(v):
        return v + 1

    return f(x), log


@dataclasses.dataclass
class Node:
    left: object
    right: object = None


class Pair:
    __match_args__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b


def describe(value):
    match value:
        case None | True | False:
            return "singleton"
        case int(n) if n > 10:
            return "large", n
        case int() | float():
            return "number"
        case "a" | "b" as letter:
            return "letter", letter
        case str():
            return "text"
        case []:
            return "empty"
        case [one]:
            return "one", one
        case [first, *middle, last]:
            return "many", first, middle, last
        case {"kind": kind, **rest}:
            return "kind", kind, rest
        case {}:
            return "mapping"
        case Node(left=Node(left=inner)):
            return "deep", inner
        case Node(left, right=None):
            return "node", left
        case Pair(a, b=2):
            return "pair", a
        case torch.Tensor(shape=torch.Size([4])):
            return "tensor"
        case _:
            return "other"


@case(X)
def match_everything(x):
    values = [
        None, True, 11, 3, 2.5, "a", "zz", [], [1], (1, 2, 3), [1, 2], {"kind": 1, "b": 2}, {"c": 1}, {}, Node(Node(5)),
        Node(6), Pair(7, 2), Pair(7, 3), x, 1j, range(3), b"bytes",
    ]  # fmt: skip
    return x, [describe(value) for value in values]


@case(X, (2, 3))
def match_on_shape(x, pair):
    match pair:
        case (a, b) if a > b:
            return x * a
        case (a, b):
            return x * b


@case(X)
def comprehensions(x):
    grid = [(i, j) for i in range(3) for j in range(i) if (i + j) % 2]
    table = {k: v * 2 for k, v in zip("abc", range(3), strict=True) if v}
    nested = [[x * i for i in range(j)] for j in range(3)]
    names = {name.upper() for name in table}
    lazy = sum(i * i for i in range(4))
    return x * lazy, grid, table, nested, names == {"B", "C"}


@case(X)
def comprehension_scopes(x):
    i = 10
    inner = [i for i in range(3)]
    functions = [lambda i=i: i for i in inner]
    y = [x * i for _ in range(1)]
    return y, i, inner, [f() for f in functions], [[a for a in inner if a > b] for b in inner]


@case(X)
def walrus(x):
    if (n := len(x)) > 3:
        y = x * n
    values = [m for k in range(5) if (m := k * k) > 3]
    while (n := n - 1) > 1:
        y = y + n
    return y, values, m, n, (z := x + 1), z


@case(X)
def unpacking(x):
    a, b = x, x + 1
    a, b = b, a
    first, *rest = range(4)
    *start, last = "abc"
    (p, (q, r)), s = (1, [2, 3]), {4}
    for i, (j, *k) in enumerate([(1, 2, 3), (4,)]):
        rest.append((i, j, k))
    head, _, tail = [0, 1, 2][::-1]
    u, v, w, z = x
    return a, b, first, rest, start, last, p, q, r, s, head, tail, u + z


@case(X)
def unpacking_errors(x):
    found = []
    for values in ([1], [1, 2, 3], 5):
        try:
            a, b = values
        except (ValueError, TypeError) as error:
            found.append(str(error))
    try:
        a, *b, c = [1]
    except ValueError as error:
        found.append(str(error))
    return x, found


@case(X)
def multiple_targets(x):
    a = b = [x]
    b.append(1)
    c = d = 3
    d += 1
    e, f = g = (1, 2)
    return a, b is a, c, d, e, f, g


@case(vector(4, 5))
def slices(x):
    items = list(range(10))
    items[2:4] = [20, 30, 40]
    items[::5] = [-1, -2, -3]
    del items[-2:]
    part = slice(1, None, 2)
    return (
        x[1:3, ::2], x[..., -1], x[None, :, part], items, items[part], items[::-1], part.indices(7), part.start,
        "abcdef"[1:-1:2], (1, 2, 3)[:-1], range(10)[2:8:3], x[part], b"abc"[1:], part == slice(1, None, 2),
    )  # fmt: skip


@case(X)
def augmented_assignments(x):
    items = [1, 2]
    alias = items
    items += [3]
    items *= 2
    table = {"a": 1}
    table["a"] += 4
    table |= {"b": 2}
    n = 7
    n //= 2
    n **= 2
    n <<= 1
    n ^= 1
    text = "a"
    text += "b"
    y = x
    y = y + 1
    y *= 2
    return y, alias, table, n, text


@case(X, 3, "name")
def f_strings(x, n, name):
    width = 6
    return (
        x, f"{n:>{width}}|{name!r:^8}|{n + 1}|{n:03d}|{2.5:.2f}|{n=}|{{}}|{name:s}|{True}|{None!s}|{n:b}|{1e6:,}",
        f"{x.shape} {x.dtype} {x.dim()}", f"{[n, name]} {dict(a=n)} {(n,)}",
    )  # fmt: skip


@case(X, 3)
def string_formatting(x, n):
    return (
        x, "%d %s %r %5.2f %%" % (n, "a", "b", 1.5), "%(a)s" % {"a": n},
        "{} {0} {name} {1[0]} {2.real}".replace("{} ", "").format(n, [4], 2j, name=5),
        format(n, "05d"), format(1.23456, ".3g"), "{:>{w}}".format(n, w=4), str(n), repr("x"),
        "{a}".format_map({"a": 2}),
        ascii("é"), "a,b".split(","), "-".join(map(str, range(3))), "abc".center(9, "*"), " a ".strip(),
        "ab".partition("b"),
        "x".isalpha(), "aXb".swapcase(), "abc".translate({97: "z"}), "é".encode(), b"a".decode(),
        "a\tb".expandtabs(4), "abc".find("c"),
        "%s" % x.shape[0], "abc".startswith(("a", "b")), "a-b".replace("-", "+"), "A".casefold(), "abc" > "abb",
        "ab" * 2, "b" in "abc",
    )  # fmt: skip


@case(X, 3)
def numbers(x, n):
    return (
        x * n, n / 2, -n // 2, n % -2, divmod(-7, n), pow(n, 3, 5), round(2.567, 2), abs(-n), n.bit_length(),
        (0.5).as_integer_ratio(),
        float("inf") > n, int("12", 3), int(3.7), complex(1, n), (1 + 2j).conjugate(), hex(255), bin(n), oct(8),
        ord("a"), chr(98),
        sum([1, 2], n), min(n, 2), max([1, n]), min([], default=0), bool(n), n.to_bytes(2, "big"),
        int.from_bytes(b"\x01", "big"),
        (2.0).is_integer(), float.fromhex("0x1p3"), 1_000, 10**20, ~n, n & 1, n | 4, n ^ 1, n << 2, n >> 1, 7 // 2.0,
        True + n,
        all([n, 1]), any([]), sorted([3, 1, 2], key=lambda v: -v), list(reversed([1, 2])), isinstance(n, (int, str)),
        hash(n) == n,
    )  # fmt: skip


@case(X)
def comparisons(x):
    n = 3
    return (
        x, 1 < n <= 3 != 4, n is not None, not n == 3, "a" in "abc", 2 not in [1], [1, 2] < [1, 3], (1,) == (1,),
        {1} <= {1, 2},
        {"a": 1} == {"a": 1}, 1 == 1.0, "a" != 1, None is None, float("nan") == float("nan"), [x] == [x],
        (x, 1) != (x, 1),
        x is x, [1, [2]] == [1, [2]], range(3) == range(0, 3),
    )  # fmt: skip


@case(X)
def deletions(x):
    a, b = x, [1, 2, 3]
    del a
    del b[0], b[-1]
    try:
        a  # noqa: B018, F821
    except UnboundLocalError as error:
        return x, b, str(error)


@pytest.mark.parametrize(*case.table)
def test_control(function, args, expectations):
    check(function, *args, **expectations)
