"""What tools see of the functions of one file: sys.settrace, sys.setprofile, sys.monitoring, a coverage tool.

Each tool collects plain tuples, so that the streams of two runs can be compared. `start` and `stop` may be called
anywhere; `start` in the middle of a function does what a debugger does: the frames that are running are traced too.
"""

import sys

import torch


def describe(value):
    """Of a variable: what two runs have in common."""
    if isinstance(value, torch.Tensor):
        return [round(number, 3) for number in value.detach().flatten().tolist()]
    if isinstance(value, (int, float, str, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    return type(value).__name__


def variables(frame):
    return {name: describe(value) for name, value in sorted(frame.f_locals.items())}


class Tracer:
    """sys.settrace: calls, lines with the variables, exceptions, returns; with `opcodes`, single instructions."""

    def __init__(self, filename, opcodes=False, skip=()):
        self.filename, self.opcodes, self.skip = filename, opcodes, skip
        self.events = []

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if code.co_filename != self.filename or code.co_name in self.skip:
            return None
        frame.f_trace_opcodes = self.opcodes
        detail = repr(arg[1]) if event == "exception" else describe(arg) if event == "return" else None
        lasti = frame.f_lasti if event == "opcode" else None
        self.events.append((event, code.co_qualname, frame.f_lineno, detail, variables(frame), lasti))
        return self

    def start(self):
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == self.filename and frame.f_code.co_name not in self.skip:
                frame.f_trace = self
            frame = frame.f_back
        sys.settrace(self)

    def stop(self):
        sys.settrace(None)


class Profiler:
    """sys.setprofile: calls and returns of Python functions, and calls of C functions with their names."""

    def __init__(self, filename, skip=()):
        self.filename, self.skip = filename, skip
        self.events = []

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if code.co_filename != self.filename or code.co_name in self.skip:
            return
        detail = arg.__name__ if event.startswith("c_") else describe(arg)
        self.events.append((event, code.co_qualname, frame.f_lineno, detail))

    def start(self):
        sys.setprofile(self)

    def stop(self):
        sys.setprofile(None)


class Coverage:
    """The lines that ran, as a coverage tool collects them with sys.settrace."""

    def __init__(self, filename, skip=()):
        self.filename, self.skip = filename, skip
        self.events = set()

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != self.filename or frame.f_code.co_name in self.skip:
            return None
        if event == "line":
            self.events.add(frame.f_lineno)
        return self

    def start(self):
        sys.settrace(self)

    def stop(self):
        sys.settrace(None)


class Monitor:
    """sys.monitoring: `kinds` of events, of all code or of the code objects in `only`."""

    KINDS = (
        "PY_START", "PY_RESUME", "PY_RETURN", "PY_YIELD", "PY_THROW", "PY_UNWIND", "CALL", "C_RETURN", "C_RAISE",
        "RAISE", "RERAISE", "LINE", "EXCEPTION_HANDLED", "STOP_ITERATION",
    )  # fmt: skip
    SINGLE = ("INSTRUCTION", "JUMP", "BRANCH")
    TOOL = 4

    def __init__(self, filename, kinds=KINDS, only=(), once=False, skip=()):
        self.filename, self.kinds, self.only, self.once, self.skip = filename, kinds, only, once, skip
        self.events = []

    def start(self):
        monitoring = sys.monitoring
        monitoring.use_tool_id(self.TOOL, "test")
        monitoring.restart_events()  # what an earlier tool did not want to see any more
        for kind in self.kinds:
            monitoring.register_callback(self.TOOL, getattr(monitoring.events, kind), self._callback(kind))
        events = sum({getattr(monitoring.events, kind) for kind in self.kinds})
        for code in self.only:
            monitoring.set_local_events(self.TOOL, code, events)
        if not self.only:
            monitoring.set_events(self.TOOL, events)

    def _callback(self, kind):
        def callback(code, first, *rest):
            if code.co_filename == self.filename and code.co_name not in self.skip:
                self.events.append((kind, code.co_qualname, *self._detail(kind, first, rest)))
            return sys.monitoring.DISABLE if self.once and kind == "LINE" else None

        return callback

    def _detail(self, kind, first, rest):
        if kind == "LINE":
            return (first,)
        if kind == "CALL":
            return (getattr(rest[0], "__name__", type(rest[0]).__name__),)
        if kind in ("PY_RETURN", "RAISE", "PY_UNWIND", "EXCEPTION_HANDLED"):
            return (describe(rest[0]) if kind == "PY_RETURN" else repr(rest[0]),)
        return (first, *rest) if kind in self.SINGLE else ()

    def stop(self):
        monitoring = sys.monitoring
        for code in self.only:
            monitoring.set_local_events(self.TOOL, code, 0)
        monitoring.set_events(self.TOOL, 0)
        for kind in self.kinds:
            monitoring.register_callback(self.TOOL, getattr(monitoring.events, kind), None)
        monitoring.free_tool_id(self.TOOL)


def observed(tool, function, *args):
    """The events of one call, and what it returned or raised."""
    tool.start()
    try:
        result = describe(function(*args))
    except Exception as error:
        result = repr(error)
    finally:
        tool.stop()
    return tool.events, result
