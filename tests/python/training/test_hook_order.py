"""Hooks on leaves and hooks on results of one call: which come first is a matter of eager's engine, which hands a leaf
its gradient as soon as nothing is left that could add to it."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import Cube, leaf
from torch import nn
from training_testing import NEEDS_AMINMAX, reports

import framejit

case = Cases()
X, W, V = vector(4, 6, seed=1), vector(4, 6, seed=2), vector(4, 6, seed=3)


@case(leaf(X), leaf(W))
def one_leaf_each(a, b):
    return a.exp(), b.tanh()


@case(leaf(X), leaf(W))
def made_in_turns(a, b):
    first = a.exp()
    second = b.tanh()
    first = first.sin()
    return first, second


@case(leaf(X), leaf(W), leaf(V))
def leaf_at_the_end(a, b, c):
    d = a.sin() * b
    e = d.exp()
    return d, e, e * c


@case(leaf(X), leaf(W), leaf(V))
def leaves_of_several(a, b, c):
    return (a * b).sin(), (b * c).cos(), (c * a).exp()


@case(leaf(X), leaf(W), leaf(V))
def leaves_between(a, b, c):
    d = (a * b).sin()
    e = (d * c).exp()
    f = e * b
    return f, d, e


@case(leaf(X), leaf(W))
def views_of_a_result(a, b):
    c = (a * b).exp()
    return c[1:], c[:1] * b[:1], b.sin()


@case(leaf(X), leaf(W), native=False)
def of_a_custom_function(a, b):
    c = Cube.apply(a, 2.0)
    return c, b.sin(), (c * b).sum()


@case(leaf(X), leaf(W))
def behind_a_custom_function(a, b):
    """Which has to get what comes from both results at once."""
    c = Cube.apply(a, 2.0)
    return c * 2, c * b


@case(leaf(X), leaf(W), leaf(V))
def layers(a, b, c):
    x = a
    outs = []
    for w in (b, c, b):
        x = nn.functional.linear(x, w).tanh()
        outs.append(x)
        x = x @ a
    return outs


def noting(log, name):
    return lambda g: log.append((name, None if g is None else g.detach().clone()))


def hook_results(results, which, log):
    for i in which:
        if i < len(results):
            results[i].register_hook(noting(log, f"result {i}"))


def run(call, args, which=(0, 1, 2), used=(0, 1, 2), late=False, accumulated=False, leaves=None, twice=False):
    inputs = copy.deepcopy(args)
    log = []

    def hook_leaves():
        for i, tensor in enumerate(inputs):
            if leaves is not None and i not in leaves:
                continue
            if accumulated:
                tensor.register_post_accumulate_grad_hook(lambda t, i=i: log.append((f"leaf {i}", t.grad.clone())))
            else:
                tensor.register_hook(noting(log, f"leaf {i}"))

    if not late:
        hook_leaves()
    results = call(*inputs)
    if late:
        hook_leaves()
    hook_results(results, which, log)
    for _ in range(1 + twice):
        sum((i + 2) * results[i].sum() for i in used if i < len(results)).backward(retain_graph=twice)
    return log, [t.grad for t in inputs]


VARIANTS = {
    "all": {},
    "first result": {"which": (0,)},
    "second result": {"which": (1,)},
    "third result": {"which": (2,)},
    "two results used": {"used": (0, 1)},
    "one result used": {"used": (1,)},
    "behind accumulation": {"accumulated": True},
    "one leaf": {"leaves": (1,)},
    "twice": {"twice": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(*case.table)
def test_hooks_of_leaves_and_results(function, args, expectations, variant):
    options = VARIANTS[variant]
    compiled = framejit.compile(function)
    waits = function is behind_a_custom_function
    for _ in range(2):
        actual, expected = run(compiled, args, **options), run(function, args, **options)
        if waits:  # hooks on leaves come last
            actual, expected = ((sorted(log, key=lambda item: item[0]), grads) for log, grads in (actual, expected))
        assert_same(actual, expected)
    (report,) = reports(compiled)
    assert report.graph_break is None
    assert report.has_backward == expectations.get("native", True), report.backend


@pytest.mark.parametrize("variant", ["all", "first result", "second result", "one leaf"])
@pytest.mark.parametrize("function", [one_leaf_each, made_in_turns])
def test_hooks_that_come_behind_the_forward(function, variant):
    """Of leaves: their order among each other is eager's where each belongs to a result of its own."""
    args = [leaf(t) for t in (X, W, V)][: function.__code__.co_argcount]
    options = VARIANTS[variant] | {"late": True}
    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled, args, **options), run(function, args, **options))


def test_a_hook_on_a_result_sees_what_has_arrived():
    """An optimizer that steps as soon as a gradient is there, for one."""

    def function(a, b):
        c = a.exp()
        return c, (c * b).exp()

    def step(tensor):
        tensor.data.sub_(tensor.grad)

    def use(call):
        a, b = leaf(X), leaf(W)
        b.register_post_accumulate_grad_hook(step)
        c, d = call(a, b)
        seen = []
        c.register_hook(lambda g: seen.append(b.detach().clone()))
        (c.sum() + d.sum()).backward()
        return seen, a.grad, b.grad

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(use(compiled), use(function))


def deviation(a):
    return torch.std_mean(a * 2, 1)


def extremes(a):
    return torch.aminmax(a, dim=0)


def factors(a):
    return torch.linalg.svd(a, full_matrices=False)


def and_their_product(a):
    first, second = torch.std_mean(a, 1)
    return first, second, first * second


def one_of_two(a):
    return torch.std_mean(a.exp(), 1)[1], a.sin()


OF_ONE_OPERATOR = [
    deviation,
    pytest.param(extremes, marks=NEEDS_AMINMAX),
    factors,
    and_their_product,
    one_of_two,
]


@pytest.mark.parametrize("function", OF_ONE_OPERATOR)
@pytest.mark.parametrize("used", [[0], [1], [0, 1], [-1], [0, -1]], ids=str)
@pytest.mark.parametrize("kind", ["backward", "differentiated", "retained", "up to", "twice"])
def test_results_of_one_operator(function, used, kind):
    """Hooks on all of them run where any gets a gradient: with None on the others."""

    def run(call, hooked):
        log = []
        a = vector(5, 4, seed=1).double().requires_grad_()
        results = call(a)
        a.register_hook(lambda g: log.append(("a", g.detach().clone())))
        for i in hooked:
            results[i].register_hook(lambda g, i=i: log.append((i, None if g is None else g.detach().clone())))
            if kind == "retained":
                results[i].retain_grad()
        loss = sum(results[i].square().sum() for i in used)
        if kind == "differentiated":
            (first,) = torch.autograd.grad(loss, a, create_graph=True)
            torch.autograd.backward(first.square().sum())
        elif kind == "up to":
            targets = [results[i] for i in hooked]
            found = torch.autograd.grad(loss, [a, *targets], allow_unused=True, retain_graph=True)
            log.append(found)
        else:
            loss.backward(retain_graph=kind == "twice")
            if kind == "twice":
                loss.backward()
        return log, a.grad, [r.grad.clone() for r in results if r.retains_grad and r.grad is not None]

    compiled = framejit.compile(function)
    for hooked in ([], [0], [1], [0, 1]):
        for _ in range(2):
            assert_same(run(compiled, hooked), run(function, hooked))
    (report,) = reports(compiled)
    assert report.graph_break is None and report.has_backward, report.backend
