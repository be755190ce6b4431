"""What framejit.compile returns for an nn.Module: a module that runs the original one through an entry."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

_OWN = ("_original", "_entry")


class CompiledModule(torch.nn.Module):
    """Calls the original module compiled; everything else (parameters, state, attributes, modes) is the original's."""

    _original: torch.nn.Module
    _entry: Callable[..., Any]

    def __init__(self, original: torch.nn.Module, entry: Callable[..., Any]) -> None:
        # nn.Module's own tables are not made: every lookup goes to the original, so nothing can go out of step.
        object.__setattr__(self, "_original", original)
        object.__setattr__(self, "_entry", entry)

    @staticmethod
    def wrap(original: torch.nn.Module, entry: Callable[..., Any]) -> CompiledModule:
        # Each wrapper has a class of its own whose __call__ is already bound: calls take no Python frame, which would
        # cost time and show in tracebacks.
        call = types.MethodType(entry, original)
        cls = type("CompiledModule", (CompiledModule,), {"__call__": call, "__module__": __name__})
        return cls(original, entry)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN or name in ("__class__", "__call__", "__reduce__", "__reduce_ex__", "__deepcopy__", "__dir__"):
            return object.__getattribute__(self, name)
        chained = _CHAINED_METHODS.get(name)
        if chained is not None:
            return chained.__get__(self)
        return getattr(object.__getattribute__(self, "_original"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._original, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._original, name)

    def __dir__(self) -> list[str]:
        return dir(self._original)

    def __repr__(self) -> str:
        return f"CompiledModule({self._original!r})"

    def __len__(self) -> int:
        return len(self._original)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        return self._original[key]  # type: ignore[index]

    def __iter__(self) -> Any:
        return iter(self._original)  # type: ignore[call-overload]

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._original, _options_of(self._entry))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        import copy

        return _rebuild(copy.deepcopy(self._original, memo), _options_of(self._entry))


# Methods that return the module itself return the compiled one, as they would if it were the original.
def _returning_self(name: str) -> Callable[..., Any]:
    def method(self: CompiledModule, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self._original, name)(*args, **kwargs)
        return self if result is self._original else result

    method.__name__ = name
    return method


_CHAINED = (
    "train", "eval", "to", "cpu", "cuda", "float", "double", "half", "bfloat16", "type", "requires_grad_", "apply",
    "share_memory", "to_empty",
)  # fmt: skip
_CHAINED_METHODS = {name: _returning_self(name) for name in _CHAINED}


def _options_of(entry: Callable[..., Any]) -> dict[str, Any]:
    return dict(entry._framejit_options)  # type: ignore[attr-defined]


def _rebuild(original: torch.nn.Module, options: dict[str, Any]) -> CompiledModule:
    import framejit

    return framejit.compile(original, **options)
