"""Code of the program that is not linear (custom Functions, hooks) behind the results of a call whose backward is
differentiated: what comes to it through results and through gradients has to come there at once, as in eager mode."""

import copy
import gc
import weakref

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import leaf
from training_testing import reports

import framejit

case = Cases()
X, W = vector(4, 6, seed=1).double(), vector(4, 6, seed=2).double()


class Squaring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * g * x.cos()


class Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (g * 3 * x**2).tanh()


@case(leaf(X), leaf(W))
def one(a, b):
    return (Squaring.apply(a * b).exp(),)


@case(leaf(X), leaf(W))
def two(a, b):
    c = Bounded.apply(a * b)
    return c.exp(), c * b


@case(leaf(X), leaf(W))
def hook(a, b):
    c = (a * b).sin()
    c.register_hook(lambda g: g * g)
    return c.exp(), c * b


@case(leaf(X), leaf(W))
def chain(a, b):
    c = Squaring.apply(a * b).exp()
    return c, c * b


@case(leaf(X), leaf(W))
def apart(a, b):
    return Squaring.apply(a * b).exp(), Bounded.apply(a + b), a.exp() * b


@case(leaf(X), leaf(W))
def views(a, b):
    c = Squaring.apply(a * b).exp()
    return c.t(), (c.t() * 2).tanh()


def product(results):
    total = results[0]
    for result in results[1:]:
        total = total * result if total.shape == result.shape else total.t() * result
    return total.sin().sum()


def squares(results):
    return sum(result.square().sum() for result in results)


def last(results):
    return results[-1].square().sum()


def first(results):
    return results[0].square().sum()


def differentiated(results, inputs, combine):
    loss = combine(results)
    return loss, torch.autograd.grad(loss, inputs, create_graph=True)


def of_gradients(results, inputs, combine):
    _, (a, b) = differentiated(results, inputs, combine)
    return torch.autograd.grad(a.square().sum() + (a * b).sum(), inputs)


def with_the_loss(results, inputs, combine):
    loss, (a, b) = differentiated(results, inputs, combine)
    (a.square().sum() + loss).backward()
    return a, b, [t.grad for t in inputs]


def with_each_result(results, inputs, combine):
    _, (a, b) = differentiated(results, inputs, combine)
    return [torch.autograd.grad((a * b).sum() + r.sin().sum(), inputs, retain_graph=True) for r in results]


def up_to_results(results, inputs, combine):
    _, (a, b) = differentiated(results, inputs, combine)
    return torch.autograd.grad(a.square().sum() + b.sum(), results, allow_unused=True)


def third(results, inputs, combine):
    _, gradients = differentiated(results, inputs, combine)
    again = torch.autograd.grad(sum(g.sin().sum() for g in gradients), inputs, create_graph=True)
    return again, torch.autograd.grad(sum(g.sin().sum() for g in again), inputs)


def one_after_the_other(results, inputs, combine):
    """Two backwards that are differentiated, and what they gave together."""
    gradients = [torch.autograd.grad(r.square().sum(), inputs, create_graph=True, allow_unused=True) for r in results]
    total = sum(g.sin().sum() for pair in gradients for g in pair if g is not None)
    return torch.autograd.grad(total + combine(results), inputs)


def with_hooks(results, inputs, combine):
    log = []
    for i, tensor in enumerate([*results, *inputs]):
        tensor.register_hook(lambda g, i=i: log.append((i, g.detach().clone())) or g * 2)
    found = with_the_loss(results, inputs, combine)
    return found, sorted(log, key=lambda item: (item[0], item[1].sum().item()))


def freed(results, inputs, combine):
    """The backward of the gradients frees what the results' needs."""
    _, (a, _) = differentiated(results, inputs, combine)
    found = [torch.autograd.grad(a.square().sum(), inputs)]
    for result in results:
        try:
            found.append(torch.autograd.grad(result.sum(), inputs, allow_unused=True))
        except RuntimeError as error:
            found.append(str(error)[:60])
    return found


def without_the_others(results, inputs, combine):
    """Results that nobody holds when their backward is differentiated."""
    kept = results[0].square().sum()
    del results[:]
    a, _ = torch.autograd.grad(kept, inputs, create_graph=True)
    return torch.autograd.grad(a.square().sum() + kept, inputs)


SCENARIOS = [
    of_gradients,
    with_the_loss,
    with_each_result,
    up_to_results,
    third,
    one_after_the_other,
    with_hooks,
    freed,
    without_the_others,
]


@pytest.mark.parametrize("combine", [product, squares, last, first], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(*case.table)
def test_differentiated(function, args, expectations, scenario, combine):
    compiled = framejit.compile(function)

    def run(call):
        inputs = copy.deepcopy(args)
        return scenario(list(call(*inputs)), inputs, combine)

    for _ in range(2):
        assert_same(run(compiled), run(function))
    (report,) = reports(compiled)
    assert report.graph_break is None


@pytest.mark.parametrize("written", [0, 1])
def test_a_result_that_is_written_behind_the_gradients(written):
    """Eager's node of an exponential saved it; that of a product did not."""

    def run(call):
        a, b = leaf(X), leaf(W)
        results = call(a, b)
        (gradient, _) = torch.autograd.grad(squares(results), [a, b], create_graph=True)
        with torch.no_grad():
            results[written].add_(1)
        try:
            return torch.autograd.grad(gradient.sum() + results[0].sum(), [a, b])
        except RuntimeError as error:
            return str(error).partition(" [")[0]

    compiled = framejit.compile(two)
    for _ in range(2):
        assert_same(run(compiled), run(two))


@pytest.mark.parametrize("function", [one, two, chain], ids=lambda f: f.__name__)
def test_a_backward_that_is_differentiated_inside_of_another(function):
    """From a hook on a result: the outer one goes on as it began."""

    def run(call):
        a, b = leaf(X), leaf(W)
        results = call(a, b)
        inner = []

        def hook(g):
            if not inner:
                inner.append(None)
                with torch.enable_grad():
                    inner[0] = torch.autograd.grad(squares(results), [a, b], create_graph=True)

        results[-1].register_hook(hook)
        squares(results).backward(retain_graph=True)
        outer = a.grad.clone(), b.grad.clone()
        (sum(g.sin().sum() for g in inner[0]) + squares(results)).backward()
        return outer, inner, a.grad, b.grad

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled), run(function))


def test_nothing_is_kept():
    compiled = framejit.compile(chain)
    a, b = leaf(X), leaf(W)
    gc.disable()
    try:
        results = compiled(a, b)
        dead = [weakref.ref(t) for t in (*results, a, b)]
        gradients = torch.autograd.grad(squares(results), [a, b], create_graph=True)
        dead += [weakref.ref(g) for g in gradients]
        torch.autograd.grad(sum(g.sum() for g in gradients) + squares(results), [a, b])
        del results, gradients, a, b
        assert [ref() for ref in dead] == [None] * len(dead)
    finally:
        gc.enable()
