"""framejit.enable: regions in which functions that nobody decorated are captured; and which files' functions are."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch


def path_rules() -> list[tuple[str, bool]]:
    """(prefix of file names, whether functions from there are captured); the longest prefix that fits decides.

    torch.nn's layers are how programs call torch; the rest of it, like the standard library, is machinery that a break
    may run (printing a tensor, say) and that is not the program's computation. What it calls of the program is looked
    at all the same.
    """
    paths = sysconfig.get_paths()
    torch_root = os.path.dirname(torch.__file__)
    captured = {
        paths["stdlib"]: False,
        paths["platstdlib"]: False,
        paths["purelib"]: True,
        paths["platlib"]: True,
        torch_root: False,
        os.path.join(torch_root, "nn", "modules"): True,
        os.path.dirname(__file__): False,
    }
    rules = [(os.path.join(folder, ""), value) for folder, value in captured.items()]
    return [
        *rules,
        (os.path.join(torch_root, "nn", "functional.py"), True),
        ("<frozen ", False),
        ("<eval_with_key>", False),
    ]


class Enable:
    """Arms the calling thread when it is made; as a context manager, until the end of the block.

    framejit.enable() captures the functions that are called from then on in this thread and are given tensors (as
    arguments or in the lists, tuples and dicts that are), as if each were decorated: module calls, undecorated helpers.
    Code that is running already goes on as it is, and what is left again is plain Python. framejit.enable(False)
    disarms.

    mode: whether to arm.
    backend, strict, options: as in framejit.compile.
    """

    _extension: ModuleType
    _check: Callable[..., dict[str, Any]]
    _regions: dict[tuple[Any, int, bool], int] = {}

    def __init__(
        self, mode: bool = True, *, backend: str | Callable[..., Any] | None = None, strict: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(mode, bool):
            raise TypeError(f"framejit.enable: mode: expected a bool, got {type(mode).__name__}")
        chosen = self._check("framejit.enable", backend, options, strict)
        self._previous = self._extension.set_region(self._region(chosen) if mode else 0)

    def _region(self, chosen: dict[str, Any]) -> int:
        # One for all uses with the same arguments, so that a region in a loop finds what it compiled.
        key = (chosen["backend"], chosen["recompile_limit"], chosen["strict"])
        if key not in self._regions:
            self._regions[key] = self._extension.make_region(*key)
        return self._regions[key]

    def __enter__(self) -> Enable:
        return self

    def __exit__(self, *error: object) -> None:
        self._extension.set_region(self._previous)
