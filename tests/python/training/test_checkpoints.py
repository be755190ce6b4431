"""Checkpoints in compiled functions: what the second run of their functions would see. Eager calls the function again
in the backward, with the random numbers of the first time; a compiled backward computes the same, or raises what eager
raises where something that the function reads has changed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import assert_same, vector
from gradients_testing import leaf
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint
from training_testing import memory, reports

import framejit

X = vector(4, 8, seed=1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout, self.scale = nn.Linear(8, 8), nn.Dropout(0.5), 2.0

    def forward(self, x):
        return (self.dropout(self.linear(x).sin()) * self.scale).tanh()


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return checkpoint(self.block, F.dropout(x, 0.2), use_reentrant=False).sum()


def made(compile):
    torch.manual_seed(0)
    model = Checkpointed()
    return model, compile(model)


def test_eval_between_forward_and_backward():
    """In eager mode the second run draws nothing and saves fewer tensors."""
    for compile in (lambda model: model, framejit.compile):
        model, call = made(compile)
        for _ in range(2):
            loss = call(leaf(X))
            model.eval()
            with pytest.raises(CheckpointError):
                loss.backward()
            model.train()
    assert all(report.graph_break is None and report.has_backward for report in reports(call))


def test_eval_and_train_again():
    """What was called in between leaves no trace."""

    def run(compile):
        model, call = made(compile)
        found = []
        for i in range(3):
            torch.manual_seed(i)
            x = leaf(X)
            loss = call(x)
            model.eval()
            found.append(call(X))
            model.train()
            loss.backward()
            found.append((loss, x.grad, [p.grad for p in model.parameters()], torch.rand(2)))
        return found

    assert_same(run(framejit.compile), run(lambda model: model))


@pytest.mark.parametrize("change", ["attribute", "global", "closure", "function"])
def test_what_a_checkpoint_reads_is_not_taken_as_it_was(change):
    """Eager would differentiate another function than it called; we say so."""
    model, call = made(framejit.compile)
    captured = 3.0

    def through_closure(x):
        return checkpoint(lambda z: (z * captured).sin() * FACTOR, x, use_reentrant=False).sum()

    compiled = framejit.compile(through_closure)
    loss = call(leaf(X)) if change in ("attribute", "function") else compiled(leaf(X))
    global FACTOR
    try:
        if change == "attribute":
            model.block.scale = 3.0
        elif change == "global":
            FACTOR = 5.0
        elif change == "closure":
            captured = 4.0
        else:
            model.block.linear.forward = lambda x: x
        with pytest.raises(CheckpointError, match="what a checkpointed function reads changed"):
            loss.backward()
    finally:
        FACTOR = 2.0


FACTOR = 2.0


def replaced_weight(model, x):
    model.block.linear.weight = nn.Parameter(model.block.linear.weight.detach() * 2)


def replaced_bias(model, x):
    model.block.linear.bias = nn.Parameter(model.block.linear.bias.detach() - 1)


def written_weight(model, x):
    with torch.no_grad():
        model.block.linear.weight.mul_(3)


def written_data(model, x):
    model.block.linear.weight.data.mul_(3)


def data_of_another(model, x):
    model.block.linear.weight.data = vector(8, 8, seed=9)


def transposed_weight(model, x):
    model.block.linear.weight = nn.Parameter(vector(8, 8, seed=4).t())


def replaced_and_put_back(model, x):
    before = model.block.linear.weight
    replaced_weight(model, x)
    model.block.linear.weight = before


def of_another_type(model, x):
    model.block.linear.weight = nn.Parameter(model.block.linear.weight.detach().double())


def of_another_shape(model, x):
    model.block.linear.weight = nn.Parameter(vector(4, 8))


@pytest.mark.parametrize(
    "change",
    [replaced_weight, replaced_bias, written_weight, written_data, data_of_another, transposed_weight,
     replaced_and_put_back, of_another_type, of_another_shape],
)  # fmt: skip
def test_tensors_that_a_checkpoint_reads_are_those_of_the_backward(change):
    """In eager mode the second run finds what is there by then, whatever the first one found; gradients go to what the
    first one used."""

    def run(compile):
        model, call = made(compile)
        found = []
        for _ in range(2):
            x = leaf(X)
            first = list(model.parameters())
            torch.manual_seed(2)
            loss = call(x)
            kept = model.block.linear.weight, model.block.linear.bias
            content = [t.detach().clone() for t in kept]
            change(model, x)
            try:
                loss.backward()
            except RuntimeError:  # eager's are CheckpointErrors, and those of operators that the second run calls
                found.append("raises")
            model.block.linear.weight, model.block.linear.bias = kept
            for tensor, before in zip(kept, content, strict=True):
                tensor.data = before
            found.append((loss.detach(), x.grad, [p.grad for p in first], torch.rand(2)))
            model.zero_grad()
        return call, found

    (call, actual), (_, expected) = run(framejit.compile), run(lambda model: model)
    assert_same(actual, expected)
    assert all(report.has_backward for report in reports(call))


def test_a_tensor_that_is_read_outside_as_well():
    """Where it was written, the node outside raises; where it was replaced, we do."""

    def function(x, weights):
        y = checkpoint(lambda z: (z @ weights[0]).sin(), x, use_reentrant=False)
        return (y @ weights[0]).sum()

    def run(call, change):
        x, weights = leaf(X), [leaf(vector(8, 8, seed=3))]
        loss = call(x, weights)
        change(weights)
        with pytest.raises(RuntimeError) as raised:
            loss.backward()
        return str(raised.value)[:80]

    def write(weights):
        with torch.no_grad():
            weights[0].mul_(2)

    def replace(weights):
        weights[0] = leaf(vector(8, 8, seed=5))

    compiled = framejit.compile(function)
    assert run(compiled, write) == run(function, write)
    assert run(compiled, replace).startswith("framejit: what a checkpointed function reads changed")


def test_what_others_read_may_change():
    """Only what the function of the checkpoint reads is looked at, and gradients may be there by then."""

    def function(x, options):
        y = checkpoint(lambda z: z.sin().exp(), x * options["scale"], use_reentrant=False)
        return (y * options["scale"]).sum()

    def run(call):
        x, options = leaf(X), {"scale": 2.0}
        loss = call(x, options)
        options["scale"] = 3.0
        loss.backward(retain_graph=True)
        loss.backward()
        return loss, x.grad

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled), run(function))


def drops(x, w):
    x = F.dropout(x, 0.1)
    for _ in range(2):
        x = checkpoint(lambda z: F.dropout(F.dropout(z @ w, 0.5).tanh(), 0.5), x, use_reentrant=False)
        x = x + F.dropout(x, 0.2)
    return x


def nested(x, w):
    def inner(z):
        return F.dropout(z @ w, 0.5).sin()

    def outer(z):
        z = checkpoint(inner, F.dropout(z, 0.3).sin(), use_reentrant=False)
        return F.dropout(z.cos(), 0.3)

    return checkpoint(outer, x, use_reentrant=False) * 2


def returns_what_it_draws(x, w):
    def draw(z):
        first, second = torch.rand_like(z), torch.rand_like(z)
        return (z @ w * first).sin() * second, first

    y, first = checkpoint(draw, x, use_reentrant=False)
    return y * first.detach()


@pytest.mark.parametrize("function", [drops, nested, returns_what_it_draws])
def test_numbers_are_drawn_again(function):
    """The same ones, whatever was drawn since; and the generator goes on from where the program left it."""

    def run(call):
        x, w = leaf(X), leaf(vector(8, 8, seed=2))
        torch.manual_seed(1)
        y = call(x, w)
        torch.manual_seed(2)
        y.sum().backward(retain_graph=True)
        (g,) = torch.autograd.grad(y.square().sum(), x)
        return y, x.grad, w.grad, g, torch.rand(3)

    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(run(compiled), run(function), tolerance=1e-4)
    (report,) = reports(compiled)
    assert report.graph_break is None and report.has_backward


def test_what_is_drawn_is_not_kept():
    """A call keeps the state of the generator instead, as in eager mode, and no more memory is in use at any time."""
    x, w = leaf(vector(64, 32, seed=5)), leaf(vector(32, 1024, seed=6))

    def model(x, w):
        for _ in range(4):
            x = x + checkpoint(lambda z: F.dropout((z @ w).tanh(), 0.5) @ w.t() / 1024, x, use_reentrant=False)
        return x.sum()

    compiled = framejit.compile(model)
    (most, kept), (eager_most, eager_kept) = memory(compiled, (x, w)), memory(model, (x, w))
    (report,) = reports(compiled)
    assert report.has_backward
    # Once for each call, for a backward that is itself differentiated.
    state = torch.get_rng_state().numel()
    assert kept <= eager_kept + state
    assert most <= eager_most * 1.01


def test_what_leaves_a_nested_checkpoint_is_not_kept():
    """The outer one computes it again."""
    x, w = leaf(vector(64, 32, seed=5)), leaf(vector(32, 512, seed=6))

    def inner(z):
        return (z @ w).tanh() @ w.t() / 512

    def outer(z):
        for _ in range(3):
            z = z + checkpoint(inner, z, use_reentrant=False).sin()
        return z

    def model(x, w):
        for _ in range(3):
            x = x + checkpoint(outer, x, use_reentrant=False)
        return x.sum()

    compiled = framejit.compile(model)
    (most, kept), (eager_most, eager_kept) = memory(compiled, (x, w)), memory(model, (x, w))
    (report,) = reports(compiled)
    assert report.has_backward
    assert kept <= eager_kept
    assert most <= eager_most * 1.01
    gradients = []
    for call in (compiled, model):
        x.grad = w.grad = None
        call(x, w).backward()
        gradients.append((x.grad, w.grad))
    assert_same(*gradients, tolerance=1e-4)


def late_binding(x, weights):
    for i in range(3):
        x = checkpoint(lambda z: (z @ weights[i]).sin(), x, use_reentrant=False)  # noqa: B023
    return x


def results_share_memory(x, weights):
    first, second = checkpoint(lambda z: (z @ weights[0]).sin(), x, use_reentrant=False).chunk(2)
    return first * second, first


@pytest.mark.parametrize("function", [late_binding, results_share_memory])
def test_checkpoints_that_stay_eagers(function):
    """Its function reads a variable that is another by then; torch's own autograd differentiates the results."""

    def run(call):
        x, weights = leaf(X), [leaf(vector(8, 8, seed=i)) for i in range(3)]
        result = call(x, weights)
        sum(t.sum() for t in (result if isinstance(result, tuple) else [result])).backward()
        return result, x.grad, [w.grad for w in weights]

    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(run(compiled), run(function))


