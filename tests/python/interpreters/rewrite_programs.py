"""Programs for check_rewrite.py: each is a function that makes, given a log, the function to run. They are
deterministic, and what they do outside themselves goes into the log."""

import contextlib
import copy
import sys

PROGRAMS = []


class Log(list):
    def __call__(self, *values):
        self.append(repr(values))
        return len(self)


def program(*args):
    """Registers a maker of functions with the arguments to call them with, copied for each run."""

    def register(make):
        PROGRAMS.append((make, lambda: copy.deepcopy(args)))
        return make

    return register


class Manager:
    def __init__(self, log, name, swallow=False):
        self.log, self.name, self.swallow = log, name, swallow

    def __enter__(self):
        self.log("enter", self.name)
        return self.name

    def __exit__(self, kind, value, trace):
        self.log("exit", self.name, repr(value), repr(sys.exception()))
        return self.swallow


@program(5)
def loops(log):
    def f(n):
        total = 0
        for i in range(n):
            j = 0
            while j < i:
                j += 1
                if j == 2:
                    continue
                if i == 4 and j == 3:
                    break
                total += i * j
            else:
                log("else", i)
        for key, value in {"a": 1, "b": 2}.items():
            log(key, value)
        return total, i, j

    return f


@program(0)
@program(1)
def exceptions(log):
    def f(n):
        caught = []
        for divisor in (1, n, "x"):
            try:
                caught.append(10 // divisor)
            except ZeroDivisionError as error:
                log("zero", repr(sys.exception()))
                caught.append(str(error))
                try:
                    raise KeyError(divisor)
                except KeyError as inner:
                    log("inner", repr(inner.__context__), repr(sys.exception()))
                log("outer again", repr(sys.exception()))
            except TypeError:
                caught.append(repr(sys.exception()))
            else:
                caught.append("else")
            finally:
                caught.append("finally")
                log("finally", repr(sys.exception()))
        log("none", repr(sys.exception()))
        return caught

    return f


@program(0)
def uncaught(log):
    def f(n):
        x = 1
        try:
            log("before")
            x = helper(n)
        except KeyError:
            log("not this")
        finally:
            log("finally", x)
            x = 2
        return x

    def helper(n):
        log("helper")
        return 1 / n

    return f


@program()
def reraised(log):
    def f():
        try:
            try:
                raise ValueError("first")
            except ValueError as error:
                log("handling")
                raise KeyError("second") from error
        except KeyError as error:
            log(repr(error.__cause__))
            try:
                raise
            except KeyError:
                log("again", repr(sys.exception()))
        try:
            raise OSError("third")
        except OSError:
            log("bare")
            raise

    return f


@program(0)
@program(1)
@program(2)
@program(3)
@program(4)
@program(5)
def leaves_handlers(log):
    def f(k):
        for i in range(3):
            try:
                if k == 0:
                    return "try"
                raise KeyError(k)
            except KeyError:
                if k == 1:
                    return "except"
                if k == 2:
                    continue
                if k == 3:
                    break
            finally:
                log("finally", k, i, repr(sys.exception()))
                if k == 4:
                    return "finally"
        return "end"

    return f


@program()
def raises_in_finally(log):
    def f():
        with Manager(log, "outer", True):
            try:
                raise KeyError("first")
            finally:
                log("finally", repr(sys.exception()))
                with Manager(log, "inner"):
                    log("in with", repr(sys.exception()))
                log(int("not a number"))

    return f


@program()
def cell_arguments(log):
    def f(a=1, *, b=2):
        def g():
            nonlocal a
            a += b
            return a, [x + a for x in range(2)], [[lambda: (x, y, a) for y in range(2)][0]() for x in range(2)]

        return g(), g(), a

    return f


@program()
def nested_function(log):
    x, y = 1, [2]

    def f():
        nonlocal x
        for y[0] in range(2):
            x += log(x, y)
        return x, y

    return f


@program(3)
def returns_in_handler(log):
    def f(k):
        for i in range(k):
            try:
                raise KeyError(i)
            except KeyError as error:
                try:
                    if i == 1:
                        return [log("returning"), repr(error), repr(sys.exception())]
                    raise ValueError
                except ValueError:
                    log(repr(sys.exception()), repr(sys.exception().__context__))
                    continue

    return f


@program()
def with_statements(log):
    def f():
        with Manager(log, "a") as a, Manager(log, "b") as b:
            log(a, b)
        with Manager(log, "swallows", True):
            log("raising")
            raise KeyError("swallowed")
        for i in range(3):
            with Manager(log, i):
                if i == 1:
                    break
        with contextlib.suppress(ValueError):
            int("x" + str(i))
        with Manager(log, "last"):
            raise OSError("out")

    return f


@program([1, 2, 3])
def comprehensions(log):
    def f(items):
        squares = [x * x for x in items if log(x) % 2]
        pairs = {(x, y) for x in items for y in squares}
        table = {x: [y for y in range(x)] for x in items}
        total = sum(x for x in items)
        x = "kept"
        nested = [[log(x, y) for y in range(x)] for x in items]
        return squares, sorted(pairs), table, total, x, nested, [lambda: x for x in items][0]()

    return f


@program(2)
def closures(log):
    free = ["free"]

    def f(n, *rest, key=3, **options):
        count = 0

        def bump(by=n):
            nonlocal count, key
            count += by
            key = count, free
            return key

        first = bump()
        del n
        log(first, rest, options)
        free.append(count)
        return bump(5), [bump() for _ in range(2)], count, key, free

    return f


@program()
def only_cells(log):
    """No plain local, so that rewriting adds one in front of the others."""
    x, y = 1, 2

    def f():
        a = log("a")
        b = log("b")
        both = lambda: (a, b, x, y, log(a))
        a += 1
        return both(), (lambda: (x, y, b, both))()[:3], [lambda: (x, a)][0]()

    return f


@program()
def deleted(log):
    def f():
        a = 1
        b = a
        del a
        try:
            log(a)  # noqa: F821
        except UnboundLocalError as error:
            log(str(error))
        a = b
        if a:
            del b
        return a + b

    return f


def takes(*args, **kwargs):
    return args, kwargs


class Methods:
    def __init__(self, log):
        self.log = log
        self.called = takes

    def __repr__(self):
        return "Methods()"

    def method(self, *args, **kwargs):
        return self.log("method", args, sorted(kwargs)), args

    def __call__(self, *args):
        return self.log("called", args)

    def __bool__(self):
        self.log("bool")
        return False

    def __add__(self, other):
        return self.log("add", other)

    def __getitem__(self, index):
        return self.log("getitem", index)

    def __setitem__(self, index, value):
        self.log("setitem", index, value)


@program()
def calls(log):
    def f():
        objects = Methods(log)
        args, options = (1, 2), {"key": 3}
        log(takes(*args, **options), takes(0, *args, x=1, **options), takes(*[1], *args))
        log(objects.method(1, key=2), objects.called(1, 2, key=3), objects(1, 2), max(3, 4), len("abc"))
        log(objects.method(log("nested"), log("more"), key=log("third", objects.method())))
        log(print.__name__, "%s %s" % (1, 2), f"{args!r:>10} {log('format')}", -log("neg"))
        objects[log("index")] = objects + log("operand")
        log(objects[1:2], objects[0], not objects, objects and 1, objects or 2, 1 if objects else 3)
        return takes(a=log("a"), b=log("b"), c=takes(1, d=log("d")))

    return f


@program()
def unpacking(log):
    def f():
        a, b = log(1), log(2)
        (c, *d), e = [log(3), log(4), log(5)], log(6)
        *g, h = d
        a, b, c = c, a, b
        k = [*d, log(7), *g]
        m = {**{"x": log(8)}, "y": log(9)}
        n = first, *second = k
        log(1 < log(2) < log(3) < 0, a in k, a is b)
        return a, b, c, d, e, g, h, k, m, n, first, second

    return f


@program({"kind": "point", "x": 1, "y": [1, 2, 3]})
@program(("pair", 1, 2))
def matching(log):
    def f(subject):
        match subject:
            case {"kind": "point", "x": x, "y": [first, *rest]} if log("guard", x):
                return x, first, rest
            case (str() as name, int(real=n), *others):
                return name, n, others
            case _:
                return None

    return f


@program()
def no_locals(log):
    return lambda: (log(1), log("two", *range(2)), [log(3)])


def global_function():
    return takes(takes(1), takes(2))


@program()
def no_variables(log):
    return global_function


@program()
def class_body(log):
    def f():
        class C:
            value = log("body")
            doubled = value * 2

            def method(self):
                return __class__.__name__, self.value

            names = [x for x in range(2)]

        class D(C):
            def method(self):
                return super().method(), "D"

        return D().method(), C.names, C.doubled

    return f


@program(8)
def generators(log):
    def f(n):
        def numbers():
            for i in range(n):
                received = yield log(i)
                if received:
                    log("received", received)

        def outer():
            yield "start"
            yield from numbers()
            return "done"

        numbers_ = numbers()
        found = [next(numbers_), numbers_.send("sent")]
        for x in outer():
            found.append(x)
            if x == 6:
                break
        for a, b in zip(numbers(), enumerate(found)):
            found += [a, b]
            if len(found) > 20:
                break
        numbers_.close()
        return found

    return f


@program([3, 1, 2])
def builtins(log):
    def f(items):
        import os.path as path
        from sys import intern

        global written
        written = sorted(items, key=lambda x: log(x) and -x)
        assert items, "never"
        items[0] += log("aug")
        items[1:2] = [log("slice")]
        del items[-1]
        return written, list(map(lambda x: x + 1, items)), path.basename("a/b"), intern("x")

    return f


@program()
def exception_groups(log):
    def f():
        try:
            raise ExceptionGroup("group", [KeyError(1), ValueError(2), OSError(3)])
        except* KeyError as group:
            log("key", group.exceptions, repr(sys.exception()))
        except* ValueError:
            log("value", repr(sys.exception()))
            raise TypeError("new")

    return f


@program(3)
def many_variables(log):
    """Enough locals, constants and instructions for EXTENDED_ARG in slots, constants and jumps."""
    lines = ["def f(n):", "    for i in range(n):"]
    lines += [f"        v{k} = log(i, {k + 1000}) if i and {k} % 50 == 0 else {k + 1000}" for k in range(300)]
    lines += ["        if i == 1:", "            continue", "    return v0, v299, v17"]
    namespace = {"log": log}
    exec(compile("\n".join(lines), __file__, "exec"), namespace)
    return namespace["f"]
