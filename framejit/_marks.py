"""What programs say of the sizes of single tensors: framejit.mark_dynamic, mark_unbacked and mark_static.
Marks are an attribute of the tensor, which recordings read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# dimension -> (smallest, largest) size, None where it has no limit, with a third item where nothing may depend on the
# size; None for a static one.
_ATTRIBUTE = "_framejit_marks"


def _dimensions(caller: str, tensor: torch.Tensor, dim: int | Sequence[int]) -> list[int]:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"framejit.{caller}: tensor: expected a Tensor, got {type(tensor).__name__}")
    chosen = []
    for one in [dim] if isinstance(dim, int) else dim:
        if isinstance(one, bool) or not isinstance(one, int):
            raise TypeError(f"framejit.{caller}: dim: expected an int or several, got {type(one).__name__}")
        if not -tensor.dim() <= one < tensor.dim():
            raise IndexError(f"framejit.{caller}: dim: {one} of a tensor with {tensor.dim()} dimensions")
        chosen.append(one % tensor.dim())
    return chosen


def _marks(tensor: torch.Tensor) -> dict[int, tuple | None]:
    marks = tensor.__dict__.get(_ATTRIBUTE)
    if marks is None:
        marks = {}
        setattr(tensor, _ATTRIBUTE, marks)
    return marks


def mark_dynamic(
    tensor: torch.Tensor, dim: int | Sequence[int], *, min: int | None = None, max: int | None = None
) -> None:
    """Says that the size of `tensor` in `dim` (one or several) varies between calls, so that the first recording that
    reads the tensor leaves it open.

    min, max: the smallest and largest size that the recording is to hold for; other sizes are recorded by themselves.

    Where a recording would hold for no other size, calling the compiled function raises DynamicShapeError. A Python
    backend may still be called several times: 0 and 1 are sizes of their own to torch's expressions.
    """
    low, high = min, max
    for name, limit in (("min", low), ("max", high)):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"framejit.mark_dynamic: {name}: expected an int or None, got {type(limit).__name__}")
    for one in _dimensions("mark_dynamic", tensor, dim):
        size = tensor.shape[one]
        if (low is not None and size < low) or (high is not None and size > high):
            raise ValueError(f"framejit.mark_dynamic: the size in dimension {one} is {size}, not from {low} to {high}")
        _marks(tensor)[one] = (low, high)


def mark_unbacked(tensor: torch.Tensor, dim: int | Sequence[int]) -> None:
    """Says that nothing which `tensor` is given to may depend on its size in `dim` (one or several): the first
    recording that reads the tensor leaves the size open, and it is no number to branch on.

    Where the program asks what the size is worth (a branch, `range`, a key of a dict), the graph breaks; with
    fullgraph=True, GraphBreakError names the line and what is asked. Comparisons that hold for all sizes, and those
    given to torch._check, do not ask. Where a recording would hold for no other size, calling the compiled function
    raises DynamicShapeError.
    """
    for one in _dimensions("mark_unbacked", tensor, dim):
        _marks(tensor)[one] = (None, None, True)


def mark_static(tensor: torch.Tensor, dim: int | Sequence[int] | None = None) -> None:
    """Says that recordings that read `tensor` hold for its size in `dim` (one or several; None: in all) alone."""
    dims = range(tensor.dim()) if dim is None and isinstance(tensor, torch.Tensor) else dim
    for one in _dimensions("mark_static", tensor, () if dims is None else dims):
        _marks(tensor)[one] = None
