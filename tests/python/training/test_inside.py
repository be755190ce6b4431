"""Autograd used inside the compiled function: modes, leaves, hooks, custom Functions, gradients, checkpoints. Results,
gradients, flags and errors are eager's; what cannot be part of a graph runs between graphs. More of custom Functions,
hooks, gradients and checkpoints is in test_program_gradients.py, of backwards in test_backward_inside.py."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, counting, vector
from gradients_testing import Doubled, leaf
from torch import nn
from torch.utils.checkpoint import checkpoint

import framejit

case = Cases()
X = vector(4, 3, seed=1)
W = vector(3, 5, seed=2)


def flags(*tensors):
    return [(t.requires_grad, t.is_leaf, t.grad_fn is not None) for t in tensors]


def outcome(function, args):
    """What a call does: its result, the gradients that a backward of it gives its arguments, or the error."""
    args = copy.deepcopy(args)
    torch.manual_seed(0)
    try:
        result = function(*args)
        tensors = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(t)]
        live = [t for t in tensors if t.requires_grad and t.grad_fn is not None]
        if live:
            torch.autograd.backward(live, [torch.ones_like(t) for t in live])
    except Exception as error:
        return type(error), str(error)
    return result, flags(*tensors), [a.grad for a in args if torch.is_tensor(a)], args


def compare(function, args, graphs=1, calls=3):
    """graphs: those of all calls together; where the function breaks, more than one or fewer."""
    native = framejit.compile(function)
    python, backend = counting(function)
    for _ in range(calls):
        expected = outcome(function, args)
        assert_same(outcome(native, args), expected)
        assert_same(outcome(python, args), expected)
    assert backend.count == graphs


@case(leaf(X), leaf(W))
def no_grad_inside(x, w):
    y = x @ w
    with torch.no_grad():
        scale = y.abs().max()
        z = y * scale
    return y / scale, z


@case(leaf(X), leaf(W))
def enable_grad_inside_no_grad(x, w):
    with torch.no_grad():
        y = x.tanh()
        with torch.enable_grad():
            z = y @ w + (x @ w)
    return z, y


@case(leaf(X))
def set_grad_enabled(x):
    torch.set_grad_enabled(False)
    y = x.sin()
    torch.set_grad_enabled(True)
    return y, x.sin() * y


@case(leaf(X))
def inference_mode_inside(x):
    with torch.inference_mode():
        y = x.sin()
    return y.is_inference(), x.cos() * 2


@case(leaf(X))
def grad_mode_as_a_decorator(x):
    @torch.no_grad()
    def frozen(z):
        return z.exp()

    return x * frozen(x)


@case(leaf(X), leaf(W))
def flags_are_read(x, w):
    y = x @ w
    z = y.detach()
    return y * (2 if y.requires_grad and not y.is_leaf else 3), z + (1 if z.requires_grad else 2)


@case(leaf(X), graphs=2)
def grad_fn_is_read(x):
    y = x.sin()
    return y * (2 if y.grad_fn is not None else 3)


@case(leaf(X))
def detach_and_go_on(x):
    y = x.sin()
    return (y.detach() * x).cos(), y


@case(X, leaf(W))
def requires_grad_inside(x, w):
    y = (x * 2).requires_grad_()
    z = (y @ w).tanh()
    (g,) = torch.autograd.grad(z.sum(), y, retain_graph=True)
    return z, g


@case(leaf(X))
def retain_grad_inside(x):
    y = x.exp()
    y.retain_grad()
    (y * x).sum().backward()
    return y.grad, y.detach()


@case(leaf(X), leaf(W))
def backward_inside(x, w):
    loss = (x @ w).square().mean()
    loss.backward()
    return loss.detach(), x.grad.clone()


@case(leaf(X), leaf(W))
def backward_twice_inside(x, w):
    loss = (x @ w).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()
    return w.grad.clone()


@case(leaf(X), leaf(W), graphs=0)
def backward_twice_without_retaining(x, w):
    loss = (x @ w).square().mean()
    loss.backward()
    loss.backward()


@case(leaf(X))
def gradient_inside(x):
    (g,) = torch.autograd.grad(x.pow(3).sum(), x)
    return g * 2


@case(leaf(X))
def gradient_penalty_inside(x):
    y = x.pow(3).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    return y + g.square().sum()


@case(leaf(X))
def result_used_behind_its_backward(x):
    y = x.sin()
    y.sum().backward()
    return y.detach() + x.grad


@case(leaf(X))
def hook_inside(x):
    y = x.sin()
    y.register_hook(lambda g: g * 3)
    return y.cos()


@case(leaf(X), graphs=0)
def leaf_written(x):
    x.add_(1)
    return x * 2


@case(leaf(X))
def leaf_written_without_grad(x):
    with torch.no_grad():
        x.mul_(2)
    return x.sin()


@case(leaf(X))
def view_of_a_leaf_written(x):
    x[0].zero_()
    return x * 2


@case(leaf(X))
def intermediate_written(x):
    y = x * 2
    y.mul_(3)
    y[1] = 0
    return y.sin()


@case(leaf(X))
def saved_intermediate_written(x):
    y = x.exp()
    z = y * 2
    y.add_(1)
    return z + y


@case(leaf(X))
def detached_written(x):
    y = x * 2
    y.detach().zero_()
    return y.sin()


class Scaled(torch.autograd.Function):
    """With state on the context, a number of its own and a gradient that is not the function's."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        ctx.save_for_backward(x)
        return x * factor

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * ctx.factor + x, None


