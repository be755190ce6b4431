"""Gradients that the program has a part in: torch.autograd.grad, hooks, checkpoints. One recording has the forward and
the backward."""

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import Cube, compare, leaf, once
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_testing import memory, reports

import framejit

case = Cases()
X = vector(4, 3, seed=1)
W = vector(3, 5, seed=2)
LOG = []


# --- torch.autograd.grad ----------------------------------------------------------------------------------------------
@case(leaf(X))
def gradient_alone(x):
    (g,) = torch.autograd.grad(x.pow(3).sum(), x)
    return g * 2, x.cos()


@case(leaf(X), leaf(W))
def gradient_penalty(x, w):
    score = (x @ w).tanh().sum()
    (g,) = torch.autograd.grad(score, x, create_graph=True)
    return score + (g.norm(dim=1) - 1).square().mean()


@case(X, X + 1, leaf(W))
def gradient_penalty_between(real, fake, w):
    mixed = (real * 0.3 + fake.detach() * 0.7).requires_grad_(True)
    (g,) = torch.autograd.grad(
        outputs=(mixed @ w).tanh(), inputs=mixed, grad_outputs=torch.ones(4, 5), create_graph=True, retain_graph=True
    )
    return (g.norm(2, dim=1) - 1).square().mean()


@case(leaf(vector(6, 1, seed=4)), leaf(W[:1]))
def physics_informed(t, w):
    u = (t @ w).tanh().sum(-1, keepdim=True)
    (du,) = torch.autograd.grad(u, t, torch.ones_like(u), create_graph=True)
    (ddu,) = torch.autograd.grad(du, t, torch.ones_like(du), create_graph=True)
    return (ddu + u).square().mean()


@case(leaf(X), leaf(W))
def gradients_with_unused_inputs(x, w):
    y = x.sin().sum()
    first, second = torch.autograd.grad(y, [x, w], allow_unused=True)
    return first * 2 if second is None else first, x * w.sum()


@case(leaf(X), leaf(W))
def gradients_materialized(x, w):
    first, second = torch.autograd.grad(x.sin().sum(), [x, w], materialize_grads=True)
    return (first + second.sum()) * x


@case(leaf(X), leaf(W))
def gradient_of_an_intermediate(x, w):
    y = x.sin()
    (g,) = torch.autograd.grad((y @ w).square().sum(), y, create_graph=True)
    return (g * y).sum()


@case(leaf(X), leaf(W))
def gradient_inside_no_grad(x, w):
    y = (x @ w).tanh().sum()
    with torch.no_grad():
        (g,) = torch.autograd.grad(y, x)
        z = x - 0.1 * g
    return z, x.sin()


@case(leaf(X), leaf(W))
def inner_step(x, w):
    (g,) = torch.autograd.grad((x @ w).square().mean(), (p for p in [w]), create_graph=True)
    return (x @ (w - 0.1 * g)).square().mean()


@case(leaf(X))
def gradient_through_a_function(x):
    y = Cube.apply(x, 2.0).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    return y + g.square().sum()


@case(leaf(X))
def graph_is_freed(x):
    y = x.exp().sum()
    torch.autograd.grad(y, x)
    return y


@case(leaf(X), graphs=0)
def second_gradient_without_retaining(x):
    y = x.exp().sum()
    torch.autograd.grad(y, x)
    torch.autograd.grad(y, x)


# --- hooks ------------------------------------------------------------------------------------------------------------
@case(leaf(X))
def hook_on_an_intermediate(x):
    y = x.sin()
    y.register_hook(lambda g: g * 3)
    return y.cos()


def clip(gradient):
    return gradient.clamp(-0.1, 0.1)


@case(leaf(X))
def hooks_in_order(x):
    y = x.sin()
    y.register_hook(clip)
    y.register_hook(lambda g: g + 1)
    return y.cos(), y.exp()


@case(leaf(X))
def hook_that_only_looks(x):
    y = x.sin()
    y.register_hook(lambda g: None)
    return y * 2


@case(leaf(X), native=False)
def hook_that_logs(x):
    y = x.sin()
    y.register_hook(lambda g: LOG.append(tuple(g.shape)))
    return y * 2


@case(leaf(X), native=False)
def hook_on_a_result(x):
    y = x.sin()
    y.register_hook(lambda g: g * 3)
    return y, y * 2


@case(leaf(X), graphs=2)
def hook_with_a_state(x):
    seen = []
    y = x.sin()
    y.register_hook(lambda g: seen.append(1))
    return y * 2


@case(leaf(X), leaf(X + 1), graphs=2)
def hook_on_an_input(x, y):
    z = x.sin()
    y.register_hook(lambda g: g * 3)
    return z * y


# --- checkpoints ------------------------------------------------------------------------------------------------------
def block(x, w):
    return nn.functional.dropout((x @ w).relu(), 0.3).tanh()


