"""Comparing a compiled function with eager PyTorch, which is the specification.

`check` runs a function both ways on copies of the same arguments and compares what can be seen: values, dtype, strides,
aliasing, requires_grad, what became of the arguments, exceptions with type, message and traceback lines, and how many
graphs and breaks it took. `Cases` makes tables of such functions.
"""

import collections
import copy
import traceback
from dataclasses import dataclass, field, fields, is_dataclass

import pytest
import torch
from torch import Tensor

import framejit

TOLERANCE = 1e-5  # relative to the largest value


class CountingBackend:
    """The simplest backend: runs the FX module as it is and keeps each one, one per recording that made a graph.

    `errors`: what the modules raised. The call then runs in the interpreter, which hides it."""

    def __init__(self):
        self.modules, self.errors = [], []

    def __call__(self, graph_module, example_inputs):
        self.modules.append(graph_module)

        def run_module(*inputs):
            try:
                return graph_module.forward(*inputs)
            except Exception as error:
                self.errors.append(error)
                raise

        return run_module

    @property
    def count(self) -> int:
        return len(self.modules)


def counting(target, **options):
    """(compiled, backend): the function compiled so that its recordings can be counted."""
    backend = CountingBackend()
    return framejit.compile(target, backend=backend, **options), backend


@dataclass
class Outcome:
    """What one call did, as far as the caller can see."""

    value: object = None
    error: BaseException | None = None
    lines: list = field(default_factory=list)  # (function name, line) of the user's frames in the traceback
    arguments: tuple = ()
    random_state: Tensor | None = None  # of torch's default generator


def user_lines(error: BaseException, function) -> list[tuple[str, int]]:
    """The traceback from the frame of `function` on, without the frames of framejit or of this file."""
    own = {__file__, framejit.__file__}
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename not in own and "<eval" not in f.filename
    ]
    return [(frame.name, frame.lineno) for frame in frames]


def run(function, args: tuple, kwargs: dict) -> Outcome:
    try:
        return Outcome(value=function(*args, **kwargs), arguments=(args, kwargs))
    except Exception as error:
        return Outcome(error=error, lines=user_lines(error, function), arguments=(args, kwargs))


