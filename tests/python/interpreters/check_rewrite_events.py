"""What tracers, profilers and monitoring tools see of a rewritten function: the events of the plain one. Run by
test_interpreters.py."""

import sys

import framejit_check
from check_rewrite import function_of
from rewrite_programs import PROGRAMS, Log

MINOR = sys.version_info[1]


def traced(run, code):
    """The events of frames of this code, as sys.settrace tells them, with the variables at each line."""
    events = []

    def trace(frame, event, arg):
        if frame.f_code is not code:
            return None
        names = sorted(name for name in frame.f_locals)
        events.append((event, frame.f_lineno, repr(arg) if event == "return" else None, names))
        return trace

    sys.settrace(trace)
    try:
        run()
    except Exception as error:
        events.append(repr(error))
    finally:
        sys.settrace(None)
    return events


def profiled(run, code):
    events = []

    def profile(frame, event, arg):
        if frame.f_code is code:
            events.append((event, frame.f_lineno, arg.__name__ if event.startswith("c_") else None))

    sys.setprofile(profile)
    try:
        run()
    except Exception as error:
        events.append(repr(error))
    finally:
        sys.setprofile(None)
    return events


def monitored(run, code):
    """The events of sys.monitoring but for those that tell of single instructions and jumps."""
    monitoring = sys.monitoring
    kinds = "PY_START PY_RESUME PY_RETURN PY_YIELD PY_THROW PY_UNWIND CALL C_RETURN C_RAISE RAISE RERAISE LINE".split()
    kinds += ["EXCEPTION_HANDLED", "STOP_ITERATION"]
    events = []
    monitoring.use_tool_id(3, "check")
    for kind in kinds:

        def callback(where, first, *rest, kind=kind):
            if where is not code:
                return
            detail = first if kind == "LINE" else getattr(rest[0], "__name__", None) if kind == "CALL" else None
            events.append((kind, detail))

        monitoring.register_callback(3, getattr(monitoring.events, kind), callback)
    monitoring.set_events(3, sum({getattr(monitoring.events, kind) for kind in kinds}))
    try:
        run()
    except Exception as error:
        events.append(repr(error))
    finally:
        monitoring.set_events(3, 0)
        monitoring.free_tool_id(3)
    return events


def check_program(observe, make, args):
    plain = make(Log())
    expected = observe(lambda: plain(*args()), plain.__code__)
    function = make(Log())
    code = framejit_check.with_reentries(function.__code__, None, None)
    rewritten = function_of(function, code, function.__closure__)
    got = observe(lambda: rewritten(*args()), code)
    for i, (want, have) in enumerate(zip(expected, got)):
        assert want == have, (code, i, want, have, expected[:i])
    assert len(got) == len(expected), (code, got, expected)
    return len(got)


def main():
    observers = [traced, profiled] + ([monitored] if MINOR >= 12 else [])
    total = 0
    for observe in observers:
        for make, args in PROGRAMS:
            total += check_program(observe, make, args)
    print(f"{total} events of tools, the same as without re-entry points")


if __name__ == "__main__":
    main()
