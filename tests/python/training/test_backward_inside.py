"""`.backward()` and `.retain_grad()` inside the compiled function: one recording has the forward and the backward, and
`.grad` of leaves is an effect of the call. Values, strides, identity and errors are eager's."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, counting, vector
from gradients_testing import Cube, leaf
from torch import nn
from training_testing import reports

import framejit

case = Cases()
X = vector(4, 3, seed=1)
W = vector(3, 5, seed=2)
COLUMNS = vector(5, 3, seed=3).t()


def with_gradient(tensor, gradient=None):
    tensor = leaf(tensor)
    tensor.grad = torch.full_like(tensor, 0.5) if gradient is None else gradient
    return tensor


def outcome(function, args):
    """Result or error, and the gradients: values, strides, and whether they are the tensors that were there before."""
    args = copy.deepcopy(args)
    before = [a.grad for a in args]
    torch.manual_seed(0)
    try:
        result = function(*args)
    except Exception as error:
        result = type(error), str(error)
    after = [a.grad for a in args]
    same = [g is b for g, b in zip(after, before, strict=True)]
    return result, after, same, [None if g is None else g.stride() for g in after]


def compare(function, args, graphs=1, whole=None):
    """graphs: those that a Python backend gets. whole: whether the native backend records no break."""
    compiled = framejit.compile(function)
    python, backend = counting(function)
    for _ in range(3):
        expected = outcome(function, args)
        assert_same(outcome(compiled, args), expected, "native")
        assert_same(outcome(python, args), expected, "torch level")
    assert backend.count == graphs
    if whole or (whole is None and graphs == 1):
        (report,) = reports(compiled)
        assert report.graph_break is None and report.backend == "cpu", report.fallback


# --- leaves -----------------------------------------------------------------------------------------------------------
@case(leaf(X), leaf(W))
def sets_gradients(x, w):
    loss = (x @ w).square().mean()
    loss.backward()
    return loss.detach(), x.grad.clone()


@case(with_gradient(X), leaf(W))
def accumulates_where_one_is_there(x, w):
    (x @ w).tanh().sum().backward()


@case(with_gradient(X), with_gradient(W))
def reads_what_it_accumulated(x, w):
    before = w.grad
    (x @ w).tanh().sum().backward()
    return before is w.grad, w.grad * 2


@case(leaf(X), leaf(W))
def two_backwards(x, w):
    loss = (x @ w).square().mean()
    loss.backward(retain_graph=True)
    first = x.grad
    loss.backward()
    return first is x.grad, w.grad.clone()


@case(leaf(X), leaf(W))
def two_losses(x, w):
    (x @ w).square().mean().backward()
    (x.sin() @ w).sum().backward()


@case(leaf(X), leaf(W))
def unused_leaf(x, w):
    (x.sin() + w.detach().sum()).sum().backward()
    return w.grad is None


@case(leaf(X), leaf(W))
def gradient_argument(x, w):
    (x @ w).backward(torch.ones(4, 5) * 2)


@case(leaf(X), leaf(W))
def gradient_by_name(x, w):
    (x @ w).backward(gradient=torch.linspace(0, 1, 20).reshape(4, 5), retain_graph=False)


@case(leaf(X), leaf(W))
def several_tensors(x, w):
    y = x @ w
    torch.autograd.backward([y.sum(), y.exp()], [torch.tensor(2.0), torch.full((4, 5), 0.5)])


@case(leaf(X), leaf(W))
def only_some_inputs(x, w):
    (x @ w).tanh().sum().backward(inputs=[w])
    return x.grad is None


@case(leaf(X), leaf(W))
def an_intermediate_as_input(x, w):
    y = x.sin()
    (y @ w).tanh().sum().backward(inputs=[y, w])
    return y.grad * 1


@case(leaf(X))
def expanded_gradient(x):
    (x * 1).sum().backward()


@case(leaf(COLUMNS), leaf(X))
def layout_of_the_leaf(w, x):
    (x @ w).tanh().sum().backward()


@case(leaf(X.expand(2, 4, 3)))
def layout_of_an_expanded_leaf(x):
    x.sin().sum().backward()


@case(leaf(X), leaf(X + 1))
def one_gradient_for_two_leaves(x, y):
    (x + y).backward(torch.ones(4, 3))
    return x.grad is y.grad


@case(leaf(X), leaf(W))
def under_no_grad(x, w):
    loss = (x @ w).sum()
    with torch.no_grad():
        loss.backward()
        return x - 0.1 * x.grad


@case(X, leaf(W))
def a_leaf_made_inside(x, w):
    y = (x * 2).requires_grad_()
    (y @ w).tanh().sum().backward()
    return y.grad * 3


@case(leaf(X))
def through_a_custom_function(x):
    Cube.apply(x.sin(), 2.0).sum().backward()
    return x.grad * 2


@case(leaf(X))
def with_a_hook_inside(x):
    y = x.sin()
    y.register_hook(lambda g: g * 3)
    y.exp().sum().backward()


@case(leaf(X))
def with_dropout(x):
    nn.functional.dropout(x.sin(), 0.5).sum().backward()
    return torch.rand(2)


@case(with_gradient(X))
def gradient_is_cleared(x):
    before = x.grad
    x.grad = None
    x.sin().sum().backward()
    return before * 2


@case(leaf(X))
def gradient_is_set(x):
    x.grad = torch.ones_like(x)
    (x * 3).sum().backward()
    return x.grad * 1


@case(leaf(X), leaf(W), whole=False)
def a_step_by_hand(x, w):
    for _ in range(3):
        loss = (x @ w).square().mean()
        loss.backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
    return loss.detach()


# --- retain_grad ------------------------------------------------------------------------------------------------------
@case(leaf(X))
def retained(x):
    y = x.exp()
    y.retain_grad()
    (y * x).sum().backward()
    return y.grad, y.detach(), y.retains_grad


@case(leaf(X))
def retained_twice(x):
    y = x.exp()
    y.retain_grad()
    z = (y * x).sum()
    z.backward(retain_graph=True)
    first = y.grad.clone()
    z.backward()
    return first, y.grad.clone()


@case(leaf(X))
def retained_and_not_reached(x):
    y = x.exp()
    y.retain_grad()
    x.sin().sum().backward()
    return y.grad is None


# --- errors, and what stays outside -----------------------------------------------------------------------------------
@case(leaf(X), leaf(W), graphs=0)
def twice_without_retaining(x, w):
    loss = (x @ w).square().mean()
    loss.backward()
    loss.backward()


@case(X, graphs=0)
def nothing_requires_grad(x):
    y = x.sin().sum()
    y.backward()


@case(leaf(X), graphs=0)
def no_scalar(x):
    y = x.sin()
    y.backward()


@pytest.mark.parametrize(*case.table)
def test_backward_inside(function, args, expectations):
    compare(function, args, **expectations)


def test_results_whose_graph_was_freed():
    """They require grad, and their backward raises what eager's raises."""

    def function(x, w):
        loss = (x @ w).square().mean()
        loss.backward()
        return loss, loss * 2

    def run(call):
        x, w = leaf(X), leaf(W)
        loss, double = call(x, w)
        flags = [(t.requires_grad, t.is_leaf, t.grad_fn is not None) for t in (loss, double)]
        messages = []
        for backward in (loss.backward, (double + 1).backward, lambda: torch.autograd.grad(loss, w)):
            with pytest.raises(RuntimeError) as raised:
                backward()
            messages.append(str(raised.value))
        return loss, double, flags, messages, x.grad, w.grad

    compiled = framejit.compile(function)
    expected = run(function)
    for _ in range(3):
        assert_same(run(compiled), expected)
    (report,) = reports(compiled)
    assert report.graph_break is None and report.has_backward, report.fallback


