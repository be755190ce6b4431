"""Gradients that the program has a part in: custom Functions, hooks, torch.autograd.grad, checkpoints. One recording
has the forward and the backward; what only the real backward can know is left to torch's own autograd, which then
calls the program's code at the time when eager does."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, counting, vector
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from training_testing import reports

import framejit

case = Cases()
X = vector(4, 3, seed=1)
W = vector(3, 5, seed=2)


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


# --- custom Functions -------------------------------------------------------------------------------------------------
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


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, g):
        return g * 7


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


@case(leaf(X), native=False)
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

    def memory(function) -> tuple[int, int]:
        """In use at most, and after the forward."""
        for _ in range(2):
            function(x, w).backward()
        x.grad = w.grad = None
        in_use, most, kept = 0, 0, 0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            loss = function(x, w)
            with torch.profiler.record_function("forward is done"):
                pass
            loss.backward()
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                in_use += event.nbytes()
                most = max(most, in_use)
            elif event.name() == "forward is done":
                kept = in_use
        return most, kept

    compiled = framejit.compile(model)
    assert_same(once(compiled, (x, w)), once(model, (x, w)))
    (most, kept), (eager_most, eager_kept) = memory(compiled), memory(model)
    (report,) = reports(compiled)
    assert report.has_backward
    assert kept <= eager_kept * 1.01
    assert most <= eager_most * 1.01
