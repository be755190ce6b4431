"""What the torch-level graph calls for autograd inside a function: custom Functions and hooks of the program.

Called while a call is recorded (graph/capture/autograd_models.cc), and by the graphs that torch's own autograd
differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def function_call(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply`, with a name that an FX graph can print."""
    apply = torch.autograd.Function.apply.__func__

    def call(*args: Any) -> Any:
        return apply(function, *args)

    return _named(call, f"{function.__name__}_apply")


def hook_call(hook: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[torch.Tensor], None]:
    """Registers `hook` on a tensor."""

    def call(tensor: torch.Tensor) -> None:
        tensor.register_hook(hook)

    return _named(call, f"register_hook_{hook.__name__.strip('<>')}")


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__module__ = "framejit"
    return function