def test_results_whose_graph_is_kept():
    def function(x, w):
        loss = (x @ w).square().mean()
        loss.backward(retain_graph=True)
        return loss

    def run(call):
        x, w = leaf(X), leaf(W)
        call(x, w).backward()
        return x.grad, w.grad

    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(run(compiled), run(function))
    (report,) = reports(compiled)
    assert report.graph_break is None and report.has_backward, report.fallback


def test_retained_results():
    """A backward that runs later finds them retained; one inside has left a gradient on them."""

    def later(x):
        y = x.exp()
        y.retain_grad()
        return y, (y * x).sum()

    def inside(x):
        y, z = later(x)
        z.backward(retain_graph=True)
        return y, z

    for function in (later, inside):
        compiled = framejit.compile(function)
        for _ in range(3):
            found = []
            for call in (compiled, function):
                x = leaf(X)
                y, z = call(x)
                z.backward()
                found.append((y.retains_grad, y.grad, x.grad))
            assert_same(found[0], found[1])


@pytest.mark.filterwarnings("ignore:Using backward")
def test_gradients_with_a_graph():
    """create_graph: the gradients can be differentiated, inside and outside."""

    def inside(x):
        (x.pow(3).sum()).backward(create_graph=True)
        return x.grad.square().sum()

    def run(call):
        x = leaf(X)
        (g,) = torch.autograd.grad(call(x), x)
        flags = x.grad.requires_grad
        x.grad = None
        return g, flags

    compiled = framejit.compile(inside)
    for _ in range(3):
        assert_same(run(compiled), run(inside))


