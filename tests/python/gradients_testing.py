"""Support for the tests of autograd inside of compiled functions: results and gradients, first and second, against
eager's, of the native backend and of a Python one."""

import copy

import torch
from framejit_testing import assert_same, counting
from training_testing import reports

import framejit


def leaf(tensor):
    return tensor.clone().requires_grad_()


def live(result):
    tensors = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(t)]
    return [t for t in tensors if t.requires_grad and t.grad_fn is not None]


def once(function, args, between=None):
    """The result of a call and the gradients of its arguments, of all results together and of each alone."""
    args = copy.deepcopy(args)
    tensors = [a for a in args if torch.is_tensor(a) and a.requires_grad]
    torch.manual_seed(0)
    try:
        result = function(*args)
        outputs = live(result)
        if between is not None:
            between()
        found = []
        for selected in [outputs, *([output] for output in outputs if len(outputs) > 1)]:
            tangents = [torch.linspace(-2, 3, t.numel(), dtype=t.dtype).reshape(t.shape) for t in selected]
            found.append(torch.autograd.grad(selected, tensors, tangents, retain_graph=True, allow_unused=True))
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    except Exception as error:
        return type(error), str(error)
    return result, found, [t.grad for t in tensors], torch.rand(1)


def twice(function, args):
    """Gradients of gradients."""
    args = copy.deepcopy(args)
    tensors = [a for a in args if torch.is_tensor(a) and a.requires_grad]
    torch.manual_seed(0)
    try:
        outputs = live(function(*args))
        first = torch.autograd.grad(sum(t.sum() for t in outputs), tensors, create_graph=True, allow_unused=True)
        found = [g for g in first if g is not None and g.requires_grad]
        total = sum(g.square().sum() for g in found)
        return first, torch.autograd.grad(total, tensors, allow_unused=True) if found else None
    except Exception as error:
        return type(error), str(error)


def compare(function, args, native=True, graphs=1, whole=None, double=True, between=None):
    """native: whether forward and backward are graphs of our own. graphs: what a Python backend gets, between breaks.
    whole: whether there is no break for ours, if that differs."""
    compiled = framejit.compile(function)
    python, backend = counting(function)
    for _ in range(3):
        expected = once(function, args, between)
        assert_same(once(compiled, args, between), expected, "native")
        assert_same(once(python, args, between), expected, "torch level")
    if double:
        expected = twice(function, args)
        assert_same(twice(compiled, args), expected, "twice, native")
        assert_same(twice(python, args), expected, "twice, torch level")
    assert backend.count == graphs
    if whole or (whole is None and graphs == 1):
        (report,) = reports(compiled)
        assert report.graph_break is None
        assert report.has_backward == native, report.fallback


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, g):
        return g * 7


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor, power=3):
        ctx.save_for_backward(x)
        ctx.factor, ctx.power = factor, power
        return factor * x**power

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * ctx.factor * ctx.power * x ** (ctx.power - 1) + 0.5 * g, None, None
