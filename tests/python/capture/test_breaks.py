"""What cannot be recorded runs in the interpreter and nothing else does: the result is eager's, what comes before and
after it makes graphs, the break is counted once, and its code and line say why."""

import random
import sys
import time

import numpy
import pytest
import torch
from framejit_testing import Cases, check, vector

import framejit

case = Cases()
X = vector(seed=1)


@case(X, code="DataDependent", graphs=2)
def branch_on_data(x):
    if x.sum() > 0:
        return x + 1
    return x - 1


# From 3.12 on the test at the end of the loop is another instruction than the one before it.
@case(X, code="DataDependent", graphs=2 if sys.version_info < (3, 12) else 3)
def loop_on_data(x):
    while (x.abs() < 10).all():
        x = x * 2
    return x


@case(X, code="TensorData", graphs=2)
def item(x):
    return x * x[0].item()


@case(X, code="TensorData", graphs=1)
def tolist(x):
    return x.tolist(), x + 1


@case(X, code="TensorData", graphs=0, breaks=2, cpu=True)
def numpy_array(x):
    return torch.from_numpy(x.numpy() + 1)


@case(X, code=None, graphs=1)
def prints(x):
    print("value", x)
    return x + 1


@case(X, code="UnsupportedCallable", graphs=2)
def reads_clock(x):
    return x + (time.time() > 0)


@case(X, code="UnsupportedCallable", graphs=1, breaks=2)
def numpy_function(x):
    return x * len(numpy.frombuffer(b"\0\0\0\0", dtype=numpy.float32))


@case(X, code="UnsupportedCallable", graphs=2)
def python_random(x):
    return x * (random.random() < 2)


@case(X, code="ExplicitBreak", graphs=2)
def explicit(x):
    y = x + 1
    framejit.graph_break()
    return y * 2


@framejit.disable
def disabled(x):
    return x * 3


@case(X, code="Disabled", graphs=1)
def calls_disabled(x):
    return disabled(x) + 1


@case(vector(8), code=None, graphs=2)
def nonzero(x):
    return x[x > 0] * 2


@pytest.mark.parametrize("function, args, expectations", case.rows)
def test_breaks(function, args, expectations, capsys):
    code = expectations["code"]
    breaks = expectations.get("breaks", 1)
    check(function, *args, graphs=expectations["graphs"], breaks=breaks)
    report = framejit.explain(function)(*args)
    assert len(report.breaks) == breaks
    found = report.breaks[0]
    if code is not None:
        assert found.code == code
    file, line, _ = next(frame for frame in reversed(found.stack) if frame[0] == __file__)
    first = function.__code__.co_firstlineno
    assert first < line <= first + 6


def test_full_graph_raises_where_it_would_break():
    strict = framejit.compile(branch_on_data, fullgraph=True)
    with pytest.raises(framejit.GraphBreakError, match="test_breaks.py"):
        strict(X)
    whole = framejit.compile(lambda x: x + 1, fullgraph=True)
    assert torch.equal(whole(X), X + 1)


def test_break_is_not_recorded_again_while_its_guards_hold(caplog):
    framejit.set_logs("breaks")
    try:
        compiled = framejit.compile(branch_on_data)
        for _ in range(3):
            assert torch.equal(compiled(X), branch_on_data(X))
        messages = [r for r in caplog.records if r.name == "framejit.breaks"]
        assert len(messages) == 1
        assert "test_breaks.py" in messages[0].getMessage()
    finally:
        framejit.set_logs("")


def test_both_branches_are_right():
    compiled = framejit.compile(branch_on_data)
    for x in (X.abs(), -X.abs(), X.abs()):
        assert torch.equal(compiled(x), branch_on_data(x))


def test_print_is_not_swallowed_or_repeated(capsys):
    compiled = framejit.compile(prints)
    compiled(X)
    assert capsys.readouterr().out.count("value") == 1
    compiled(X)
    assert capsys.readouterr().out.count("value") == 1
