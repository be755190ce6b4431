"""What in eager mode belongs to the nodes of a call's results: hooks on them run in every backward that comes there,
also in one that differentiates a backward, and a backward that ends at a result runs and frees its node."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import leaf
from training_testing import reports

import framejit

case = Cases()
X, W = vector(4, 6, seed=1), vector(4, 6, seed=2)


@case(leaf(X), leaf(W))
def one(a, b):
    return ((a * b).exp(),)


@case(leaf(X), leaf(W))
def saves_nothing(a, b):
    return (a * 2 + b,)


@case(leaf(X), leaf(W))
def chain(a, b):
    c = (a * b).exp()
    d = c.tanh() * a
    return c, d, (d * b).exp().sum()


@case(leaf(X), leaf(W))
def independent(a, b):
    return a.exp(), b.tanh(), (a * b).exp()


@case(leaf(X), leaf(W))
def with_views(a, b):
    c = (a * b).exp()
    return c.t(), (c.t() * 2).tanh(), c.exp()


@case(leaf(X), leaf(W))
def of_one_operator(a, b):
    first, second = torch.std_mean(a * b, 1)
    return second, (first * second).exp()


def copied(gradient):
    return None if gradient is None else gradient.detach().clone()


def message(run):
    try:
        return run()
    except RuntimeError as error:
        return str(error)[:60]


def called(call, args, hooked=False, retained=False):
    args = copy.deepcopy(args)
    results = call(*args)
    log = []
    for i, result in enumerate(results):
        if retained:
            result.retain_grad()
        if hooked:
            result.register_hook(lambda g, i=i: log.append((i, copied(g))))
    return args, results, log


def second_of(result, inputs, **options):
    first = torch.autograd.grad(result.square().sum(), inputs, create_graph=True, allow_unused=True)
    total = sum(g.square().sum() for g in first if g is not None)
    return torch.autograd.grad(total, inputs, allow_unused=True, **options) if total.requires_grad else None


def hooks_when_differentiated(call, args):
    found = []
    for i in range(len(call(*args))):
        inputs, results, log = called(call, args, hooked=True)
        found += [second_of(results[i], inputs), log]
    return found


def hooks_that_scale(call, args):
    found = []
    for i in range(len(call(*args))):
        inputs, results, _ = called(call, args)
        for result in results:
            result.register_hook(lambda g: None if g is None else g * 3)
        found.append(second_of(results[i], inputs))
    return found


def retained_when_differentiated(call, args):
    inputs, results, _ = called(call, args, retained=True)
    second = second_of(results[-1], inputs)
    return second, [r.grad.detach() if r.grad is not None else None for r in results]


def of_results_when_differentiated(call, args):
    inputs, results, log = called(call, args, hooked=True)
    (first,) = torch.autograd.grad(results[-1].square().sum(), inputs[:1], create_graph=True)
    return message(lambda: torch.autograd.grad(first.sum(), [*results, *inputs], allow_unused=True)), log


def with_leaf_hooks(call, args):
    """So that what leads to leaves is longer by a node."""
    found = []
    for i in range(len(call(*args))):
        inputs = copy.deepcopy(args)
        log = []
        for k, tensor in enumerate(inputs):
            tensor.register_hook(lambda g, k=k: log.append(("leaf", k, copied(g))))
        results = call(*inputs)
        for k, result in enumerate(results):
            result.register_hook(lambda g, k=k: log.append(("result", k, copied(g))))
        first = torch.autograd.grad(results[i].square().sum(), inputs, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in first if g is not None)
        if total.requires_grad:
            total.backward(inputs=inputs)
        found += [sorted(log, key=lambda item: item[:2]), [t.grad for t in inputs]]
    return found


def third(call, args):
    inputs, results, log = called(call, args, hooked=True)
    (first,) = torch.autograd.grad(results[-1].square().sum(), inputs[:1], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), inputs[:1], create_graph=True, allow_unused=True)
    if second is None or not second.requires_grad:
        return first, second
    return first, second, torch.autograd.grad(second.square().sum(), inputs, allow_unused=True)


def freed_by_the_second(call, args):
    """Where the gradient leads through a result's node, differentiating it frees that."""
    inputs, results, _ = called(call, args)
    (first,) = torch.autograd.grad(results[0].square().sum(), inputs[:1], create_graph=True)
    found = [message(lambda: torch.autograd.grad(first.sum(), inputs, allow_unused=True))]
    return [*found, message(lambda: torch.autograd.grad(results[0].square().sum(), inputs, allow_unused=True))]


