"""A program, and running it: the same steps in a world of its own, with `f` compiled or as it is."""

from __future__ import annotations

import builtins
import contextlib
import gc
import io
import linecache
import signal
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

import framejit
from tests.fuzz import observe

PRELUDE = """\
import collections, contextlib, copy, dataclasses, enum, functools, itertools, math, operator, types
import torch
import torch.nn.functional as F

def T(*shape, seed=0, grad=False, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    values = values.to(dtype) if dtype.is_floating_point else (values * 3).to(dtype)
    return values.requires_grad_() if grad else values

def hooked(tensor):
    tensor.register_hook(lambda gradient: gradient * 2)
    return tensor

def hook(tensor, function):
    # In torch, hooks on views that were written crash. What is a view may be told as none by a compiled call.
    if not tensor._version:
        tensor.register_hook(function)

LOG = []
"""
SECONDS = 30  # of processor time one program may take
HIDDEN: set[str] = set()  # names of the prelude
# Operators that passes/decompose.cc takes apart and whose kernels multiply and add at once.
TAKEN_APART = ("native_batch_norm", "_native_batch_norm_legit_no_training", "addcmul", "addcdiv", "silu")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv")
NUDGE = 2.0**-22  # relative: how much numbers are moved to see what a program makes of rounding
EAGER_SECONDS = 4.0  # and in eager alone: one that takes longer appends to the list that it iterates over, without end


@dataclass
class Program:
    """`setup` is a module's source, which defines `f`; each of `steps` is source that runs in the module after it.

    In the steps, `call` stands for `f`, compiled or not; what a step leaves in `result` is looked at."""

    setup: str
    steps: list[str]
    backend: str = "interp"
    checks: str = ""
    name: str = "program"
    recompile_limit: int = 8
    tolerance: float = 0.0  # at least: gradients may be sums in another order

    def source(self) -> str:
        """As a file that says by itself what is wrong."""
        steps = "".join(f"    ({step!r}),\n" for step in self.steps)
        return (
            "from tests.fuzz.program import Program, difference\n\n"
            f"SETUP = '''\\\n{self.setup}'''\nSTEPS = [\n{steps}]\n"
            f"print(difference(Program(SETUP, STEPS, backend={self.backend!r}, checks={self.checks!r}, "
            f"recompile_limit={self.recompile_limit}, tolerance={self.tolerance})))\n"
        )


@dataclass
class Statistics:
    programs: int = 0
    calls: int = 0
    traces: int = 0
    graphs: int = 0
    breaks: int = 0
    hits: int = 0
    raised: int = 0
    endless: int = 0

    def add(self, other: Statistics) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in vars(self).items())


class Invalid(Exception):
    """The program does not run at all, compiled or not."""


@dataclass
class World:
    """What one run of a program left to be compared: one observation per step."""

    observations: list[list] = field(default_factory=list)
    raised: int = 0
    entry: object = None


def _torch_state():
    return (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled())


def _reset_torch() -> None:
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    torch.utils.hooks.RemovableHandle.next_id = 0  # keys of hooks


def _execute(source: str, filename: str, namespace: dict) -> None:
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    exec(builtins.compile(source, filename, "exec"), namespace)


def _nudged(make: Callable, seed: int) -> Callable:
    """T, whose numbers are others by about NUDGE."""
    generator = torch.Generator().manual_seed(seed)

    def nudged(*shape, grad=False, **options):
        values = make(*shape, **options)
        if values.is_floating_point():
            values *= 1 + NUDGE * torch.randn(shape, generator=generator)
        return values.requires_grad_() if grad else values

    return nudged


def execute_setup(setup: str, nudge: int = 0) -> dict:
    """The module of a program, freshly made. `nudge`: the seed of what T's numbers are moved by; 0: not at all."""
    module = types.ModuleType("fuzzed")
    namespace = module.__dict__
    sys.modules["fuzzed"] = module
    exec(PRELUDE, namespace)
    HIDDEN.update(set(namespace) - {"LOG"})
    if nudge:
        namespace["T"] = _nudged(namespace["T"], nudge)
    try:
        _execute(setup, "<program>", namespace)
    except Exception as error:
        raise Invalid(f"the setup raises {error!r}") from error
    return namespace


