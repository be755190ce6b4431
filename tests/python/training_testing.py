"""Comparing training with eager: outputs, gradients of inputs and parameters, buffers, and how a call was compiled."""

import copy
import types

import pytest
import torch
from framejit_testing import TOLERANCE, assert_same, leaves
from torch import Tensor

import framejit

# Newer releases of torch differentiate it.
NEEDS_AMINMAX = pytest.mark.skipif(
    "NotImplemented" in torch.aminmax(torch.ones(2, requires_grad=True)).min.grad_fn.name(),
    reason="torch has no derivative for aminmax",
)


def reports(compiled) -> list:
    """What became of the calls of a compiled function or module, one report per trace."""
    return framejit._explain.reports(framejit._C, framejit._entry_of(compiled))


def weights_of(result) -> list[Tensor]:
    """One fixed gradient in the layout of each result that requires grad."""
    generator = torch.Generator("cpu").manual_seed(7)
    outputs = [t for t in leaves(result) if t.requires_grad]
    random = [torch.randn(t.shape, generator=generator, device="cpu") for t in outputs]
    return [torch.empty_like(t).copy_(values).detach() for t, values in zip(outputs, random, strict=True)]


def backward(result) -> None:
    outputs = [t for t in leaves(result) if t.requires_grad]
    torch.autograd.backward(outputs, weights_of(result))


def memory(function, args) -> tuple[int, int]:
    """Bytes in use at most, and after the forward, of a warm call that gives a loss and of its backward."""
    for _ in range(2):
        function(*args).backward()
    for tensor in leaves(args):
        tensor.grad = None
    in_use, most, kept = 0, 0, 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = function(*args)
        with torch.profiler.record_function("forward is done"):
            pass
        loss.backward()
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            in_use += event.nbytes()
            most = max(most, in_use)
        elif event.name() == "forward is done":
            kept = in_use
    return most, kept


def state_of(target, args) -> dict:
    """What a training step changes: gradients of the arguments and of the module, and the module's buffers."""
    state = {f"gradient of argument {i}": t.grad for i, t in enumerate(leaves(args))}
    if isinstance(target, torch.nn.Module):
        state |= {f"gradient of {name}": p.grad for name, p in target.named_parameters()}
        state |= {f"buffer {name}": b for name, b in target.named_buffers()}
    return state


def step(callee, target, args):
    """One call and its backward, from the same random state."""
    torch.manual_seed(3)
    result = callee(*args)
    backward(result)
    return result, state_of(target, args)


def on_default_device(value):
    """A leaf there, where the value is a tensor elsewhere; a module's tensors are moved."""
    device = torch.get_default_device()
    if isinstance(value, torch.nn.Module):
        return value.to(device)
    if not isinstance(value, Tensor) or value.device.type == device.type:
        return value
    return value.detach().to(device).requires_grad_(value.requires_grad)


def check(target, *args, steps: int = 3, native: bool = True, tolerance: float = TOLERANCE, backend="auto") -> None:
    """Compares `steps` calls, each with its backward accumulated into the gradients, with eager's.

    native: whether forward and backward must be graphs of our own, one trace for all calls. What lies elsewhere is
    moved to the default device.
    """
    target, args = on_default_device(target), tuple(on_default_device(value) for value in args)
    if not isinstance(target, (types.FunctionType, torch.nn.Module)):
        builtin = target
        target = lambda *args: builtin(*args)  # noqa: E731
    own, own_args = copy.deepcopy((target, args))
    compiled = framejit.compile(own, backend=backend)
    for number in range(steps):
        expected = step(target, target, args)
        actual = step(compiled, own, own_args)
        assert_same(actual, expected, f"step {number}", tolerance)
    found = reports(compiled)
    assert len(found) == 1, f"{len(found)} recordings: {[(r.backend, r.graph_break) for r in found]}"
    assert found[0].graph_break is None and found[0].captured, found[0].graph_break or found[0].fallback
    assert found[0].has_backward == native, f"backend {found[0].backend}"