@case(leaf(X), leaf(W), graphs=2, whole=True)
def checkpoint_of_a_function(x, w):
    return checkpoint(block, x, w, use_reentrant=False) * 2


@case(leaf(X), leaf(W), graphs=3, whole=True)
def checkpoints_in_a_chain(x, w):
    for _ in range(3):
        x = x + checkpoint(lambda z: (z.sin() @ w).exp() @ w.t(), x, use_reentrant=False)
    return x


@case(leaf(X), leaf(W), graphs=2, whole=True)
def checkpoint_that_returns_a_view(x, w):
    y = checkpoint(lambda z: ((z @ w).sigmoid() * 2).t()[:2], x, use_reentrant=False)
    return y.sin(), y.shape[0]


@case(leaf(X), leaf(W), graphs=3)
def checkpoint_that_logs(x, w):
    def logging(z):
        LOG.append(1)
        return (z @ w).sin()

    return checkpoint(logging, x.cos(), use_reentrant=False) * 2


@case(leaf(X), leaf(W), graphs=3)
def checkpoint_with_other_numbers(x, w):
    return checkpoint(block, x.cos(), w, use_reentrant=False, preserve_rng_state=False) * 2


@pytest.mark.parametrize(*case.table)
def test_program_gradients(function, args, expectations):
    LOG.clear()
    compare(function, args, **expectations)


def test_hooks_on_results_take_part_in_gradients_by_them():
    function = hook_on_a_result
    compiled = framejit.compile(function)
    for call in (compiled, compiled, function):
        y, z = call(leaf(X))
        (g,) = torch.autograd.grad(z.sum(), y)
        assert torch.equal(g, torch.full_like(g, 6))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, real, fake):
        mixed = (0.4 * real + 0.6 * fake).requires_grad_(True)
        score = self.layers(mixed)
        (g,) = torch.autograd.grad(score.sum(), mixed, create_graph=True)
        return self.layers(fake).mean() - self.layers(real).mean() + 10 * (g.norm(2, dim=1) - 1).square().mean()


@pytest.mark.parametrize("history", [False, True])
def test_gradient_penalty_trains(history):
    """The tensors may have a history of their own: the penalty's inputs are made inside."""

    def train(compile):
        torch.manual_seed(0)
        critic, generator = Critic(), nn.Linear(3, 3)
        call = compile(critic)
        optimizer = torch.optim.SGD([*critic.parameters(), *generator.parameters()], lr=0.05)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            fake = generator(X)
            loss = call(X + 1, fake if history else fake.detach())
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return call, losses, list(critic.parameters()), list(generator.parameters())

    expected = train(lambda module: module)
    actual = train(framejit.compile)
    assert_same(actual[1:], expected[1:])
    (report,) = reports(actual[0])
    assert report.graph_break is None and report.has_backward, report.fallback


def test_a_history_outside_is_part_of_the_gradient():
    """x has been computed from w: the gradient of w goes through x, which the recording cannot know."""
    function = lambda x, w: torch.autograd.grad((x * w).sum(), w, retain_graph=True)[0]  # noqa: E731
    compiled = framejit.compile(function)
    for make in (lambda w: w.detach().clone().requires_grad_(), lambda w: w * w, lambda w: w.sin()):
        for _ in range(2):
            w = leaf(X)
            x = make(w)
            assert_same(compiled(x, w), function(x, w))


def test_hooks_on_inputs_take_part_in_gradients_inside():
    function = lambda x: torch.autograd.grad(x.sin().sum(), x)[0]  # noqa: E731
    compiled = framejit.compile(function)
    for hooked in (False, True, False):
        x = leaf(X)
        if hooked:
            x.register_hook(lambda g: g * 10)
        assert_same(compiled(x), function(x))


def test_statistics_in_a_checkpoint_are_updated_twice():
    """Eager runs the function of a checkpoint again in the backward, and so what it writes."""

    def train(compile):
        norm = nn.BatchNorm1d(3)
        function = compile(lambda x: checkpoint(norm, x.sin(), use_reentrant=False).cos())
        for _ in range(3):
            function(leaf(X)).sum().backward()
        return norm.state_dict()

    assert_same(train(framejit.compile), train(lambda function: function))


def test_checkpoints_compute_again():
    """A call keeps the arguments of its checkpoints, and no more memory is in use at a time than in eager mode."""
    x, w = leaf(vector(64, 32, seed=5)), leaf(vector(32, 1024, seed=6))

    def model(x, w):
        for _ in range(4):
            x = x + checkpoint(lambda z: ((z @ w).tanh().exp() @ w.t() / 1024).sin(), x, use_reentrant=False)
        return x.sum()

    compiled = framejit.compile(model)
    assert_same(once(compiled, (x, w)), once(model, (x, w)))
    (most, kept), (eager_most, eager_kept) = memory(compiled, (x, w)), memory(model, (x, w))
    (report,) = reports(compiled)
    assert report.has_backward
    assert kept <= eager_kept * 1.01
    assert most <= eager_most * 1.01