def with_the_loss(call, args):
    """A penalty on the gradient: one backward of both."""
    inputs, results, log = called(call, args, hooked=True)
    loss = results[-1].square().sum()
    first = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
    (loss + sum(g.square().sum() for g in first if g is not None)).backward()
    return [t.grad for t in inputs], [i for i, _ in log]


SECOND = [
    hooks_when_differentiated,
    hooks_that_scale,
    retained_when_differentiated,
    of_results_when_differentiated,
    with_leaf_hooks,
    third,
    freed_by_the_second,
    with_the_loss,
]


def up_to(targets, retain=False, first=0):
    """Backwards that end at results, and what later ones say."""

    def run(call, args):
        found = []
        for source in range(len(call(*args))):
            inputs, results, log = called(call, args, hooked=True)
            chosen = [[*results, *inputs][k] for k in targets if k < len(results) + len(inputs)]
            for _ in range(2):
                found.append(
                    message(lambda: results[source].sum().backward(inputs=chosen, retain_graph=retain))  # noqa: B023
                )
                found.append(list(log))
            for result in results:
                found.append(message(lambda: torch.autograd.grad(result.sum(), inputs, allow_unused=True)))  # noqa: B023
            found.append([t.grad for t in inputs])
        return found

    run.__name__ = f"up_to_{'_'.join(map(str, targets))}{'_retained' if retain else ''}"
    return run


ENDS = [up_to([0]), up_to([0], retain=True), up_to([1]), up_to([0, 1]), up_to([2, -1]), up_to([0, -2])]


@pytest.mark.parametrize("scenario", [*SECOND, *ENDS], ids=lambda f: f.__name__)
@pytest.mark.parametrize(*case.table)
def test_nodes_of_results(function, args, expectations, scenario):
    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(scenario(compiled, args), scenario(function, args))
    (report,) = reports(compiled)
    assert report.graph_break is None and report.has_backward, report.backend


def test_a_result_that_was_written_since():
    """The node at which a backward ends notices."""

    def run(call):
        a = leaf(X)
        y = call(a)
        z = y.sin()
        with torch.no_grad():
            y.add_(1)
        return message(lambda: z.sum().backward(inputs=[y])), message(lambda: y.sum().backward(inputs=[y]))

    def function(a):
        return a.exp()

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled), run(function))


def test_hooks_in_front_of_a_hook_inside():
    """What is not linear sees at once what comes to it through results and past them."""

    def function(a, b):
        c = (a * b).tanh()
        c.register_hook(lambda g: g.clamp(-0.5, 0.5))
        return c.cos(), c.exp()

    def run(call, hooked):
        a, b = leaf(X), leaf(W)
        results, log = call(a, b), []
        for i, result in enumerate(results if hooked else ()):
            result.register_hook(lambda g, i=i: log.append((i, copied(g))) or g * 2)
        first = torch.autograd.grad([r.sum() for r in results], [a, b], create_graph=True)
        return first, torch.autograd.grad(sum(g.square().sum() for g in first), [a, b]), log

    for hooked in (False, True):
        compiled = framejit.compile(function)
        for _ in range(2):
            assert_same(run(compiled, hooked), run(function, hooked))
        (report,) = reports(compiled)
        assert report.has_backward
