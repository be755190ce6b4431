"""Gradients of custom Functions. One recording has the forward and the backward; what only the real backward can know
is left to torch's own autograd, which then calls the program's code at the time when eager does."""

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import Cube, Doubled, compare, leaf, once
from torch.autograd.function import once_differentiable

import framejit

case = Cases()
X = vector(4, 3, seed=1)
W = vector(3, 5, seed=2)


# --- custom Functions -------------------------------------------------------------------------------------------------
class Linear(torch.autograd.Function):
    """The tutorial's, with another gradient for the bias."""

    @staticmethod
    def forward(x, weight, bias=None):
        y = x @ weight
        return y if bias is None else y + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias = inputs
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        gx = gw = gb = None
        if ctx.needs_input_grad[0]:
            gx = g @ weight.t()
        if ctx.needs_input_grad[1]:
            gw = x.t() @ g
        if ctx.has_bias and ctx.needs_input_grad[2]:
            gb = g.sum(0) * 2
        return gx, gw, gb


class Clipped(torch.autograd.Function):
    """A backward that is not linear."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.5, 0.5)


class Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Two(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.set_materialize_grads(False)
        return x * 2, y * 3, x.shape[0]

    @staticmethod
    def backward(ctx, gx, gy, _):
        return None if gx is None else gx * 5, None if gy is None else gy * 7


class Sorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        values, index = x.sort(-1)
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(index)
        return values, index

    @staticmethod
    def backward(ctx, g, _):
        (index,) = ctx.saved_tensors
        return torch.zeros_like(g).scatter(-1, index, g) * 2


class Masked(torch.autograd.Function):
    """Context attributes that are tensors made inside."""

    @staticmethod
    def forward(ctx, x):
        ctx.mask = x > 0
        return x * ctx.mask

    @staticmethod
    def backward(ctx, g):
        g = g.clone()
        g.mul_(ctx.mask)
        return g


@case(leaf(X), leaf(W))
def function_with_attributes(x, w):
    return Cube.apply(x.sin(), 2.0) @ w


@case(leaf(X), leaf(W), leaf(vector(5, seed=3)))
def function_with_setup_context(x, w, b):
    return Linear.apply(x, w, b).tanh()


@case(X, leaf(W))
def function_that_needs_one_gradient(x, w):
    return Linear.apply(x, w).tanh() * 2


@case(leaf(X))
def function_without_saved_tensors(x):
    return Clipped.apply(x * 3).sin()


@case(leaf(X))
def function_behind_two_results(x):
    y = Clipped.apply(x * 3)
    return y.sin(), y.cos()


@case(leaf(X), native=False)
def function_behind_three_results(x):
    y = Clipped.apply(x * 3)
    return y.sin(), y.cos(), y.exp()


@case(leaf(X))
def function_that_saves_its_result(x):
    return Exponential.apply(x).cos()


@case(leaf(X), leaf(X + 1))
def function_with_several_results(x, y):
    a, b, n = Two.apply(x, y)
    return a.sin() * n, b.cos()


@case(leaf(X), leaf(X + 1))
def function_with_an_unused_result(x, y):
    a, _, n = Two.apply(x, y)
    return a.sin() * n


@case(leaf(X))
def function_with_indices(x):
    values, index = Sorted.apply(x * 2)
    return values.sin(), index


class Doubles(torch.autograd.Function):
    """Any number of tensors."""

    @staticmethod
    def forward(ctx, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.shapes = tuple(t.shape for t in tensors)
        return tuple(t.flatten() * 2 for t in tensors)

    @staticmethod
    def backward(ctx, *gs):
        return tuple(g.reshape(shape) * t for g, t, shape in zip(gs, ctx.saved_tensors, ctx.shapes, strict=True))


@case(leaf(X), leaf(W))
def function_of_any_number_of_tensors(x, w):
    a, b = Doubles.apply(x, w)
    return a.sin(), b.cos()


@case(leaf(X))
def function_with_a_tensor_on_its_context(x):
    return Masked.apply(x * 2).sin()


@case(leaf(X))
def function_that_writes_its_argument(x):
    return Doubled.apply(x * 3) + 1


@case(leaf(X), graphs=2)
def function_that_writes_a_view(x):
    y = x * 3
    Doubled.apply(y[1:])
    return y + 1


@case(leaf(X), leaf(W))
def functions_in_a_loop(x, w):
    for i in range(3):
        x = Linear.apply(x, w, None) @ w.t() + Cube.apply(x, i + 1)
    return x.mean()


class HeldInput(torch.autograd.Function):
    """Reads its input as it is when the backward runs."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.x