def run(program: Program, compiled: bool, nudge: int = 0) -> World:
    """One run from the start, in a fresh module. `nudge`: see execute_setup."""
    world = World()
    _reset_torch()
    namespace = execute_setup(program.setup, nudge)
    hidden = set(HIDDEN)
    function = namespace.get("f")
    if not isinstance(function, types.FunctionType):
        raise Invalid("the setup defines no function f")
    call = function
    if compiled:
        call = framejit.compile(function, backend=program.backend, options={"recompile_limit": program.recompile_limit})
        world.entry = call
    hidden |= {"call", "__builtins__", "__warningregistry__"}
    namespace["call"] = call
    for index, step in enumerate(program.steps):
        namespace.pop("result", None)
        torch.manual_seed(index)
        error = None
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                _execute(step, f"<step {index}>", namespace)
        except framejit.CheckError:
            raise
        except Exception as caught:
            error = caught
            world.raised += 1
        visible = {name: value for name, value in namespace.items() if name not in hidden}
        seen = observe.observe({"error": observe.Raised(error) if error else None, "world": visible})
        seen += [("printed", observe.ADDRESS.sub("", printed.getvalue())), ("torch state", _torch_state())]
        world.observations.append(seen)
        error = None
    _reset_torch()
    return world


class _TooLong(BaseException):
    pass


def _stop(*_):
    raise _TooLong


@contextlib.contextmanager
def _limit(seconds: float):
    previous = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def difference(
    program: Program, statistics: Statistics | None = None, after_eager: Callable[[], None] = lambda: None
) -> str | None:
    """How the compiled program differs from eager, in words that start with the kind of difference; None: not at all.

    Raises Invalid where the program is none. `after_eager` is called between the two runs."""
    framejit.reset()
    framejit.set_checks(program.checks)
    failures = framejit._C.internal_errors()
    try:
        try:
            with _limit(EAGER_SECONDS):
                expected = run(program, compiled=False)
        except _TooLong:
            if statistics is not None:
                statistics.endless += 1
            return None
        after_eager()
        with _limit(SECONDS):
            actual = run(program, compiled=True)
        if framejit._C.internal_errors() != failures:
            return "check: a check or an internal error, which the program cannot see; the log says which"
        if statistics is not None:
            _count(statistics, program, actual)
        tolerance = max(program.tolerance, _tolerance(program, actual))
        for index, (e, a) in enumerate(zip(expected.observations, actual.observations, strict=True)):
            found = observe.compare(e, a, tolerance)
            if found is not None and tolerance and found.startswith("values"):
                # Differences of nearly equal numbers are rounding and nothing else; eager itself says how much.
                nudged = [run(program, compiled=False, nudge=seed).observations[index] for seed in (1, 2, 3)]
                found = observe.compare(e, a, tolerance, nudged)
            if found is not None:
                return f"{found} (step {index})"
        return None
    except framejit.CheckError as error:
        return f"check: {error}"
    except _TooLong:
        return f"hang: more than {SECONDS} seconds"
    finally:
        framejit.set_checks("")
        framejit.reset()
        _reset_torch()
        sys.modules.pop("fuzzed", None)
        if statistics is not None and statistics.programs % 50 == 0:
            gc.collect()


def _tolerance(program: Program, world: World) -> float:
    """Relative to the largest magnitude in a tensor, or to 1. Kernels of the native backend add in another order, and
    have their own tanh and exp. The interpreter calls the operators that eager calls, so that nothing may differ; but
    the passes take some apart, and where eager's kernel rounds a product and a sum once, their parts round twice; and a
    backward is handed expanded tangents as contiguous copies, so that its matrix products may be of other layouts."""
    if program.backend not in ("interp", "eager"):
        return 1e-5
    traces = framejit._C.traces(world.entry)
    rounded = any(f"aten::{name}" in trace["aten"] for name in TAKEN_APART for trace in traces)
    products = any(f"aten::{name}" in trace["aten"] for name in PRODUCTS for trace in traces if trace["has_backward"])
    return 1e-6 if rounded or products else 0.0


def _count(statistics: Statistics, program: Program, world: World) -> None:
    statistics.programs += 1
    statistics.calls += len(program.steps)
    statistics.raised += world.raised
    for trace in framejit._C.traces(world.entry):
        statistics.traces += 1
        statistics.graphs += trace["captured"] and trace["nodes"] > 0
        statistics.breaks += trace["break"] is not None
        statistics.hits += trace["hits"]
