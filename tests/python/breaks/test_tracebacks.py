"""Exceptions around breaks: what traceback.format_exception prints is eager's, line by line, with the same carets."""

import sys
import traceback
import warnings

import pytest
import torch
from framejit_testing import counting, vector

import framejit

X = vector(seed=5)
INDICES = [torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([0, 7]), torch.tensor([2, 2]), torch.tensor([9, 0])]


class Sink:
    @staticmethod
    def write(text):
        pass


def show(*values):
    print(*values, file=Sink)


def called(function, *args):
    """The text of the traceback, from this frame on; None where the function returned."""
    try:
        function(*args)
    except BaseException as error:
        return traceback.format_exception(error)
    return None


def names(function):
    return function.__name__


# --- in an operator of a graph: the index is out of range in some calls, which nothing can know before ----------------


def in_a_graph(x, index):
    y = x.sin()
    z = y[index] + y.index_select(0, index)
    return z.cos()


def in_the_graph_before_a_break(x, index):
    y = x.sin().index_select(0, index) * 2
    show("behind")
    return y.cos()


def in_the_graph_behind_a_break(x, index):
    y = x.sin()
    show("before")
    z = y * 2
    z = (z + 1).index_select(0, index) + 1
    return z.cos()


def inner_graph(x, index):
    y = x.sin()
    show("inner")
    return y.index_select(0, index)


def middle_graph(x, index):
    return [inner_graph(x + 1, index), x][0]


def in_the_graph_of_a_nested_frame(x, index):
    y = x * 2
    z = middle_graph(y, index)
    return z.cos()


def inner_before(x):
    show("inner")
    return x.sin()


def in_the_caller_of_a_nested_frame(x, index):
    y = inner_before(x * 2)
    z = y.index_select(0, index)
    return z.cos()


def in_a_loop_of_graphs(x, index):
    y = x
    for k in range(3):
        show(k)
        y = y + x.index_select(0, index + k - 1).sum()
    return y


def caught_and_raised_again(x, index):
    y = x.sin()
    show("before")
    try:
        y = y.index_select(0, index)
    except IndexError as error:
        show("caught")
        raise ValueError("no such row") from error
    finally:
        show("finally")
    return y.cos()


GRAPHS = [
    in_a_graph, in_the_graph_before_a_break, in_the_graph_behind_a_break, in_the_graph_of_a_nested_frame,
    in_the_caller_of_a_nested_frame, in_a_loop_of_graphs, caught_and_raised_again,
]  # fmt: skip


@pytest.mark.cpu
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("function", GRAPHS, ids=names)
def test_in_an_operator_of_a_graph(function, grad):
    compiled, backend = counting(function)
    native = framejit.compile(function)
    x = X.clone().requires_grad_(grad)
    raised = 0
    for index in INDICES + INDICES[::-1]:
        expected, actual, again = [called(target, x, index) for target in (function, compiled, native)]
        assert actual == expected
        assert again == expected
        raised += expected is not None
    assert 0 < raised < 10
    assert backend.count >= 1


# --- in Python behind a break -----------------------------------------------------------------------------------------


def behind(x):
    y = x.sin()
    show("before")
    return (
        (x, y)[0]
        + {"a": y}["a"]
        + [
            1,
        ]
    )


def at_the_break(x):
    y = x.sin()
    z = [y, int("12"), int("not a number"), y]
    return z


def raised_by_the_callee(x):
    y = x.sin()
    y = y + fails_natively(y, 3)
    return y.cos()


@framejit.disable
def fails_natively(x, depth):
    if depth == 0:
        raise LookupError("deep")
    return fails_natively(x, depth - 1)


def inner_fails(x):
    y = x.sin()
    show("inner")
    return y.cos() + None


def middle_fails(x):
    return (inner_fails(x * 2), x)


def in_a_nested_frame(x):
    y = x + 1
    z = middle_fails(
        y,
    )
    return z[0].cos()


def inner_returns(x):
    show("inner")
    return x.sin()


def in_the_outer_frame(x):
    y = inner_returns(x + 1)
    return y.no_such_attribute + y


def in_a_comprehension(x):
    show("before")
    return [x.sin() + (1 / k) for k in (2, 1, 0)]