class Split(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.sin(), x.argmax(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g, _):
        (x,) = ctx.saved_tensors
        return g * x.cos() * 2


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise ValueError("no gradient today")


@case(leaf(X), leaf(W))
def custom_function(x, w):
    y = x.sin()
    return Scaled.apply(y, 3).cos() @ w


@case(leaf(X))
def custom_function_with_setup_context(x):
    y, index = Split.apply(x.exp())
    return y * 2, index


@case(leaf(X))
def custom_function_that_writes(x):
    y = x * 3
    return Doubled.apply(y) + 1


@case(leaf(X))
def custom_function_that_fails(x):
    return Failing.apply(x.sin()) * 2


@case(X)
def custom_function_without_grad(x):
    return Scaled.apply(x, 2) + 1


def block(x, w):
    return nn.functional.dropout((x @ w).relu(), 0.3).tanh()


@case(leaf(X), leaf(W), graphs=2)
def checkpoint_inside(x, w):
    return checkpoint(block, x, w, use_reentrant=False) * 2


@case(leaf(X), leaf(W), graphs=2)
def reentrant_checkpoint_inside(x, w):
    return checkpoint(block, x, w, use_reentrant=True) * 2


@case(leaf(X), leaf(W), graphs=3)
def checkpoint_in_a_loop(x, w):
    for _ in range(2):
        x = x + checkpoint(lambda z: (z @ w @ w.t()).sigmoid(), x, use_reentrant=False)
    return x


@case(leaf(X), leaf(W), graphs=2)
def saved_tensor_hooks_inside(x, w):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t):
        y = x @ w
    return y.sin()


@case(leaf(X))
def accumulates_into_the_gradient_that_is_there(x):
    x.grad = torch.ones_like(x)
    (x * 3).sum().backward()
    return x.grad * 1


@case(leaf(X))
def clears_the_gradient(x):
    x.sin().sum().backward()
    before = x.grad.clone()
    x.grad = None
    return before, x.cos()


@pytest.mark.parametrize(*case.table)
def test_inside(function, args, expectations):
    compare(function, args, **expectations)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.rest = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.2)) for _ in range(2))

    def forward(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = x + checkpoint(layer, x, use_reentrant=False)
        return x.square().mean()


def test_a_checkpointed_model_trains():
    """Ten steps; the second forward of a checkpoint draws the numbers of the first."""

    def train(compiler):
        torch.manual_seed(0)
        model = Checkpointed()
        call = compiler(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = call(X)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    assert_same(train(framejit.compile), train(lambda model: model))
