"""What can be seen of a world: a flat list of (path, fact), comparable between two runs of one program."""

from __future__ import annotations

import collections
import math
import re
import traceback
import types
from dataclasses import dataclass

import torch

import framejit

PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), torch.dtype, torch.device, range)
# What is no fact of the program: addresses, and which of autograd's nodes it is that finds an input overwritten.
ADDRESS = re.compile(r" at 0x[0-9a-f]+|\[torch\.\w+ \[[0-9, ]*\]\], which is output \d+ of [\w:]+")
NODE = re.compile(r"grad_fn=<\w+>")  # of a tensor in a text


@dataclass
class Raised:
    """An exception that left a call: its traceback is looked at as well."""

    error: BaseException | None


@dataclass
class Values:
    """The numbers of a tensor, at the time of the observation."""

    content: torch.Tensor


def _is_plain(value) -> bool:
    """Whether the value is all there is to see: nobody asks which of two equal ones it is."""
    if isinstance(value, slice):
        return all(map(_is_plain, (value.start, value.stop, value.step)))
    return isinstance(value, PLAIN) or (type(value) in (tuple, torch.Size) and all(map(_is_plain, value)))


def observe(root: dict) -> list:
    """Every fact that can be reached from `root`; each object once, later by its number."""
    return _Observer().run(root)


def _text(value) -> str:
    """Without addresses; of a large int, whose digits CPython refuses, in base 16."""
    return hex(value) if type(value) is int else ADDRESS.sub("", repr(value))