def test_hooks_that_come_later():
    """Of leaves and of what accumulates into them: they run as in eager mode."""

    def function(x):
        x.sin().sum().backward()

    compiled = framejit.compile(function)

    def run(call, register):
        x, seen = leaf(X), []
        kept = register(x, seen)
        call(x)
        del kept
        return x.grad, len(seen)

    def note(x, seen):
        return x.register_hook(lambda g: seen.append(1))

    def note_behind(x, seen):
        return x.register_post_accumulate_grad_hook(lambda t: seen.append(1))

    def note_accumulation(x, seen):
        accumulator = x.view_as(x).grad_fn.next_functions[0][0]
        return accumulator, accumulator.register_hook(lambda *_: seen.append(1))

    for register in (lambda x, seen: None, note, note_behind, note_accumulation, lambda x, seen: None):
        for _ in range(2):
            assert_same(run(compiled, register), run(function, register))


def test_histories_outside():
    """What was computed outside is differentiated by torch's own engine."""

    def function(x):
        x.sin().sum().backward()

    compiled = framejit.compile(function)
    for make in (lambda w: w, lambda w: w * 2, lambda w: w):
        found = []
        for call in (compiled, function):
            w = leaf(X)
            call(make(w))
            found.append(w.grad)
        assert_same(found[0], found[1])


def test_one_tensor_for_two():
    def function(x, y):
        (x * y.detach()).sum().backward()
        return y.grad is None

    compiled = framejit.compile(function)
    for same in (False, True, False):
        found = []
        for call in (compiled, function):
            x = leaf(X)
            found.append((call(x, x if same else leaf(X + 1)), x.grad))
        assert_same(found[0], found[1])


def test_a_module_in_one_recording():
    """Statistics, parameters of several layouts and the loss: the forward and the backward are one graph."""

    def train(compile):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 2)
        ).double()

        def step(x, target):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(x), target)
            loss.backward()
            return loss

        call = compile(step)
        losses = []
        for i in range(6):
            losses.append(call(X.double() + i, torch.tensor([0, 1, 1, 0])).detach())
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(p.grad, alpha=0.1)
        return call, losses, model.state_dict(), [p.grad for p in model.parameters()]

    expected = train(lambda function: function)
    actual = train(framejit.compile)
    assert_same(actual[1:], expected[1:])
    found = reports(actual[0])
    assert all(report.graph_break is None and report.backend == "cpu" for report in found)
    assert len(found) == 2, "the first step finds no gradients, the others those of the step before"
