"""What recorded calls of warnings.warn do: the same warning in the name of the same place."""

from __future__ import annotations

import warnings
from typing import Any


def warn(message: str, category: type[Warning], file: str, line: int, namespace: dict[str, Any]) -> None:
    registry = namespace.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, file, line, namespace.get("__name__", "<string>"), registry)


def raises(message: str, category: type[Warning], file: str, line: int, namespace: dict[str, Any]) -> bool:
    """Whether the filters of now make it an exception."""
    module = namespace.get("__name__", "<string>")
    for action, text, kind, where, number in warnings.filters:
        if _matches(text, message) and issubclass(category, kind) and _matches(where, module) and number in (0, line):
            return action == "error"
    return warnings.defaultaction == "error"  # type: ignore[attr-defined]


def _matches(pattern: Any, text: str) -> bool:
    if pattern is None or isinstance(pattern, str):
        return pattern is None or pattern == text
    return pattern.match(text) is not None