class _Observer:
    def __init__(self):
        self.facts: list = []
        self.numbers: dict[int, int] = {}
        self.storages: dict[int, int] = {}
        self.kept: list = []  # so that no id is used twice

    def run(self, root: dict) -> list:
        for name, value in root.items():
            self.visit(name, value)
        return self.facts

    def add(self, path: str, *fact) -> None:
        self.facts.append((path, fact))

    def visit(self, path: str, value) -> None:
        if _is_plain(value) or (isinstance(value, types.ModuleType) and value.__name__ != "user"):
            # A NaN is no equal of itself, 0.0 is -0.0's, and 1 is True's.
            return self.add(path, type(value).__name__, _text(value))
        if isinstance(value, framejit._C.Entry):
            value = framejit._C.entry_function(value)
        if id(value) in self.numbers:
            return self.add(path, "the same as", self.numbers[id(value)])
        self.numbers[id(value)] = len(self.numbers)
        self.kept.append(value)
        self.add(path, type(value).__qualname__)
        if isinstance(value, Raised):
            self.raised(path, value.error)
        elif isinstance(value, torch.Tensor):
            self.tensor(path, value)
        elif isinstance(value, types.FunctionType):
            self.function(path, value)
        elif isinstance(value, types.MethodType):
            self.visit(f"{path}.__self__", value.__self__)
            self.visit(f"{path}.__func__", value.__func__)
        elif isinstance(value, type):
            self.klass(path, value)
        elif isinstance(value, BaseException):
            self.exception(path, value)
        elif isinstance(value, types.CellType):
            self.cell(path, value)
        else:
            self.container(path, value)

    def container(self, path: str, value) -> None:
        if isinstance(value, dict):
            # Not .items(): a subclass may have its own. An OrderedDict has its own order.
            ordered = isinstance(value, collections.OrderedDict)
            for key, item in (collections.OrderedDict if ordered else dict).items(value):
                self.visit(f"{path}[{_text(key)}]" if isinstance(key, PLAIN) else f"{path}[{type(key).__name__}]", item)
        elif isinstance(value, (list, tuple, collections.deque)):
            self.add(f"{path} length", len(value), getattr(value, "maxlen", None))
            for index, item in enumerate(value):
                self.visit(f"{path}[{index}]", item)
        elif isinstance(value, (set, frozenset)):
            self.add(path, sorted(NODE.sub("grad_fn", _text(item)) for item in value))
        elif isinstance(value, slice):
            for name in ("start", "stop", "step"):
                self.visit(f"{path}.{name}", getattr(value, name))
        if isinstance(getattr(value, "__dict__", None), dict):
            for name, item in list(value.__dict__.items()):
                self.visit(f"{path}.{name}", item)
        for base in type(value).__mro__:
            for name in getattr(base, "__slots__", ()) if isinstance(getattr(base, "__slots__", ()), tuple) else ():
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    self.visit(f"{path}.{name}", getattr(value, name))

    def tensor(self, path: str, value: torch.Tensor) -> None:
        if value.layout != torch.strided:
            self.add(f"{path} form", value.dtype, value.device, tuple(value.shape), value.layout, value.requires_grad)
            return self.add(f"{path} values", Values(value.detach().to_dense()))
        storage = value.untyped_storage()
        number = self.storages.setdefault(storage._cdata, len(self.storages))
        try:
            is_leaf, grad_fn = value.is_leaf, value.grad_fn is not None
        except RuntimeError as error:  # a view that autograd forbids to go on with
            is_leaf, grad_fn = False, str(error)
        self.add(f"{path} form", value.dtype, value.device, tuple(value.shape), value.stride(), value.storage_offset(),
                 number, value.requires_grad, is_leaf, grad_fn)  # fmt: skip
        self.add(f"{path} values", Values(value.detach().clone()))
        self.kept.append(storage)
        if is_leaf and value.grad is not None:
            self.visit(f"{path}.grad", value.grad)
        for name, item in value.__dict__.items():
            self.visit(f"{path}.{name}", item)

    def function(self, path: str, value: types.FunctionType) -> None:
        self.add(path, value.__qualname__, value.__code__.co_firstlineno)
        self.visit(f"{path}.__defaults__", value.__defaults__)
        self.visit(f"{path}.__kwdefaults__", value.__kwdefaults__)
        for index, cell in enumerate(value.__closure__ or ()):
            self.visit(f"{path}.__closure__[{index}]", cell)
        for name, item in value.__dict__.items():
            self.visit(f"{path}.{name}", item)

    def cell(self, path: str, value: types.CellType) -> None:
        try:
            content = value.cell_contents
        except ValueError:
            return self.add(path, "empty")
        self.visit(f"{path}.cell_contents", content)

    def klass(self, path: str, value: type) -> None:
        self.add(path, value.__qualname__)
        if value.__module__ != "fuzzed":
            return
        for name, item in value.__dict__.items():
            if not name.startswith("__"):
                self.visit(f"{path}.{name}", item)

    def exception(self, path: str, value: BaseException) -> None:
        self.visit(f"{path}.args", value.args)
        self.visit(f"{path}.__context__", value.__context__)
        self.visit(f"{path}.__cause__", value.__cause__)
        for name, item in value.__dict__.items():
            self.visit(f"{path}.{name}", item)

    def raised(self, path: str, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        self.add(f"{path} traceback", [(f.name, f.lineno) for f in frames if f.filename.startswith("<")])
        self.visit(f"{path} exception", error)


def _values_differ(expected: torch.Tensor, actual: torch.Tensor, tolerance: float, noise: float = 0.0) -> str | None:
    if expected.is_meta:
        return None
    e, a = expected.resolve_conj().resolve_neg(), actual.resolve_conj().resolve_neg()
    same = (a == e) | (a.isnan() & e.isnan()) if e.is_floating_point() or e.is_complex() else a == e
    if bool(same.all()):
        return None
    if tolerance and (e.is_floating_point() or e.is_complex()):
        finite = e[e.isfinite()].abs()
        scale = max(float(finite.max()), 1.0) if finite.numel() else 1.0
        worst = float(torch.where(same, torch.zeros_like(a), a - e).abs().max())
        # What is large came out of exponentials, and exp(x) multiplies the relative error of x by x, the logarithm.
        if worst <= tolerance * scale * max(math.log(scale), 1.0) + noise:
            return None
    return f"{a.tolist()} instead of {e.tolist()}"


def _noise(expected: torch.Tensor, nudged: list) -> float:
    """How far the same values of other worlds are from these, at most; four times that, since they are few."""
    others = [o[0].content for o in nudged if isinstance(o, tuple) and len(o) == 1 and isinstance(o[0], Values)]
    others = [o for o in others if o.shape == expected.shape and o.dtype == expected.dtype and expected.numel()]
    distances = [float((o - expected).abs().nan_to_num(0.0, 0.0).max()) for o in others if o.is_floating_point()]
    return 4 * max(distances, default=0.0)


def compare(expected: list, actual: list, tolerance: float, nudged: list[list] | None = None) -> str | None:
    """The first difference in words, or None.

    `nudged`: what was seen where the inputs were others by a rounding; values may differ by what those do."""
    for index, ((path, e), (where, a)) in enumerate(zip(expected, actual, strict=False)):
        if path != where:
            return f"structure: {where} instead of {path}"
        if isinstance(e, tuple) and len(e) == 1 and isinstance(e[0], Values):
            others = [world[index][1] for world in nudged or [] if len(world) > index and world[index][0] == path]
            found = _values_differ(e[0].content, a[0].content, tolerance, _noise(e[0].content, others))
            if found is not None:
                return f"values: {path}: {found}"
        elif e != a:
            return f"{_kind(path)}: {path}: {a} instead of {e}"
    if len(expected) != len(actual):
        longer = max(expected, actual, key=len)
        return f"structure: {longer[min(len(expected), len(actual))][0]} is in one alone"
    return None


def _kind(path: str) -> str:
    if path.startswith("error"):
        return "exception"
    return "form" if path.endswith(" form") else "fact"
