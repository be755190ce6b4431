"""Tracers, profilers, coverage and debuggers see functions that break as they see plain ones.

What a tool sees from before the call on is exactly what it sees in eager mode: such a frame is left alone. A tool that
starts in the middle, in the native code behind a break, sees the rest of the call with the original names, lines and
variables; the code that the rewriting added raises no events.
"""

import contextlib
import io
import pdb
import sys
import threading

import pytest
from framejit_testing import counting, vector
from observing import Coverage, Monitor, Profiler, Tracer, describe, observed, variables

import framejit

X = vector(seed=4)
needs_monitoring = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with 3.12")


class Sink:
    written: list = []

    @classmethod
    def write(cls, text):
        cls.written.append(text)


def show(*values):
    print(*values, file=Sink)


# --- functions that break ---------------------------------------------------------------------------------------------


def top(x):
    y = x.sin()
    print("here", file=Sink)
    z = y.cos()
    return z * 2


def in_a_loop(x):
    y = x
    for k in range(4):
        y = y.sin() + k
        show(k)
        y = y.cos()
    return y


def branches(x):
    y = x * 2
    if y.abs().sum() > 0:
        y = y + 1
    else:
        y = y - 1
    return y.cos()


class Manager:
    def __enter__(self):
        show("enter")
        return self

    def __exit__(self, *error):
        show("exit")
        return True


def in_with(x):
    y = x
    with Manager():
        y = x.sin()
        show("within")
        y = y.cos()
        raise ValueError("swallowed")
    return y + 1


def caught(x):
    y = x.sin()
    try:
        show("body")
        y = y.cos()
        raise KeyError("expected")
    except KeyError as error:
        y = y + len(error.args)
    finally:
        y = y * 2
    return y


def raises(x):
    y = x.sin()
    show("before")
    y = y.cos()
    return y + [1]


def innermost(x):
    z = x.sin()
    show("inner")
    return z.cos()


def middle(x):
    z = innermost(x * 2)
    return z + x


def three_deep(x):
    y = x + 1
    y = middle(y)
    return y * 3


def comprehends(x):
    parts = [innermost(x + k) for k in range(2)]
    return parts[0] + parts[1]


def numbers(count):
    for k in range(count):
        yield k


def over_a_generator(x):
    y = x
    for k in numbers(3):
        y = y + k
        show(k)
    return y.sin()


PROGRAMS = [
    top, in_a_loop, branches, in_with, caught, raises, three_deep, comprehends, over_a_generator,
]  # fmt: skip


def names(function):
    return function.__name__


TOOLS = {
    "settrace": Tracer,
    "opcodes": lambda filename: Tracer(filename, opcodes=True),
    "setprofile": Profiler,
    "coverage": Coverage,
}
if sys.version_info >= (3, 12):
    TOOLS["monitoring"] = Monitor
    TOOLS["instructions"] = lambda filename: Monitor(filename, Monitor.KINDS + Monitor.SINGLE)
    TOOLS["coverage by monitoring"] = lambda filename: Monitor(filename, ("PY_START", "LINE"), once=True)


@pytest.fixture(params=TOOLS)
def make_tool(request):
    return lambda: TOOLS[request.param](__file__)


# --- from before the call on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=names)
def test_a_call_under_a_tool_is_eagers(program, make_tool):
    observed(make_tool(), program, X)  # CPython 3.12 shows the instructions of code from the second time on
    expected = observed(make_tool(), program, X)
    assert len(expected[0]) >= 3, "the tool saw nothing"
    compiled, backend = counting(program)
    assert observed(make_tool(), compiled, X) == expected
    assert backend.count == 0, "a frame that a tool looks at was recorded"
    for _ in range(3):
        with contextlib.suppress(TypeError):
            compiled(X)
    recorded = backend.count
    assert recorded >= 1
    assert observed(make_tool(), compiled, X) == expected
    with contextlib.suppress(TypeError):
        compiled(X)
    assert backend.count == recorded, "a call under a tool made the next one record again"


# --- from the middle on -----------------------------------------------------------------------------------------------


class Switch:
    """Starts a tool when it is called: the call breaks, and behind it runs what the tool sees."""

    def __init__(self, tool):
        self.tool = tool
        self.armed = True

    @framejit.disable
    def __call__(self):
        if self.armed:
            self.tool.start()


def starts(x, switch):
    y = x.sin()
    switch()
    z = y.cos()
    show("behind")
    return z * 2 + y


