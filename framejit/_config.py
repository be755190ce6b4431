"""Environment variables, declared once. Read when framejit is imported; where to dump, when something is compiled."""

from __future__ import annotations

import os
from typing import NamedTuple


class Variable(NamedTuple):
    name: str
    default: str
    description: str


VARIABLES = (
    Variable("FRAMEJIT_LOG", "", "comma-separated names of what to log; see framejit.log_artifacts()"),
    Variable("FRAMEJIT_TRACE_SYMBOL", "", "comma-separated symbols (s0) to print all stacks of where they are made"),
    Variable("FRAMEJIT_BACKEND", "auto", "the backend of framejit.compile where the call names none"),
    Variable("FRAMEJIT_CHECK", "", "comma-separated checks of framejit itself; see framejit.set_checks()"),
    Variable(
        "FRAMEJIT_DUMP_DIR", "", "a folder in which each compilation of the cpu and cuda backends leaves its files"
    ),
    Variable("FRAMEJIT_CACHE_DIR", "~/.cache/framejit", "where compiled CUDA kernels are kept; empty: nowhere"),
    Variable("FRAMEJIT_PERF_MAP", "0", "1: profilers find the names of kernels in /tmp/perf-PID.map"),
    Variable("FRAMEJIT_DISABLE", "0", "1: compiled functions run in the interpreter"),
)


def read(name: str) -> str:
    """The value of a declared variable."""
    for variable in VARIABLES:
        if variable.name == name:
            return os.environ.get(name, variable.default)
    raise KeyError(name)


def flag(name: str) -> bool:
    """The value of a variable that is on or off; anything else is an error that says so."""
    value = read(name).strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise ValueError(f"{name}: expected 0 or 1, got {value!r}")