def in_a_with(x):
    with torch.no_grad():
        y = x.sin()
        show("within")
        y = y.cos()
        raise KeyError("here")


def in_the_except(x):
    y = x.sin()
    try:
        show("body")
        raise ValueError("first")
    except ValueError:
        show("handler")
        raise KeyError("second")


def again(x):
    y = x.sin()
    try:
        show("body")
        y = y + None
    except TypeError:
        show("handler")
        raise


def in_the_finally(x):
    try:
        y = x.sin()
        show("body")
        raise ValueError("first")
    finally:
        show("finally")
        y = y / "text"


def raised_from(x):
    y = x.sin()
    show("before")
    error = RuntimeError("cause")
    raise ValueError(y.shape) from error


def in_a_group(x):
    y = x.sin()
    show("before")
    errors = []
    for k in range(2):
        try:
            show(k)
            y = y + [k]
        except TypeError as error:
            errors.append(error)
    raise ExceptionGroup("both", errors)


def unbound(x):
    if x.shape[0] == 0:
        y = x
    show("before")
    return y


def exits(x):
    y = x.sin()
    show("before")
    raise SystemExit(y.shape[0])


BEHIND = [
    behind, at_the_break, raised_by_the_callee, in_a_nested_frame, in_the_outer_frame, in_a_comprehension, in_a_with,
    in_the_except, again, in_the_finally, raised_from, in_a_group, unbound, exits,
]  # fmt: skip


@pytest.mark.parametrize("function", BEHIND, ids=names)
def test_in_python_behind_a_break(function):
    compiled, backend = counting(function)
    native = framejit.compile(function)
    for _ in range(4):
        expected, actual, again = [called(target, X) for target in (function, compiled, native)]
        assert expected is not None
        assert actual == expected
        assert again == expected
    assert sys.exc_info() == (None, None, None)


# --- what the program itself reads of tracebacks and frames -----------------------------------------------------------


def reads_its_traceback(x):
    y = x.sin()
    try:
        show("body")
        y = y.cos() + [1]
    except TypeError as error:
        text = traceback.format_exc()
        found = traceback.extract_tb(error.__traceback__)
        return y, text, [(row.name, row.lineno, row.end_lineno, row.colno, row.end_colno, row.line) for row in found]


def reads_its_stack(x):
    y = x.sin()
    show("before")
    rows = traceback.extract_stack(limit=1)
    return y, [(row.name, row.lineno, row.line) for row in rows]


@pytest.mark.parametrize("function", [reads_its_traceback, reads_its_stack], ids=names)
def test_the_program_reads_its_own_lines(function):
    compiled, _ = counting(function)
    expected = function(X)[1:]
    for _ in range(3):
        assert compiled(X)[1:] == expected


def test_warnings_name_the_line():
    def warns(x):
        y = x.sin()
        show("before")
        warnings.warn("here")
        warnings.warn("at the caller", stacklevel=2)
        return y.cos()

    def once(function):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function(X)
        return [(str(row.message), row.filename, row.lineno) for row in caught]

    expected = once(warns)
    assert len(expected) == 2
    compiled = framejit.compile(warns)
    for _ in range(3):
        assert once(compiled) == expected


# --- frames of a traceback can be looked at ---------------------------------------------------------------------------


def closures(factor, fails):
    def inner(x):
        y = x.sin()
        show("behind this the frame is another one")
        if fails:
            raise ValueError(factor)
        return y * factor

    def outer(x):
        return (inner(x + factor) + 1) * 2

    return outer


@pytest.mark.parametrize("depth", [1, 2])
def test_variables_of_frames_below_one_that_raised(depth):
    """Free variables that nothing reads any more are no cells of the state; f_locals takes them to be some."""
    function = closures(3, fails=True)
    compiled = framejit.compile(function if depth == 1 else lambda x: function(x).cos())
    for _ in range(3):
        with pytest.raises(ValueError, match="3") as caught:
            compiled(X)
        frames = [entry.frame for entry in caught.traceback if entry.name in ("outer", "inner")]
        assert [frame.code.name for frame in frames] == ["outer", "inner"]
        assert all(frame.f_locals.get("factor", 3) == 3 for frame in frames)