def starts_in_a_loop(x, switch):
    y = x
    for k in range(4):
        y = y.sin() + k
        if k == 2:
            switch()
        show(k)
        y = y.cos()
    return y


def starts_and_raises(x, switch):
    y = x.sin()
    try:
        switch()
        y = y.cos()
        y = y + [1]
    except TypeError as error:
        show(type(error))
        y = y * 2
    return y


def starts_in_with(x, switch):
    y = x
    with Manager():
        y = x.sin()
        switch()
        y = y.cos()
        raise ValueError("swallowed")
    return y + 1


def starts_inside(x, switch):
    z = x.sin()
    switch()
    return z.cos()


def starts_two_deep(x, switch):
    z = starts_inside(x * 2, switch)
    return z + x


def starts_three_deep(x, switch):
    y = x + 1
    y = starts_two_deep(y, switch)
    y = innermost(y)
    return y * 3


def starts_and_fails_deep(x, switch):
    y = x + 1
    y = starts_two_deep(y, switch)
    return y + [1]


def assert_same_events(events, expected):
    """Variables that nothing reads any more are not kept behind a break (docs/design.md); all others are eager's."""

    def split(event):
        has_variables = isinstance(event, tuple) and any(isinstance(part, dict) for part in event)
        return (event[:4] + event[5:], event[4]) if has_variables else (event, {})

    assert [split(event)[0] for event in events] == [split(event)[0] for event in expected]
    for event, other in zip(events, expected, strict=True):
        assert split(event)[1].items() <= split(other)[1].items()


STARTING = [
    starts, starts_in_a_loop, starts_and_raises, starts_in_with, starts_three_deep, starts_and_fails_deep,
]  # fmt: skip
# What tools that count instructions see of the rewritten code is documented to differ; what coverage sees is not.
MIDDLE = {
    "settrace": lambda: Tracer(__file__, skip=OWN_FRAMES),
    "setprofile": lambda: Profiler(__file__, skip=OWN_FRAMES),
    "coverage": lambda: Coverage(__file__, skip=OWN_FRAMES),
}
OWN_FRAMES = ("once", "test_a_tool_that_starts_in_the_middle", "__call__")
if sys.version_info >= (3, 12):
    MIDDLE["monitoring"] = lambda: Monitor(__file__, skip=OWN_FRAMES)


@pytest.mark.parametrize("tool", MIDDLE)
@pytest.mark.parametrize("program", STARTING, ids=names)
def test_a_tool_that_starts_in_the_middle(program, tool):
    def once(function, armed):
        switch.tool = MIDDLE[tool]()
        switch.armed = armed
        try:
            result = describe(function(X, switch))
        except Exception as error:
            result = repr(error)
        finally:
            if armed:
                switch.tool.stop()
        return switch.tool.events, result

    switch = Switch(None)
    expected = once(program, True)
    assert tool == "coverage" or len(expected[0]) >= 2, "the tool saw nothing"
    compiled, backend = counting(program)
    for armed in (True, False, False, True, True):
        events, result = once(compiled, armed)
        assert result == expected[1]
        if armed:
            assert_same_events(events, expected[0])
    assert backend.count >= 1


def test_a_tool_that_stops_in_the_middle():
    tool = Tracer(__file__, skip=("run_disabled", "stop"))

    @framejit.disable
    def stop():
        tool.stop()

    def stops(x):
        y = x.sin()
        stop()
        return y.cos()

    compiled, backend = counting(stops)
    tool.start()
    assert describe(compiled(X)) == describe(stops(X))
    assert sys.gettrace() is None
    seen = len(tool.events)
    for _ in range(3):
        assert describe(compiled(X)) == describe(stops(X))
    assert len(tool.events) == seen
    assert backend.count == 2


def test_a_tracer_of_another_thread_sees_that_thread_alone():
    compiled, _ = counting(three_deep)
    compiled(X)
    tools = [Tracer(__file__), Tracer(__file__)]
    outcomes = []

    def work(tool, function):
        outcomes.append(observed(tool, function, X))

    for tool, function in zip(tools, (three_deep, compiled), strict=True):
        thread = threading.Thread(target=work, args=(tool, function))
        thread.start()
        compiled(X)
        thread.join()
    assert outcomes[0] == outcomes[1]


# --- monitoring of single code objects --------------------------------------------------------------------------------


