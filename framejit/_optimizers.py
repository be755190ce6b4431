"""Which methods of torch.optim's optimizers the extension does natively, and the functions that are called for them."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, optimizer

# The steps of these classes, exactly, in the native forms of backends/optimizers.
STEPS: tuple[tuple[str, type[Optimizer], tuple[type[Optimizer], ...]], ...] = (
    ("sgd", SGD, (SGD,)),
    ("adam", Adam, (Adam, AdamW)),
    ("rmsprop", RMSprop, (RMSprop,)),
    ("adagrad", Adagrad, (Adagrad,)),
)


def _inner_code(function: Callable[..., Any]) -> CodeType | None:
    """The code of the function that a decorator makes."""
    codes = [const for const in function.__code__.co_consts if isinstance(const, CodeType)]
    return next((code for code in codes if code.co_name == "wrapper"), None)


def methods() -> list[tuple[CodeType, Callable[..., Any], str, list[type]]]:
    """(code of the function that is called, the method in its closure, native form, optimizer classes)."""
    rows: list[tuple[CodeType, Callable[..., Any], str, list[type]]] = []
    hooked = _inner_code(Optimizer.profile_hook_step)
    for kind, owner, types in STEPS:
        step = owner.step
        if getattr(step, "hooked", False):  # an instance was made already
            step = step.__wrapped__  # type: ignore[attr-defined]
        if hooked is not None:
            rows.append((hooked, step, kind, list(types)))
    zero_grad = Optimizer.zero_grad
    inner = getattr(zero_grad, "__wrapped__", None)
    if inner is not None:
        rows.append((zero_grad.__code__, inner, "zero_grad", []))
    return rows


def hooks() -> list[Any]:
    """The containers of the hooks of all optimizers; with one of them filled, steps run in Python."""
    return [optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks]
