"""Backends that are known by name elsewhere: torch's registry and the entry points of installed packages.

Called by backends/plugin/plugin.cc; importing torch._dynamo takes seconds, so nothing here runs until a name is asked
for that framejit itself does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

ENTRY_POINT_GROUP = "framejit.backends"


def find(name: str) -> Callable | None:
    """The callable `backend(gm, example_inputs)` registered under `name`, or None."""
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return entry_point.load()
    from torch._dynamo.backends.registry import list_backends, lookup_backend

    return lookup_backend(name) if name in list_backends(exclude_tags=()) else None


def names() -> list[str]:
    """All names that find() knows. torch reads the `torch_dynamo_backends` entry points itself."""
    from torch._dynamo.backends.registry import list_backends

    return [point.name for point in entry_points(group=ENTRY_POINT_GROUP)] + list_backends(exclude_tags=())
