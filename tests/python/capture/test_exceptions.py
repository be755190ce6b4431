"""Exceptions: those that leave the function surface as in eager (type, message, traceback lines); those that it catches
itself are recorded or leave the frame to the interpreter, with eager's result either way.

PYTEST_DONT_REWRITE: the assert statements in here are subjects, and stay as they are written."""

import sys

import pytest
import torch
from framejit_testing import Cases, check, vector

import framejit

X = vector(seed=1)
raising = Cases()
catching = Cases()


class OwnError(ValueError):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


@raising(X, graphs=1)
def raises_value_error(x):
    y = x + 1
    raise ValueError(f"bad shape {tuple(y.shape)}")


@raising(X)
def raises_own_error(x):
    raise OwnError(3, "own")


@raising(X)
def raises_from(x):
    try:
        {}["missing"]
    except KeyError as error:
        raise RuntimeError("lookup failed") from error


@raising(X)
def fails_assertion(x):
    assert x.dim() == 2, f"expected 2 dimensions, got {x.dim()}"
    return x


@raising(X, graphs=1, cpu=True)
def shape_mismatch(x):
    y = x * 2
    return y + torch.ones(3)


@raising(X, graphs=1, cpu=True)
def bad_argument_to_torch(x):
    return torch.nn.functional.linear(x, torch.ones(2, 3))


@raising(X)
def missing_attribute(x):
    return x.no_such_attribute


@raising(X)
def undefined_name(x):
    return x + no_such_name  # noqa: F821


@raising(X)
def unbound_local(x):
    if x.dim() == 7:
        y = x
    return y


@raising(X, graphs=1)
def raises_in_callee(x):
    def inner(y):
        z = y + 1
        raise IndexError("inner")

    return inner(x)


@raising(X, graphs=1, cpu=True)
def raises_in_comprehension(x):
    return [x[i] for i in range(9)]


@raising(X)
def list_index_error(x):
    return [x][3]


@raising(X)
def unpack_error(x):
    a, b = (x, x, x)
    return a


@raising(X)
def type_error_in_call(x):
    return (lambda y: y)(x, x)


@raising(X)
def division_by_zero(x):
    return x * (1 // 0)


@raising(X, graphs=1)
def raises_in_finally(x):
    try:
        y = x + 1
    finally:
        raise KeyError("finally")


@raising(X)
def raises_in_generator(x):
    def generate():
        yield x
        raise StopAsyncIteration("odd")

    return list(generate())


@raising(X)
def reraises(x):
    try:
        raise ValueError("first")
    except ValueError:
        y = x + 1
        raise


@catching(X)
def try_without_error(x):
    try:
        y = x + 1
    except ValueError:
        y = x - 1
    finally:
        z = x * 2
    return y + z


@catching(X)
def catches_own_raise(x):
    try:
        raise ValueError("inside")
    except ValueError as error:
        return x + len(str(error))


@catching(X)
def catches_key_error(x):
    try:
        scale = {"a": 1}["b"]
    except (KeyError, IndexError):
        scale = 5
    return x * scale


@catching(X)
def catches_from_callee(x):
    def inner():
        raise LookupError("inner")

    try:
        inner()
    except LookupError:
        return x * 3


@catching(X)
def attribute_error_as_probe(x):
    try:
        x.no_such_attribute
    except AttributeError:
        return x + 1


@catching(X)
def stop_iteration(x):
    iterator = iter([x])
    first = next(iterator)
    return first, next(iterator, None)


@catching(X)
def finally_runs(x):
    log = []
    try:
        try:
            log.append(1)
            raise ValueError
        finally:
            log.append(2)
    except ValueError:
        log.append(3)
    else:
        log.append(4)
    return x + 1, log


class Suppress:
    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        return kind is ValueError


@catching(X)
def with_suppressing_exit(x):
    with Suppress():
        raise ValueError
    return x * 4


@catching(X)
def return_in_finally_loop(x):
    for i in range(3):
        try:
            if i == 1:
                continue
            x = x + i
        finally:
            x = x * 2
    return x


@pytest.mark.parametrize(*raising.table)
def test_raising(function, args, expectations):
    check(function, *args, **{"graphs": 0, **expectations})


@pytest.mark.parametrize(*catching.table)
def test_catching(function, args, expectations):
    check(function, *args, **expectations)


def test_writes_before_the_exception_stay():
    """What the function did before it raised has happened, once per call."""

    def f(x, log):
        log.append(1)
        x.add_(1)
        log.append(2)
        raise ValueError("after two")

    check(f, X, [])


def test_exception_only_for_some_arguments():
    def f(x, n):
        if n > 2:
            raise ValueError(f"n is {n}")
        return x * n

    check(f, X, 1)
    check(f, X, 3, graphs=0)


def test_break_in_a_handler_ends_it():
    """The exception that was handled where the recording broke is gone: it is neither current nor anybody's context."""

    def f(x):
        try:
            raise KeyError("first")
        except KeyError:
            framejit.graph_break()
        try:
            raise ValueError("second")
        except ValueError as error:
            return x + 1, error.__context__ is None

    for _ in range(2):
        result, alone = framejit.compile(f)(X)
        assert alone and torch.equal(result, X + 1)
        assert sys.exc_info() == (None, None, None)


def thrown_into(x):
    def inner():
        try:
            yield x
        except ValueError as error:
            yield x * 2
            return x * len(str(error))

    def outer():
        result = yield from inner()
        yield result + 1

    generator = outer()
    parts = [next(generator), generator.throw(ValueError("abc")), next(generator)]
    return torch.stack(parts)


def stops_inside_a_generator(x):
    def generate():
        yield x
        next(iter(()))
        yield x

    try:
        return list(generate())
    except RuntimeError as error:
        return x, str(error), type(error.__cause__)


def comprehension_that_raises(x):
    i = 5
    try:
        return [x / (1 // i) for i in (1, 0)]
    except ZeroDivisionError:
        return x * i  # the variable of the comprehension is another one


@pytest.mark.parametrize("function", [thrown_into, stops_inside_a_generator, comprehension_that_raises])
def test_generators_and_comprehensions(function):
    check(function, X)
