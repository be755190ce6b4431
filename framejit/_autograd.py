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


def accumulate(
    tensors: tuple[torch.Tensor, ...],
    gradients: Any,
    targets: tuple[torch.Tensor, ...],
    before: tuple[torch.Tensor | None, ...],
    retain_graph: bool | None,
    create_graph: bool,
    inputs: tuple[torch.Tensor, ...] | None,
) -> tuple[torch.Tensor | None, ...] | None:
    """torch.autograd.backward where `before` is what the program sees as `.grad` of `targets`.

    Gives what it replaced of these; what was there is written in place. The tensors themselves keep their `.grad`: what
    the program sees is an effect of the call.
    """
    for target in targets:
        if target.grad_fn is not None:
            target.retain_grad()
    kept = [target.grad for target in targets]
    try:
        for target, gradient in zip(targets, before, strict=True):
            target.grad = gradient
        torch.autograd.backward(tensors, gradients, retain_graph, create_graph, inputs=inputs)
        after = [target.grad for target in targets]
    finally:
        for target, gradient in zip(targets, kept, strict=True):
            target.grad = gradient
    made = tuple(None if new is old else new for new, old in zip(after, before, strict=True))
    return made if any(gradient is not None for gradient in made) else None


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__module__ = "framejit"
    return function
