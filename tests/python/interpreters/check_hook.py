"""The eval-frame function: it installs, passes through, is removed, and leaves results and recursion as they were. Run
by test_interpreters.py."""

import asyncio
import contextlib
import functools
import gc
import sys
import threading

import framejit_check

MINOR = sys.version_info[1]


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def depth(n=0):
    try:
        return depth(n + 1)
    except RecursionError:
        return n


def squares(n):
    for i in range(n):
        received = yield i * i
        if received:
            yield received


def delegated(n):
    result = yield from squares(n)
    return result


class Base:
    def __init__(self, value, *args, key=None, **kwargs):
        self.value = (value, args, key, kwargs)

    @property
    def doubled(self):
        return self.value * 2


class Derived(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cell = lambda: self.value


@contextlib.contextmanager
def context(log):
    log.append("enter")
    try:
        yield len(log)
    finally:
        log.append("exit")


async def leaf(value):
    await asyncio.sleep(0)
    return value + 1


async def numbers(n):
    for i in range(n):
        yield await leaf(i)


async def gather():
    return [value async for value in numbers(5)] + list(await asyncio.gather(leaf(1), leaf(2)))


def exceptions():
    caught = []
    for divisor in (1, 0):
        try:
            caught.append(1 / divisor)
        except ZeroDivisionError as error:
            caught.append((str(error), error.__traceback__.tb_lineno - exceptions.__code__.co_firstlineno))
        finally:
            caught.append("finally")
    return caught


def program():
    """A bit of everything; plain values."""
    log = []
    with context(log) as size:
        log.append(size)
    thrown = squares(3)
    next(thrown)
    try:
        thrown.throw(KeyError("thrown"))
    except KeyError as error:
        log.append(error.args)
    sender = squares(3)
    log += [next(sender), sender.send("sent"), list(delegated(4))]
    derived = Derived(1, 2, key=3, other=4)
    log += [derived.doubled, derived.cell()]
    log += [sorted([3, 1, 2], key=lambda x: -x), functools.reduce(lambda a, b: a * b, range(1, 6))]
    log += [asyncio.run(gather()), exceptions(), [x for x in {y: y for y in range(3)}]]
    namespace = {}
    exec("class C:\n    x = [i for i in range(3)]\nresult = C.x", namespace)
    log += [namespace["result"], eval("fibonacci(10)", globals())]
    thread = threading.Thread(target=lambda: log.append(fibonacci(5)))
    thread.start()
    thread.join()
    return log


@contextlib.contextmanager
def hook(which=0):
    assert framejit_check.install_hook(which)
    try:
        yield
    finally:
        assert framejit_check.remove_hook(which)


def check_results():
    expected = program()
    with hook():
        got = program()
    seen = framejit_check.hook_statistics(0)
    assert got == expected, (got, expected)
    assert seen["problem"] == "", seen
    assert seen["frames"] > 250 and seen["resumptions"] > 20, seen
    assert not seen["installed"]
    frames = seen["frames"]
    program()
    assert framejit_check.hook_statistics(0)["frames"] == frames


def check_recursion():
    expected = depth()
    with hook():
        got = depth()
    assert abs(got - expected) <= 10, (got, expected)
    assert depth() == expected
    if MINOR >= 12:  # deeper than C recursion goes by itself (745 calls in 3.12.1, where a hook is installed)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(3000)
        expected = depth()
        with hook():
            got = depth()
        sys.setrecursionlimit(limit)
        assert abs(got - expected) <= 10, (got, expected)


def check_installing():
    assert framejit_check.install_hook(0)
    assert not framejit_check.install_hook(0)  # it is there
    assert framejit_check.install_hook(1)
    assert not framejit_check.remove_hook(0)  # another tool came later: ours stays under it
    assert fibonacci(10) == 55
    assert framejit_check.hook_statistics(0)["frames"] == framejit_check.hook_statistics(1)["frames"] > 100
    assert framejit_check.remove_hook(1)
    assert framejit_check.hook_statistics(0)["installed"]
    assert framejit_check.remove_hook(0)
    assert not framejit_check.remove_hook(0)
    assert fibonacci(10) == 55


def check_references():
    def run():
        with hook():
            program()

    run()
    gc.collect()
    counts = []
    for _ in range(4):
        run()
        gc.collect()
        counts.append((len(gc.get_objects()), sys.getrefcount(fibonacci), sys.getrefcount(fibonacci.__code__)))
    assert counts[-1][1:] == counts[0][1:], counts
    assert counts[-1][0] - counts[0][0] < 50, counts


def check_tracing():
    code = fibonacci.__code__
    assert not framejit_check.is_traced(code)
    for set_tool in (sys.settrace, sys.setprofile):
        set_tool(lambda *args: None)
        traced = framejit_check.is_traced(code)
        set_tool(None)
        assert traced and not framejit_check.is_traced(code)
    if MINOR >= 12:
        monitoring = sys.monitoring
        monitoring.use_tool_id(3, "check")
        monitoring.set_events(3, monitoring.events.PY_START)
        assert framejit_check.is_traced(code)
        monitoring.set_events(3, 0)
        assert not framejit_check.is_traced(code)
        monitoring.set_local_events(3, code, monitoring.events.LINE)
        assert framejit_check.is_traced(code) and not framejit_check.is_traced(program.__code__)
        monitoring.set_local_events(3, code, 0)
        assert not framejit_check.is_traced(code)
        monitoring.free_tool_id(3)


def check_current_frame():
    frame = framejit_check.current_frame()
    python = sys._getframe()
    assert frame["code"] is python.f_code is check_current_frame.__code__
    assert frame["function"] is check_current_frame and frame["globals"] is globals()
    assert frame["builtins"] is python.f_builtins and not frame["is_at_entry"]
    import dis

    assert 0 < frame["lasti"] * 2 <= python.f_lasti
    assert dis.opname[python.f_code.co_code[frame["lasti"] * 2]].startswith(("CALL", "PRECALL", "CACHE"))


def check_handled_exception():
    assert framejit_check.handled_exception() is None
    try:
        raise KeyError
    except KeyError as error:
        assert framejit_check.handled_exception() is error

        def inner():
            yield framejit_check.handled_exception()

        assert next(inner()) is error
    assert framejit_check.handled_exception() is None


def main():
    check_results()
    check_recursion()
    check_installing()
    check_references()
    check_tracing()
    check_current_frame()
    check_handled_exception()
    print("hook, frames and handled exceptions")


main()