def test_a_call_lives_as_long_as_its_backward_may_come():
    import gc
    import weakref

    model, call = made(framejit.compile)
    dead = weakref.ref(model.block)
    loss = call(leaf(X))
    del model, call
    gc.collect()
    loss.backward()
    del loss
    framejit.reset()
    gc.collect()
    assert dead() is None


def test_deep_copies_have_checkpoints_of_their_own():
    model, call = made(framejit.compile)
    other = copy.deepcopy(model)
    loss = framejit.compile(other)(leaf(X))
    model.eval()
    loss.backward()
    assert other.block.linear.weight.grad is not None and model.block.linear.weight.grad is None


@pytest.mark.parametrize("written", ["input", "input without a gradient", "result", "inside"])
def test_what_a_checkpoint_is_given_must_not_be_written(written):
    """Unlike what its function reads from elsewhere: eager saves its arguments."""

    def function(x, data):
        y = x * 2
        z = checkpoint(lambda a, b, c: (a * b).sin() * c.cos(), x, y, data, use_reentrant=False)
        if written == "inside":
            y.add_(1)
        return y, z

    def run(call):
        x, data = leaf(X), X.clone()
        y, z = call(x, data)
        with torch.no_grad():
            {"input": x, "input without a gradient": data, "result": y, "inside": torch.zeros(1)}[written].mul_(2)
        try:
            return torch.autograd.grad(z.sum(), x)
        except RuntimeError as error:
            return str(error)[:60]

    compiled = framejit.compile(function)
    # Where the checkpoint runs natively it is looked into eight times alone, in all tests together.
    for _ in range(1 if written == "inside" else 3):
        assert_same(run(compiled), run(function))


def test_writes_beside_a_checkpoint():
    """What eager's nodes outside of it hold for its sizes."""

    def function(x):
        y = checkpoint(lambda z: (z * 2).sin(), x.cos(), use_reentrant=False)
        return y, torch.std_mean(x)[1]

    def run(call):
        x = leaf(X)
        _, mean = call(x)
        with torch.no_grad():
            x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            mean.backward()

    run(function)
    compiled = framejit.compile(function)
    for _ in range(2):
        run(compiled)
    assert all(report.has_backward for report in reports(compiled))