@needs_monitoring
@pytest.mark.parametrize("watched", [three_deep, middle, innermost], ids=names)
def test_local_events_of_one_function(watched):
    def once(function):
        tool = Monitor(__file__, ("PY_START", "LINE", "PY_RETURN"), only=(watched.__code__,))
        return observed(tool, function, X)

    expected = once(three_deep)
    assert len(expected[0]) >= 4
    compiled, backend = counting(three_deep)
    assert once(compiled) == expected
    for _ in range(3):
        compiled(X)
    recorded = backend.count
    assert once(compiled) == expected
    compiled(X)
    assert backend.count == recorded


# --- breakpoint() -----------------------------------------------------------------------------------------------------


def stops_here(x):
    unused = "dead"
    y = x.sin()
    breakpoint()
    return y.cos()


def stops_in_a_loop(x):
    y = x
    for k in range(3):
        unused = k * 2
        y = y + k
        breakpoint()
    return y


def calls_what_stops(x):
    alive = x + 1
    dead = "unused after the call"
    result = stops_here(alive)
    return result * 2


def calls_two_deep(x):
    dead = x * 5
    also = [1, "two"]
    return calls_what_stops(x + 2) + 1


@pytest.mark.parametrize("program", [stops_here, stops_in_a_loop, calls_what_stops, calls_two_deep], ids=names)
def test_breakpoint_sees_names_lines_and_variables(program, monkeypatch):
    seen = []

    def hook():
        frame = sys._getframe(1)
        while frame.f_code.co_name != "once":
            code = frame.f_code
            assert code.co_filename == __file__
            seen.append((code.co_name, code.co_qualname, code.co_firstlineno, frame.f_lineno, variables(frame)))
            assert frame.f_globals is globals()
            frame = frame.f_back

    def once(function):
        seen.clear()
        return describe(function(X)), list(seen)

    monkeypatch.setattr(sys, "breakpointhook", hook)
    expected = once(program)
    assert expected[1][0][4]["y"] is not None
    compiled, backend = counting(program)
    for _ in range(3):
        assert once(compiled) == expected
    assert backend.count >= 1


def test_stepping_on_from_a_breakpoint(monkeypatch):
    """As a debugger does: the hook starts a tracer, which then follows the function to its end."""
    tools = []

    def hook():
        tools.append(Tracer(__file__, skip=("once", "hook", "test_stepping_on_from_a_breakpoint")))
        tools[-1].start()

    def once(function):
        result = describe(function(X))
        tools[-1].stop()
        return result, tools[-1].events

    monkeypatch.setattr(sys, "breakpointhook", hook)
    expected = once(calls_two_deep)
    assert [event[1] for event in expected[1] if event[0] == "return"] == [
        "stops_here", "calls_what_stops", "calls_two_deep",
    ]  # fmt: skip
    compiled, backend = counting(calls_two_deep)
    for _ in range(3):
        assert once(compiled) == expected
    assert backend.count >= 1


PDB_COMMANDS = "p sorted(locals())|n|p y|u|p dead, sorted(locals())|u|p also|d|d|r|n|p result|c"


def test_pdb_says_what_it_says_in_eager_mode(monkeypatch):
    def once(function):
        output = io.StringIO()
        debugger = pdb.Pdb(stdin=io.StringIO(PDB_COMMANDS.replace("|", "\n") + "\n"), stdout=output, nosigint=True)
        monkeypatch.setattr(sys, "breakpointhook", lambda: debugger.set_trace(sys._getframe(1)))
        try:
            result = describe(function(X))
        finally:
            sys.settrace(None)
        return output.getvalue(), result

    expected = once(calls_two_deep)
    assert "unused after the call" in expected[0]
    assert "--Return--" in expected[0]
    compiled, backend = counting(calls_two_deep)
    for _ in range(3):
        assert once(compiled) == expected
    assert backend.count >= 1


# --- what a native callee sees of the frames that call it ------------------------------------------------------------


def test_code_in_a_callee_sees_the_lines_of_its_callers():
    seen = []

    @framejit.disable
    def look():
        frame = sys._getframe(2)
        for _ in range(3):
            seen.append((frame.f_code.co_name, frame.f_lineno))
            frame = frame.f_back

    def inner(x):
        y = x.sin()
        look()
        return y.cos()

    def outer(x):
        z = inner(
            x + 1,
        )
        return z * 2

    def once(function):
        seen.clear()
        function(X)
        return list(seen)

    expected = once(lambda x: outer(x))
    compiled = framejit.compile(outer)
    for _ in range(3):
        assert once(lambda x: compiled(x))[:2] == expected[:2]