@case(leaf(X), native=False)
def function_that_holds_its_input(x):
    return HeldInput.apply(x) * 2


SCALE = 2.0
LOG = []


class ReadsGlobal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * SCALE

    @staticmethod
    def backward(ctx, g):
        return g * SCALE


class Logs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        LOG.append(tuple(g.shape))
        return g * 3


class Draws(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * torch.rand_like(g)


class Asks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2 if g.sum().item() > 0 else g * 3


class Counts(torch.autograd.Function):
    """Another gradient each time."""

    @staticmethod
    def forward(ctx, x):
        ctx.count = 0
        return x * 2

    @staticmethod
    def backward(ctx, g):
        ctx.count += 1
        return g * ctx.count


class Remembers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.seen = []
        return x * 2

    @staticmethod
    def backward(ctx, g):
        ctx.seen.append(1)
        return g * len(ctx.seen)


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        raise ValueError("no gradient today")


class WritesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g.mul_(2)


@case(leaf(X), native=False)
def backward_reads_a_global(x):
    return ReadsGlobal.apply(x.sin())


class ReadsGlobalForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin() * SCALE

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos() * 2


@case(leaf(X), native=False)
def forward_reads_a_global(x):
    return ReadsGlobalForward.apply(x.sin())


@case(leaf(X), native=False)
def backward_logs(x):
    return Logs.apply(x.sin())


@case(leaf(X), native=False)
def backward_draws(x):
    return Draws.apply(x.sin())


@case(leaf(X), native=False)
def backward_asks_for_data(x):
    return Asks.apply(x.sin())


@case(leaf(X), native=False)
def backward_counts(x):
    return Counts.apply(x.sin())


@case(leaf(X), native=False)
def backward_remembers(x):
    return Remembers.apply(x.sin())


@case(leaf(X), native=False)
def backward_fails(x):
    return Fails.apply(x.sin())


@case(leaf(X), native=False)
def backward_writes_its_gradient(x):
    return WritesGradient.apply(x.sin())


@pytest.mark.parametrize(*case.table)
def test_custom_functions(function, args, expectations):
    LOG.clear()
    compare(function, args, **expectations)


# --- when it runs -----------------------------------------------------------------------------------------------------
def test_a_backward_sees_what_changed_since_the_forward():
    def change():
        global SCALE
        SCALE += 1

    def runs(compile):
        global SCALE
        SCALE = 2.0
        function = compile(lambda x: ReadsGlobal.apply(x.sin()) * 2)
        return [once(function, (leaf(X),), change) for _ in range(3)]

    assert_same(runs(framejit.compile), runs(lambda function: function))


def test_side_effects_of_a_backward_happen_when_it_runs():
    LOG.clear()
    compiled = framejit.compile(lambda x: Logs.apply(x.sin()))
    x = leaf(X)
    results = [compiled(x) for _ in range(3)]
    assert LOG == []
    for result in results[:2]:
        result.sum().backward()
    assert LOG == [(4, 3)] * 2


def test_a_replaced_backward_is_noticed():
    class Own(Cube):
        pass

    def replaced(ctx, g):
        return g * 100, None, None

    function = lambda x: Own.apply(x, 2.0)  # noqa: E731
    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(once(compiled, (leaf(X),)), once(function, (leaf(X),)))
    Own.backward = staticmethod(replaced)
    assert_same(once(compiled, (leaf(X),)), once(function, (leaf(X),)))


def test_saved_tensors_notice_writes():
    compiled = framejit.compile(lambda x: Cube.apply(x * 1, 2.0))
    x = leaf(X)
    for _ in range(2):
        y = compiled(x)
        y.sum().backward(retain_graph=True)
        y.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.sum().backward()
