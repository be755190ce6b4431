"""Leaving and entering frames in the middle: programs are stopped by a re-entry hook at every legal instruction, and
continued from the state it saw in an enter-at code object; result, exception, traceback and side effects must be those
of the plain run. Run by test_interpreters.py."""

import dis
import gc
import sys
import traceback
import types

import framejit_check
import rewrite_programs
from rewrite_programs import PROGRAMS, Log

MINOR = sys.version_info[1]
NULL = object()
MARKER = object()
ENTERABLE = ("kNone", "kUncovered")
framejit_check.set_null(NULL)


def sampled(indices):
    """All of them, of a large function some: enough for every kind."""
    return indices if len(indices) < 400 else indices[:: len(indices) // 40]


class Left:
    """What the hook returns to leave the frame: the state it saw."""

    def __init__(self, index, slots, stack, handled):
        self.index, self.slots, self.stack, self.handled = index, slots, stack, handled


def lines_of(error):
    """(function, line) of each frame of the traceback, those of this file left out."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == rewrite_programs.__file__:
            found.append((frame.f_code.co_qualname, line))
    return found


def handling(outside, run):
    """run(), if `outside` while an exception is being handled; it leaves that as it is."""
    if not outside:
        return run()
    try:
        raise LookupError("handled outside")
    except LookupError as outer:
        result = run()
        assert sys.exception() is outer
        return result


def outcome(call, log, outside=False):
    """What the program did, comparable."""
    return handling(outside, lambda: plain_outcome(call, log))


def plain_outcome(call, log):
    handled_before = sys.exception()
    try:
        result = ("returned", repr(call()))
    except BaseException as error:
        context = error.__context__
        result = ("raised", repr(error), lines_of(error), repr(context), context and lines_of(context))
    assert sys.exception() is handled_before
    return result, list(log)


def function_of(function, code, closure=None):
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def capture(function, args, target, visit):
    """The state at the visit-th arrival at `target`; None if it comes less often."""
    arrivals = 0

    def hook(index, slots, stack, handled):
        nonlocal arrivals
        arrivals += 1
        return Left(index, slots, stack, handled) if arrivals == visit else None

    code = framejit_check.with_reentries(function.__code__, [target], hook)
    try:
        result = function_of(function, code, function.__closure__)(*args)
    except Exception:
        return None
    return result if isinstance(result, Left) else None


def enter_at(function, state, targets=(), hook=None):
    """A call without arguments that continues from the state."""
    code = function.__code__
    free = len(code.co_freevars)
    bound = [i for i, value in enumerate(state.slots[: len(state.slots) - free]) if value is not NULL]
    flags = [value is not NULL for value in state.stack]
    values = [state.slots[i] for i in bound] + [value for value in state.stack if value is not NULL]
    if framejit_check.state_has_exception(code, state.index):
        values.append(state.handled)
    made = framejit_check.enter_at(code, state.index, bound, flags, -1, False, None, list(targets), hook)
    assert made.co_argcount == 1 and made.co_name == code.co_name and made.co_qualname == code.co_qualname
    continued = function_of(function, made, function.__closure__)
    return lambda: continued(tuple(values))


def check_every_offset(make, args):
    """`make(log)` gives the function to run, fresh for each run."""
    expected = {}
    for outside in (False, True):
        log = Log()
        expected[outside] = outcome(lambda: make(log)(*args()), log, outside)
    code = make(Log()).__code__
    facts = framejit_check.reentry_facts(code)
    legal = [i for i, (refusal, *_) in enumerate(facts) if refusal == "kNone"]
    assert legal, code
    entered = 0
    for target in sampled(legal):
        for visit, outside in ((1, False), (1, True), (2, False)):
            log = Log()
            function = make(log)
            with sys_state_kept():
                state = handling(outside, lambda: capture(function, args(), target, visit))
            if state is None:
                break
            assert len(state.stack) == facts[target][1]
            got = outcome(enter_at(function, state), log, outside)
            assert got == expected[outside], (code, target, visit, got, expected[outside])
            entered += 1
    return entered


class sys_state_kept:
    """Leaving a frame in an except handler puts the handled exception back."""

    def __enter__(self):
        self.before = sys.exception()

    def __exit__(self, *_):
        assert sys.exception() is self.before


def check_identity(make, args):
    """A re-entry point everywhere that does nothing changes nothing."""
    log = Log()
    expected = outcome(lambda: make(log)(*args()), log)
    log = Log()
    function = make(log)
    code = framejit_check.with_reentries(function.__code__, None, None)
    assert code.co_flags == function.__code__.co_flags
    got = outcome(lambda: function_of(function, code, function.__closure__)(*args()), log)
    assert got == expected, (code, got, expected)


def check_reentries_of_enter_at(make, args):
    """In an enter-at code object the re-entry point at its own start is skipped once; a hook there sees the state that
    a hook of the original would see at the next arrival."""
    function = make(Log())
    legal = [i for i, fact in enumerate(framejit_check.reentry_facts(function.__code__)) if fact[0] == "kNone"]
    for target in sampled(legal):
        log = Log()
        function = make(log)
        state = capture(function, args(), target, 1)
        if state is None:
            continue
        arrivals = []

        def hook(index, slots, stack, handled):
            arrivals.append(index)

        enter = enter_at(function, state, legal, hook)
        outcome(enter, log)
        log = Log()
        function = make(log)
        plain = []
        code = framejit_check.with_reentries(function.__code__, legal, lambda index, *_: plain.append(index))
        outcome(lambda: function_of(function, code, function.__closure__)(*args()), log)
        assert arrivals == plain[plain.index(target) + 1 :], (function.__code__, target, arrivals, plain)


def call_operands(code, decoded, call):
    """How many stack values the call takes, and its keyword names where the code has them."""
    opcode, oparg = decoded[call][:2]
    names = ()
    while dis.opname[decoded[call - 1][0]] in ("KW_NAMES", "PRECALL"):
        call -= 1
        if dis.opname[decoded[call][0]] == "KW_NAMES":
            names = code.co_consts[decoded[call][1]]
    return framejit_check.stack_effect(opcode, oparg, 0)[0], names


def perform(name, operands, names):
    """The call, as the instruction would make it."""
    if name == "CALL_KW":
        *operands, names = operands
    first, second, *args = operands
    function = first if MINOR >= 13 or first is not NULL else second
    self = [second] if NULL not in (first, second) else []
    if name == "CALL_FUNCTION_EX":
        return function(*args[0], **(args[1] if len(args) > 1 else {}))
    args = self + args
    plain = len(args) - len(names)
    return function(*args[:plain], **dict(zip(names, args[plain:])))


def check_inner_calls(make, args):
    """The frame below a call that was left: enter-at with an inner call, which does what the call does."""
    log = Log()
    expected = outcome(lambda: make(log)(*args()), log)
    code = make(Log()).__code__
    decoded = framejit_check.decode(code)
    refusals = [fact[0] for fact in framejit_check.reentry_facts(code)]
    made = 0
    for call, (opcode, *_) in enumerate(decoded):
        name = dis.opname[opcode]
        if name not in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") or refusals[call] == "kUnreachable":
            continue
        start = call
        while refusals[start] == "kCall":
            start -= 1
        for drop_result in (False, True):
            target = call + 1 + drop_result
            if drop_result and dis.opname[decoded[call + 1][0]] != "POP_TOP":
                continue
            if target == len(decoded) or refusals[target] not in ENTERABLE:
                continue
            log = Log()
            function = make(log)
            state = capture(function, args(), start, 1)
            if state is not None:
                got = outcome(enter_below(function, state, call, target, drop_result), log)
                assert got == expected, (code, call, got, expected)
                check_marker(function, state, call, target, drop_result)
                made += 1
    return made


def enter_below(function, state, call, target, drop_result, result=None):
    """Continues the frame below a call; the call's result is `result` if that is given."""
    code = function.__code__
    decoded = framejit_check.decode(code)
    taken, names = call_operands(code, decoded, call)
    stack, operands = state.stack[: len(state.stack) - taken], state.stack[len(state.stack) - taken :]
    bound = [i for i, value in enumerate(state.slots[: -len(code.co_freevars) or None]) if value is not NULL]
    values = [state.slots[i] for i in bound] + [value for value in stack if value is not NULL]
    if framejit_check.state_has_exception(code, target):
        values.append(state.handled)
    if result is None:
        values += [lambda operands: perform(dis.opname[decoded[call][0]], operands, names), operands]
    else:
        values += [lambda operands: result, operands]
    flags = [value is not NULL for value in stack]
    stubs = [target] if framejit_check.reentry_facts(code)[target][0] == "kNone" else []
    made = framejit_check.enter_at(code, target, bound, flags, call, drop_result, MARKER, stubs, None)
    continued = function_of(function, made, function.__closure__)
    return lambda: continued(tuple(values))


def check_marker(function, state, call, target, drop_result):
    before = sys.exception()
    assert enter_below(function, state, call, target, drop_result, MARKER)() is MARKER
    assert sys.exception() is before


class Injected(Exception):
    pass


def check_raising_hooks(make, args):
    """What a hook raises, the instruction behind it raised."""
    code = make(Log()).__code__
    spans = framejit_check.spans(code)
    facts = framejit_check.reentry_facts(code)
    for target in sampled([i for i, (refusal, *_) in enumerate(facts) if refusal == "kNone"]):

        def hook(*_):
            raise Injected

        function = make(Log())
        rewritten = framejit_check.with_reentries(function.__code__, [target], hook)
        (kind, *what), _ = outcome(lambda: function_of(function, rewritten, function.__closure__)(*args()), Log())
        if kind == "raised" and what[0] == "Injected()":
            line = spans[target][0] if spans[target][0] >= 0 else None
            assert what[1][0] == (code.co_qualname, line), (code, target, what, spans[target])


def check_references():
    """Rewritten code and its frames hold on to nothing."""

    def run():
        for make, args in PROGRAMS[:6]:
            check_every_offset(make, args)
            check_raising_hooks(make, args)

    counts = []
    for _ in range(4):
        run()
        gc.collect()
        counts.append((len(gc.get_objects()), sys.getrefcount(NULL), sys.getrefcount(MARKER)))
    assert counts[-1][1:] == counts[1][1:], counts
    assert abs(counts[-1][0] - counts[1][0]) < 50, counts


def main():
    entered = below = 0
    for make, args in PROGRAMS:
        check_identity(make, args)
        entered += check_every_offset(make, args)
        below += check_inner_calls(make, args)
        check_reentries_of_enter_at(make, args)
        check_raising_hooks(make, args)
    check_references()
    print(f"{len(PROGRAMS)} programs continued from {entered} states, and below {below} calls")


if __name__ == "__main__":
    main()
