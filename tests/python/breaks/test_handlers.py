"""Breaks while an exception is handled: in except, in finally, in the exit of a with block. What is handled, raised
again, chained and traced back is eager's, and the code of the handler is compiled on both sides of the break."""

import gc
import sys
import traceback
import warnings
import weakref

import pytest
import torch
from framejit_testing import assert_same_outcome, counting, run, vector

import framejit

X = vector(seed=3)
events: list = []


@framejit.disable
def outside(x=None):
    """Runs natively; notes what is being handled."""
    handled = sys.exc_info()[1]
    events.append((type(handled).__name__, str(handled)))
    return x


@framejit.disable
def fails(kind=ValueError):
    raise kind("from outside")


def lines(error):
    return [(frame.name, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]


@framejit.disable
def note_chain(error):
    """The exceptions that led to this one, with their tracebacks."""
    while error is not None:
        events.append((type(error).__name__, str(error), error.__suppress_context__, lines(error)))
        error = error.__cause__ or error.__context__


def graphs_of(function, *args, calls=3):
    """Compares `function` with its compiled selves; the number of graphs, which later calls must not add to."""

    def once(target):
        events.clear()
        outcome = run(target, args, {})
        chain = []
        error = outcome.error
        while error is not None:
            own = [line for line in lines(error) if line[0] not in ("run", "__call__", "forward")]
            chain.append((type(error), str(error), own, error.__suppress_context__))
            error = error.__cause__ or error.__context__
        return outcome, list(events), chain, sys.exc_info()[1]

    compiled, backend = counting(function)
    native = framejit.compile(function)
    counts = []
    for _ in range(calls):
        expected = once(function)
        for target in (compiled, native):
            actual = once(target)
            assert_same_outcome(actual[0], expected[0])
            assert actual[1:] == expected[1:]
        counts.append(backend.count)
    assert counts == counts[:1] * calls, f"recorded again on later calls: {counts}"
    return counts[0]


# --- except ---------------------------------------------------------------------------------------------------------


def raised_inside(x):
    y = x.sin()
    try:
        raise ValueError("expected")
    except ValueError as error:
        y = y * 2
        outside()
        y = y.cos()
        events.append(str(error))
    return y + 1


def raised_by_an_operator(x):
    y = x.sin()
    try:
        y = y @ torch.ones(3, 3, 3)
    except RuntimeError:
        y = y * 2
        outside()
        y = y.cos()
    return y + 1


def raised_in_an_inner_frame(x):
    def inner(z):
        z = z.exp()
        if z.dim() == 1:
            raise KeyError("inner")
        return z

    y = x.sin()
    try:
        y = inner(y)
    except KeyError as error:
        outside()
        y = y.cos()
        note_chain(error)
    return y * 3


def raised_by_the_break(x):
    y = x.sin()
    try:
        fails()
    except ValueError as error:
        y = y.cos()
        events.append(str(error))
    return y + 1


def not_caught_by_the_first(x):
    y = x.sin()
    try:
        fails(KeyError)
    except ValueError:
        y = y.cos()
    except (KeyError, IndexError):
        y = y.exp()
    else:
        y = y.tan()
    return y + 1


def in_a_callee_of_the_handler(x):
    def inner(z):
        z = z.exp()
        outside()
        return z.cos()

    y = x.sin()
    try:
        fails()
    except ValueError:
        y = inner(y * 2) + 1
    outside()
    return y.tan()


def in_both_handlers(x):
    y = x.sin()
    try:
        fails()
    except ValueError:
        y = y.cos()
        try:
            fails(KeyError)
        except KeyError as inner:
            y = y.exp()
            outside()
            y = y.tan()
            note_chain(inner)
        outside()
        y = y + 1
    outside()
    return y * 2


def in_each_turn(x):
    y = x
    for k in range(4):
        try:
            y = y.sin()
            if k % 2:
                fails()
            y = y + 1
        except ValueError:
            y = y.cos()
            outside()
            y = y * 2
    return y


def with_an_exception_around(x):
    y = x.sin()
    outside()
    y = y.cos()
    try:
        fails(KeyError)
    except KeyError as error:
        y = y.exp()
        note_chain(error)
    return y + 1


CAUGHT = [
    raised_inside,
    raised_by_an_operator,
    raised_in_an_inner_frame,
    raised_by_the_break,
    not_caught_by_the_first,
    in_a_callee_of_the_handler,
    in_both_handlers,
    in_each_turn,
    with_an_exception_around,
]


@pytest.mark.parametrize("function", CAUGHT, ids=lambda f: f.__name__)
def test_caught(function):
    assert graphs_of(function, X) >= 2


def test_an_exception_that_is_handled_by_the_caller():
    def call(target):
        try:
            raise TypeError("the caller's")
        except TypeError:
            result = target(X)
            return result, str(sys.exc_info()[1])

    compiled = framejit.compile(with_an_exception_around)
    for _ in range(3):
        events.clear()
        expected, own = call(with_an_exception_around)
        expected_events = list(events)
        events.clear()
        actual, handled = call(compiled)
        torch.testing.assert_close(actual, expected)
        assert handled == own == "the caller's"
        # The frames outside the compiled function differ: this one calls both.
        assert [e[:2] for e in events] == [e[:2] for e in expected_events]


def test_graphs_around_a_break_in_except():
    # sin; the raise runs natively; * 2; cos, + 1
    assert graphs_of(raised_inside, X) == 3
    # sin; cos, + 1
    assert graphs_of(raised_by_the_break, X) == 2


def test_what_an_exception_says_is_not_recorded_for_each_call():
    numbers = iter(range(100))

    @framejit.disable
    def fails_in_another_way():
        raise ValueError(f"number {next(numbers)}")

    def function(x):
        y = x.sin()
        try:
            fails_in_another_way()
        except ValueError as error:
            y = y.cos()
            said = str(error), error.args
            y = y.exp()
            outside()
        return y, said

    compiled, backend = counting(function)
    counts = []
    for number in range(8):
        y, said = compiled(X)
        torch.testing.assert_close(y, X.sin().cos().exp())
        assert said == (f"number {number}", (f"number {number}",))
        counts.append(backend.count)
    assert counts[4:] == [counts[4]] * 4, counts


# --- raised again, chained ------------------------------------------------------------------------------------------


def bare_raise(x):
    try:
        fails()
    except ValueError:
        y = x.cos()
        outside()
        events.append(y.sum().item())
        raise


def raise_the_same(x):
    try:
        fails()
    except ValueError as error:
        y = x.cos()
        outside(y)
        raise error


def raise_another(x):
    try:
        fails()
    except ValueError:
        y = x.cos()
        outside(y)
        raise KeyError(y.dim())


def raise_from(x):
    try:
        fails()
    except ValueError as error:
        y = x.cos()
        outside(y)
        raise KeyError("other") from error


def raise_from_none(x):
    try:
        raise IndexError("first")
    except IndexError:
        outside(x.cos())
        raise KeyError("other") from None


def raise_in_an_inner_handler(x):
    def inner(z):
        try:
            raise IndexError("second")
        except IndexError:
            z = z.exp()
            outside()
            raise

    try:
        fails()
    except ValueError:
        inner(x.cos())


def through_finally(x):
    y = x.sin()
    try:
        y = y.cos()
        fails()
    finally:
        y = y.exp()
        outside()
        events.append(y.sum().item())


def through_finally_raised_inside(x):
    y = x.sin()
    try:
        y = y.cos()
        raise ValueError("expected")
    finally:
        y = y.exp()
        outside()
        events.append(y.sum().item())


def through_two_frames(x):
    def inner(z):
        try:
            z = z.sin()
            fails()
        finally:
            z = z.cos()
            outside()

    try:
        inner(x)
    except ValueError as error:
        y = x.exp()
        note_chain(error)
        outside()
        raise RuntimeError(y.dim()) from error


RAISED = [
    bare_raise,
    raise_the_same,
    raise_another,
    raise_from,
    raise_from_none,
    raise_in_an_inner_handler,
    through_finally,
    through_finally_raised_inside,
    through_two_frames,
]


@pytest.mark.parametrize("function", RAISED, ids=lambda f: f.__name__)
def test_raised(function):
    assert graphs_of(function, X) >= 1


def test_an_exception_from_outside_is_not_touched_while_recording():
    error = ValueError("one object")

    def raises(x):
        y = x.sin()
        try:
            raise error
        except ValueError:
            y = y.cos()
        return y + 1

    compiled, backend = counting(raises)
    for _ in range(3):
        error.__traceback__ = None
        torch.testing.assert_close(compiled(X), raises(X))
        # Eager raised it once, and the compiled function once.
        assert [name for name, _ in lines(error)].count("raises") == 2
    assert backend.count == 2


# --- with -----------------------------------------------------------------------------------------------------------


class Manager:
    def __init__(self, suppresses):
        self.suppresses = suppresses

    def __enter__(self):
        events.append("enter")
        return self

    def __exit__(self, kind, error, trace):
        events.append(("exit", kind, str(error), trace is None))
        outside()
        events.append("left")
        return self.suppresses


def in_with(x, manager):
    y = x.sin()
    with manager:
        y = y.cos()
        fails()
        y = y.exp()
    outside()
    return y * 2


def in_with_raised_inside(x, manager):
    y = x.sin()
    with manager:
        y = y.cos()
        raise ValueError("expected")
    outside()
    return y * 2


@pytest.mark.parametrize("function", [in_with, in_with_raised_inside], ids=lambda f: f.__name__)
@pytest.mark.parametrize("suppresses", [True, False])
def test_with(function, suppresses):
    assert graphs_of(function, X, Manager(suppresses)) >= 1


# --- what can be seen of the frames ---------------------------------------------------------------------------------


def test_the_frames_of_a_handled_exception_are_let_go():
    class Marked(ValueError):
        pass

    alive = []

    @framejit.disable
    def fails_with_mark():
        error = Marked("here")
        alive.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error  # its traceback names this frame

    def function(x):
        y = x.sin()
        try:
            fails_with_mark()
        except Marked as error:
            y = y.cos()
            outside(error)
            y = y.exp()
        return y

    gc.disable()
    try:
        for target in (function, framejit.compile(function)):
            for _ in range(3):
                events.clear()
                alive.clear()
                target(X)
                # Without the collector: nothing may refer to the exception in a circle.
                assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.cpu
def test_the_line_of_a_frame_that_was_entered_in_the_middle():
    def warns(x):
        y = x.sin()
        outside()
        y = y * 2
        # torch warns of this from C++, with the line of the innermost Python frame.
        y = torch.range(0, 3) + y
        return y

    def caught(target):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.testing.assert_close(target(X), warns(X))
        return [(w.filename, w.lineno) for w in found]

    compiled = framejit.compile(warns)
    expected = caught(warns)[:1]
    assert expected
    assert caught(compiled)[0] == expected[0]
