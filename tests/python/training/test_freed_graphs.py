"""Backwards through graphs of which parts were freed, or whose tensors were written since: eager's nodes in front of
the one that raises run, gradients arrive at the leaves that they lead to, and hooks see them."""

import pytest
import torch
from framejit_testing import assert_same, vector
from gradients_testing import leaf
from torch import nn
from training_testing import reports

import framejit

X, W = vector(4, 3, seed=1), vector(4, 3, seed=2)


def message(backward) -> str:
    try:
        backward()
    except RuntimeError as error:
        return str(error)[:60]
    return "no error"


def logged(*tensors):
    log = []
    for i, tensor in enumerate(tensors):
        tensor.register_hook(lambda g, i=i: log.append(i))
    return log


def one_result(x, w):
    """w is in front of what is freed."""
    return x * x + w


def two_results(x, w):
    return x * x + w, w.sin() + x.exp()


def three_results(x, w):
    y = x.sin()
    return (y * w).sum(), y.sum() + w.sum(), (w * w).sum()


def twice(call):
    x, w = leaf(X), leaf(W)
    log = logged(x, w)
    y = call(x, w)
    y.sum().backward()
    return [message(lambda: y.sum().backward()) for _ in range(2)], log, x.grad, w.grad


def kept_once(call):
    x, w = leaf(X), leaf(W)
    y = call(x, w)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    return message(lambda: y.sum().backward()), x.grad, w.grad


def retains_at_last(call):
    x, w = leaf(X), leaf(W)
    y = call(x, w)
    y.sum().backward()
    return [message(lambda: y.sum().backward(retain_graph=True)) for _ in range(2)], x.grad, w.grad


def gradient_that_needs_nothing_freed(call):
    x, w = leaf(X), leaf(W)
    y = call(x, w)
    y.sum().backward()
    found = [message(lambda t=t: torch.autograd.grad(y, t, torch.ones(4, 3))) for t in (w, x, w)]
    return found, x.grad, w.grad


def one_gradient_after_the_other(call):
    """Each frees what it has run through."""
    x, w = leaf(X), leaf(W)
    y, ones = call(x, w), torch.ones(4, 3)
    found = []
    for tensor in (w, x, w):
        found.append(message(lambda tensor=tensor: found.append(torch.autograd.grad(y, tensor, ones))))
    return found


def by_chosen_inputs(call):
    x, w = leaf(X), leaf(W)
    y = call(x, w)
    y.sum().backward(inputs=[x])
    found = message(lambda: y.sum().backward(inputs=[w])), message(lambda: y.sum().backward(inputs=[x, w]))
    return found, x.grad, w.grad


@pytest.mark.parametrize(
    "use",
    [
        twice,
        kept_once,
        retains_at_last,
        gradient_that_needs_nothing_freed,
        one_gradient_after_the_other,
        by_chosen_inputs,
    ],
)
@pytest.mark.parametrize("function", [one_result, lambda x, w: (x * w).tanh(), lambda x, w: x - w])
def test_one_result(use, function):
    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(use(compiled), use(function))
    assert all(report.has_backward for report in reports(compiled))


