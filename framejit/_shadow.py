"""The shadow check compares what a function returned in eager mode with what its recording returned."""

from __future__ import annotations

import collections
import types
from typing import Any

import torch

# Of the largest magnitude in a tensor: kernels are fused, and sums come in another order.
TOLERANCES = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-4, torch.complex64: 1e-4}
COARSE = 2e-2  # other floating-point types
PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, range, slice, torch.Size)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What an object consists of: (how to get there, part). Runs no code of the program."""
    if isinstance(value, dict):
        items = (collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict).items(value)
        parts = [(f"[{key!r}]" if isinstance(key, PLAIN) else "[...]", item) for key, item in items]
    elif isinstance(value, (list, tuple, collections.deque)):
        kind = next(kind for kind in (list, tuple, collections.deque) if isinstance(value, kind))
        parts = [(f"[{index}]", item) for index, item in enumerate(kind.__iter__(value))]
    elif isinstance(value, types.FunctionType):
        cells = [(f".__closure__[{i}]", cell) for i, cell in enumerate(value.__closure__ or ())]
        parts = [(".__code__", value.__code__), (".__defaults__", value.__defaults__),
                 (".__kwdefaults__", value.__kwdefaults__), *cells]  # fmt: skip
    elif isinstance(value, types.MethodType):
        parts = [(".__self__", value.__self__), (".__func__", value.__func__)]
    elif isinstance(value, types.CellType):
        try:
            parts = [(".cell_contents", value.cell_contents)]
        except ValueError:
            parts = []
    elif isinstance(value, BaseException):
        parts = [(".args", value.args)]
    else:
        parts = []
    names = getattr(value, "__dict__", None) if not isinstance(value, types.ModuleType | type) else None
    if isinstance(names, dict):
        parts += [(f".{name}", item) for name, item in names.items()]
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            descriptor = base.__dict__.get(name)
            if isinstance(descriptor, types.MemberDescriptorType):
                try:
                    parts.append((f".{name}", descriptor.__get__(value)))
                except AttributeError:
                    pass
    return parts


def keep(result: Any, written: tuple[torch.Tensor, ...]) -> dict[int, torch.Tensor]:
    """Copies of what the tensors in `result` hold that share memory with those that are written, by id."""
    kept: dict[int, torch.Tensor] = {}
    storages = {tensor.untyped_storage()._cdata for tensor in written}
    waiting, seen = [result] if written else [], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided and value.untyped_storage()._cdata in storages:
                kept[id(value)] = value.detach().clone()
        elif not isinstance(value, torch.nn.Module):
            waiting += [part for _, part in _parts(value)]
    return kept


def difference(
    expected: Any,
    actual: Any,
    kept: dict[int, torch.Tensor],
    expected_inputs: dict[str, torch.Tensor],
    actual_inputs: dict[str, torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    names: list[str],
    rounded: dict[torch.dtype, torch.dtype],
) -> str | None:
    """The first difference in words, or None. The inputs named in the two dicts were written. `rounded`: by dtype of
    results, the coarser one that they are computed in."""
    found = _Comparison(kept, inputs, names, rounded).objects("the result", expected, actual)
    if found is not None:
        return found
    for name, tensor in expected_inputs.items():
        found = _values(tensor, actual_inputs[name].detach(), rounded)
        if found is not None:
            return f"what is written to {name} differs: {found}"
    return None


class _Comparison:
    def __init__(
        self,
        kept: dict[int, torch.Tensor],
        inputs: tuple[torch.Tensor, ...],
        names: list[str],
        rounded: dict[torch.dtype, torch.dtype],
    ):
        self.kept, self.names, self.rounded = kept, names, rounded
        self.same: dict[int, int] = {}  # ids of objects of the one result, and of those of the other in their places
        strided = [(t, name) for t, name in zip(inputs, names, strict=True) if t.layout == torch.strided]
        memory = {tensor.untyped_storage()._cdata: name for tensor, name in reversed(strided)}
        self.memories = (dict(memory), dict(memory))  # of the two results: where a storage was seen first

    def objects(self, path: str, e: Any, a: Any) -> str | None:
        waiting = collections.deque([(path, e, a)])
        while waiting:
            path, e, a = waiting.popleft()
            if id(e) in self.same or id(a) in self.same.values():
                if self.same.get(id(e)) != id(a):
                    return f"{path} is, or is not, the same object as one before it"
                continue
            if e is a and id(e) not in self.kept:
                continue
            found = self.one(path, e, a)
            if found is not None:
                return found
            if isinstance(e, PLAIN) or isinstance(e, torch.Tensor):
                continue
            one, other = _parts(e), _parts(a)
            if [place for place, _ in one] != [place for place, _ in other]:
                return f"{path} has other parts: {len(other)} instead of {len(one)}, or others"
            waiting += [(path + place, x, y) for (place, x), (_, y) in zip(one, other, strict=True)]
        return None

    def one(self, path: str, e: Any, a: Any) -> str | None:
        if type(e) is not type(a):
            return f"{path} is a {type(a).__qualname__}, in eager mode a {type(e).__qualname__}"
        if isinstance(e, PLAIN):
            return None if repr(e) == repr(a) else f"{path} is {a!r}, in eager mode {e!r}"
        self.same[id(e)] = id(a)
        if isinstance(e, torch.Tensor):
            return self.tensors(path, e, a)
        if isinstance(e, (set, frozenset)) and sorted(map(_name, e)) != sorted(map(_name, a)):
            return f"{path} has other elements"
        if isinstance(e, types.CodeType | types.ModuleType | type):
            return f"{path} is {a!r}, in eager mode {e!r}"
        return None

    def tensors(self, path: str, e: torch.Tensor, a: torch.Tensor) -> str | None:
        for name in ("dtype", "device", "shape", "layout", "requires_grad", "is_leaf"):
            here, eager = _said(a, name), _said(e, name)
            if eager != here:
                return f"{path}.{name} is {here}, in eager mode {eager}"
        if e.layout == torch.strided:
            for name in ("stride", "storage_offset"):
                if getattr(e, name)() != getattr(a, name)():
                    return f"{path}.{name}() is {getattr(a, name)()}, in eager mode {getattr(e, name)()}"
            places = [memory.setdefault(tensor.untyped_storage()._cdata, path)
                      for memory, tensor in zip(self.memories, (e, a), strict=True)]  # fmt: skip
            if places[0] != places[1]:
                text = [f"shares memory with {place}" if place != path else "has memory of its own" for place in places]
                return f"{path} {text[1]}, in eager mode {text[0]}"
        found = _values(self.kept.get(id(e), e.detach()), a.detach(), self.rounded)
        return None if found is None else f"{path} differs: {found}"


def _said(tensor: torch.Tensor, name: str) -> Any:
    try:
        return getattr(tensor, name)
    except RuntimeError as error:  # of a view that autograd forbids since what it is of was written
        return str(error)


def _name(value: Any) -> str:
    return repr(value) if isinstance(value, PLAIN) else type(value).__qualname__


def _values(expected: torch.Tensor, actual: torch.Tensor, rounded: dict[torch.dtype, torch.dtype]) -> str | None:
    if expected.layout != torch.strided:
        expected, actual = expected.to_dense(), actual.to_dense()
    if expected.is_meta or expected.numel() == 0:
        return None
    if not (expected.is_floating_point() or expected.is_complex()):
        return None if torch.equal(expected, actual) else f"{int((expected != actual).sum())} elements are others"
    wide = torch.complex128 if expected.is_complex() else torch.float64
    e, a = expected.to(wide), actual.to(wide)
    same = (a == e) | (a.isnan() & e.isnan())
    if bool(same.all()):
        return None
    error = torch.where(same, 0.0, (a - e).abs().nan_to_num(float("inf"))).max()
    magnitude = e.abs()
    magnitude = magnitude[magnitude.isfinite()]
    tolerance = TOLERANCES.get(rounded.get(expected.dtype, expected.dtype), COARSE)
    allowed = tolerance * (float(magnitude.max()) if magnitude.numel() else 0.0)
    if float(error) <= allowed:
        return None
    return f"by {float(error):.3g} at most, where {allowed:.3g} is allowed ({expected.dtype})"