def leaves(value, seen=None) -> list[Tensor]:
    """All tensors reachable through containers and attributes, in a fixed order; each container once."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return [value]
    if id(value) in seen or isinstance(value, (type, str, bytes, int, float, complex, torch.nn.Module)):
        return []
    seen.add(id(value))
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, (list, tuple, collections.deque)):
        children = list(value)
    else:
        children = []
    children += list(getattr(value, "__dict__", {}).values())
    return [leaf for child in children for leaf in leaves(child, seen)]


def assert_tensor_equal(actual: Tensor, expected: Tensor, where: str, tolerance: float = TOLERANCE) -> None:
    assert type(actual) is type(expected), f"{where}: type {type(actual)} instead of {type(expected)}"
    for name in ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf"):
        a, e = getattr(actual, name), getattr(expected, name)
        assert a == e, f"{where}: {name} {a} instead of {e}"
    assert actual.is_inference() == expected.is_inference(), f"{where}: inference tensor in one of them"
    if expected.layout != torch.strided or expected.device.type == "meta":
        return
    assert actual.stride() == expected.stride(), f"{where}: stride {actual.stride()} instead of {expected.stride()}"
    a, e = actual.detach().resolve_conj(), expected.detach().resolve_conj()
    if not (e.is_floating_point() or e.is_complex()):
        assert torch.equal(a, e), f"{where}: {a} instead of {e}"
        return
    same = (a == e) | (a.isnan() & e.isnan())
    if bool(same.all()):
        return
    finite = e[e.isfinite()].abs().double() if not e.is_complex() else e.abs().double()
    scale = float(finite.max()) if finite.numel() else 0.0
    difference = torch.where(same, torch.zeros_like(a), a - e).abs().max().item()
    assert difference <= tolerance * scale, (
        f"{where}: differs by {difference:.3g} where the largest value is {scale:.3g}"
    )


def slots_of(value) -> dict | None:
    """The content of an object whose class has __slots__ and no __dict__."""
    names = [name for cls in type(value).__mro__ for name in cls.__dict__.get("__slots__", ()) if name[:2] != "__"]
    return {name: getattr(value, name) for name in names if hasattr(value, name)} if names else None


def assert_same(actual, expected, where: str = "result", tolerance: float = TOLERANCE, seen=None) -> None:
    """Structural equality of two results, tensors by value and metadata."""
    seen = {} if seen is None else seen
    if id(expected) in seen:
        assert seen[id(expected)] is actual, f"{where}: identity with another part of the result is lost"
        return
    if isinstance(expected, Tensor):
        assert isinstance(actual, Tensor), f"{where}: {type(actual)} instead of a tensor"
        assert_tensor_equal(actual, expected, where, tolerance)
        return
    if isinstance(expected, torch.Generator):
        assert torch.equal(actual.get_state(), expected.get_state()), f"{where}: a generator in another state"
        return
    # Classes made by the function itself are another class each time: the name has to do.
    assert type(actual).__qualname__ == type(expected).__qualname__, f"{where}: {type(actual)} not {type(expected)}"
    if isinstance(expected, (str, bytes, int, float, complex, type, type(None))) or callable(expected):
        both_nan = isinstance(expected, float) and expected != expected and actual != actual
        same = both_nan or callable(expected) or actual == expected
        assert same, f"{where}: {actual!r} instead of {expected!r}"
        return
    seen[id(expected)] = actual
    if isinstance(expected, dict):
        assert list(actual) == list(expected), f"{where}: keys {list(actual)} instead of {list(expected)}"
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}[{key!r}]", tolerance, seen)
    elif isinstance(expected, (list, tuple, collections.deque)):
        assert len(actual) == len(expected), f"{where}: length {len(actual)} instead of {len(expected)}"
        for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, e, f"{where}[{index}]", tolerance, seen)
    elif is_dataclass(expected):
        for f in fields(expected):
            assert_same(getattr(actual, f.name), getattr(expected, f.name), f"{where}.{f.name}", tolerance, seen)
    elif hasattr(expected, "__dict__"):
        assert_same(actual.__dict__, expected.__dict__, f"{where}.__dict__", tolerance, seen)
    elif slots_of(expected) is not None:
        assert_same(slots_of(actual), slots_of(expected), f"{where}.__slots__", tolerance, seen)
    else:
        assert actual == expected, f"{where}: {actual!r} instead of {expected!r}"


def alias_pattern(outcome: Outcome) -> list:
    """For each tensor of the result and the arguments: which earlier one it is, and whose memory it shares."""
    tensors = leaves((outcome.value, outcome.arguments))
    pattern = []
    for index, tensor in enumerate(tensors):
        same = next((i for i in range(index) if tensors[i] is tensor), None)
        shares = None
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()._cdata
            shares = next(
                (i for i in range(index) if tensors[i].layout == torch.strided
                 and tensors[i].untyped_storage()._cdata == storage),
                None,
            )  # fmt: skip
        pattern.append((same, shares, tensor.storage_offset() if shares is not None else 0))
    return pattern


def assert_same_outcome(actual: Outcome, expected: Outcome, tolerance: float = TOLERANCE) -> None:
    if expected.error is not None:
        assert actual.error is not None, f"returned {actual.value!r}; eager raises {expected.error!r}"
        assert type(actual.error) is type(expected.error), f"raises {actual.error!r}; eager {expected.error!r}"
        assert str(actual.error) == str(expected.error)
        assert actual.lines == expected.lines, "another traceback than eager's"
    elif actual.error is not None:
        raise AssertionError(f"raises {actual.error!r}; eager returns") from actual.error
    assert_same(actual.value, expected.value, "result", tolerance)
    assert_same(actual.arguments, expected.arguments, "arguments after the call", tolerance)
    assert_same(actual.random_state, expected.random_state, "random numbers drawn")
    assert alias_pattern(actual) == alias_pattern(expected), "results share memory or identity in another way"


def check(function, *args, graphs=1, breaks=0, calls=3, kwargs=None, grad=False, setup=None, tolerance=TOLERANCE):
    """Compares `function` with its compiled self on copies of the arguments.

    graphs: recordings that must have made a graph after all `calls` (1: the later calls hit the cache).
    breaks: what explain() must count. setup: called before every single run, to put outside state back.
    """
    kwargs = kwargs or {}

    def once(target) -> Outcome:
        if setup is not None:
            setup()
        own_args, own_kwargs = copy.deepcopy((args, kwargs))
        torch.manual_seed(0)
        with torch.set_grad_enabled(grad):
            outcome = run(target, own_args, own_kwargs)
        outcome.random_state = torch.get_rng_state()
        return outcome

    compiled, backend = counting(function)
    native = framejit.compile(function)
    for call in range(calls):
        expected = once(function)
        assert_same_outcome(once(compiled), expected, tolerance)
        assert_same_outcome(once(native), expected, tolerance)
        if call == 0 and graphs == 1:
            assert backend.count == 1, f"the first call made {backend.count} graphs: {_report(function, once)}"
    assert backend.count == graphs, f"{backend.count} graphs instead of {graphs}: {_report(function, once)}"
    if expected.error is not None:
        return  # explain() has raised what the function raises
    assert not backend.errors, f"a graph raised: {backend.errors[0]!r}\n{backend.modules[-1].code}"
    report = once(framejit.explain(function)).value
    assert report.break_count == breaks, f"{report.break_count} breaks instead of {breaks}: {report}"
    assert all(graph.captured for graph in report.graphs), f"the native backend gave up: {report}"


def _report(function, once) -> str:
    outcome = once(framejit.explain(function))
    return str(outcome.value) if outcome.error is None else f"raises {outcome.error!r}"


class Cases:
    """A table of functions: `@case(*args, **expectations)` adds one, `parametrize(*case.table)` runs all."""

    def __init__(self):
        self.rows = []

    def __call__(self, *args, cpu=False, **expectations):
        """cpu: what it does, raises or counts is another thing on other devices."""

        def add(function):
            marks = [pytest.mark.cpu] if cpu else []
            self.rows.append(pytest.param(function, args, expectations, id=function.__name__, marks=marks))
            return function

        return add

    @property
    def table(self):
        return ("function, args, expectations", self.rows)


def vector(*shape: int, dtype=torch.float32, seed: int = 0) -> Tensor:
    """A reproducible random tensor on the default device, the same on each; shape (4,) if none is given."""
    generator = torch.Generator("cpu").manual_seed(seed)
    values = torch.randn(shape or (4,), generator=generator, device="cpu").to(torch.get_default_device())
    return values.to(dtype) if dtype.is_floating_point else (values * 8).to(dtype)