@pytest.mark.parametrize("first", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("second", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("function", [two_results, three_results])
def test_several_results(function, first, second):
    def use(call):
        x, w = leaf(X), leaf(W)
        log = logged(x, w)
        results = call(x, w)
        found = []
        for used in (first, second, (1,), (0,)):
            found.append(message(lambda used=used: sum(results[i].sum() for i in used).backward()))
            found.append((x.grad.clone(), None if w.grad is None else w.grad.clone()))
        return found, log

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(use(compiled), use(function))
    assert all(report.has_backward for report in reports(compiled))


@pytest.mark.parametrize("inputs", [(0,), (1,), (0, 1)])
def test_written_since(inputs):
    """A node notices the write that holds the tensor, whichever gradients are asked for."""

    def use(call):
        x, w = leaf(X), leaf(W)
        result = call(x, w)
        with torch.no_grad():
            x.add_(1)
        targets = [(x, w)[i] for i in inputs]
        return (
            message(lambda: torch.autograd.grad(result.sum(), targets)),
            message(lambda: result.sum().backward()),
            x.grad,
            w.grad,
        )

    for function in (one_result, lambda x, w: (x * w).tanh(), lambda x, w: x.sin() + w * 2):
        compiled = framejit.compile(function)
        for _ in range(2):
            assert_same(use(compiled), use(function))


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_leaves_run_in_eagers_order(kind):
    def use(compile):
        model, log = layers(), []
        for name, p in model.named_parameters():
            getattr(p, kind)(lambda _, name=name: log.append(name))
        call = compile(model)
        for _ in range(2):
            call(X).sum().backward()
        return log, [p.grad for p in model.parameters()]

    assert_same(use(framejit.compile), use(lambda model: model))


def test_hooks_of_what_accumulates_run_in_eagers_order():
    """As DistributedDataParallel registers them; both leaves are ready at once."""

    def use(call):
        tensors, log = [leaf(vector(3, seed=i)) for i in range(5)], []
        kept = [t.view_as(t).grad_fn.next_functions[0][0] for t in tensors]
        for i, accumulator in enumerate(kept):
            accumulator.register_hook(lambda *_, i=i: log.append(i))
        call(*tensors).sum().backward()
        return log, [t.grad for t in tensors]

    for function in (
        lambda a, b, c, d, e: (a * b).sin() + torch.cat([c, d, e]).sum(),
        lambda a, b, c, d, e: torch.stack([a, b, c, d, e]),
        lambda a, b, c, d, e: a * b + torch.addcmul(c, d, e) * a,
    ):
        assert_same(use(framejit.compile(function)), use(function))


def test_a_hook_that_raises():
    """What arrived before it stays; what comes behind it never arrives."""

    def use(compile):
        model = layers()

        def fails(gradient):
            raise ValueError("a hook")

        model[2].weight.register_hook(fails)
        loss = compile(model)(X).sum()
        with pytest.raises(ValueError, match="a hook"):
            loss.backward()
        return [p.grad for p in model.parameters()]

    assert_same(use(framejit.compile), use(lambda model: model))


def test_an_optimizer_in_the_backward():
    """Parameters are updated as soon as their gradients have arrived."""

    def train(compile):
        model = layers()
        optimizers = {p: torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in model.parameters()}

        def step(p):
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(step)
        call = compile(model)
        losses = []
        for i in range(4):
            losses.append(call(vector(4, 3, seed=i)).square().sum())
            losses[-1].backward()
        return losses, list(model.parameters())

    assert_same(train(framejit.compile), train(lambda model: model))


def test_a_backward_inside_of_a_hook():
    def use(call):
        x, y = leaf(X), leaf(W)

        def hook(gradient):
            with torch.enable_grad():
                call(y).backward()

        x.register_hook(hook)
        call(x).backward()
        return x.grad, y.grad

    function = lambda x: x.sin().sum()  # noqa: E731
    assert_same(use(framejit.compile(function)), use(function))


@pytest.mark.parametrize("count", [9, 13, 64])
def test_many_results(count):
    """Any of them may get a gradient, one or several."""

    def function(x, w):
        results = []
        for i in range(count):
            x = (x * w).sin() + i
            results.append(x)
        return results

    def use(call, used):
        x, w = leaf(X.double()), leaf(W.double())
        results = call(x, w)
        sum(results[i].sum() * (i + 1) for i in used).backward()
        return [r.detach() for r in results], x.grad, w.grad

    compiled = framejit.compile(function)
    for used in ((0,), (count - 1,), (0, count // 2, count - 1), tuple(range(count))):
        assert_same(use(compiled, used), use(function, used))
    (report,) = reports(compiled)
    assert report.has_backward and report.graph_break is None, report.fallback


def look_behind_what_saves(a, b):
    c = a.clamp(1)
    d = b[...]
    c.zero_()
    return d, c


def look_before_what_saves(a, b):
    d = b[...]
    c = a.clamp(0)
    return d, c * 2


@pytest.mark.parametrize("function", [look_behind_what_saves, look_before_what_saves])
def test_looks_at_leaves_run_in_front_of_what_raises(function):
    def run(call):
        a, b = vector(3, 4, seed=1).requires_grad_(), vector(3, 4, seed=2).requires_grad_()
        results = call(a, b)
        said = []
        for _ in range(3):
            try:
                sum(r.sum() for r in results).backward()
            except RuntimeError as error:
                said.append(str(error)[:60])
        return said, a.grad, b.grad

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled), run(function))
    (report,) = reports(compiled)
    assert report.has_backward
