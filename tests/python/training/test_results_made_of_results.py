"""Results that are made of other results of the same call: hooks on them, their retained gradients and gradients with
respect to them are eager's, whatever the compiled backward computes at once."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import Cube, leaf
from torch import nn
from training_testing import memory, reports

import framejit

case = Cases()
X = vector(4, 6, seed=1)
W = vector(4, 6, seed=2)


@case(leaf(X), leaf(W))
def chain(a, b):
    c = a.sin() * b
    d = c.exp()
    return c, d, (d * b).sum()


@case(leaf(X), leaf(W))
def shared_trunk(a, b):
    trunk = (a * b).tanh()
    first = trunk * 2
    return first, (trunk + first).sin(), trunk.cos()


@case(leaf(X), leaf(W))
def features_and_loss(a, b):
    features = a @ b.t()
    return features, features.log_softmax(-1).square().mean()


@case(leaf(X), leaf(W))
def past_a_result(a, b):
    c = a.sin()
    return c, (c * a + b).sum()


@case(leaf(X), leaf(W))
def of_another_leaf(a, b):
    c = b * 2
    return a.tanh(), c, c.t().t(), c * b


@case(leaf(X), leaf(W))
def not_in_order(a, b):
    c = a.sin()
    d = c * b
    return d.sum(), c, d


@case(leaf(X), leaf(W))
def independent(a, b):
    return a.sin(), b.cos(), (a * b).exp()


@case(leaf(X), leaf(W))
def of_a_view_of_an_input(a, b):
    c = a[1:]
    return c, (c * c).sum(), b.sin()


@case(leaf(X), leaf(W))
def of_chunks(a, b):
    first, second = (a * b).chunk(2)
    return first, second, (first * second).sin()


@case(leaf(X), leaf(W))
def of_one_chunk(a, b):
    first, second = (a * b).chunk(2)
    return second, (first * second).sin()


@case(leaf(X), leaf(W))
def of_a_view_and_its_base(a, b):
    base = a * b
    view = base.view(24)
    return view, base, (view[3:].sum() * base).sin()


@case(leaf(X), leaf(W))
def of_several_results_of_an_operator(a, b):
    values, indices = (a * b).max(1)
    deviation, mean = torch.std_mean(a, 1)
    return values, indices, deviation, (mean * deviation * values).sum()


@case(leaf(X), leaf(W))
def of_dropout(a, b):
    c = nn.functional.dropout(a, 0.5) * b
    return c, nn.functional.dropout(c, 0.3).sum()


@case(leaf(X), leaf(W))
def of_a_custom_function(a, b):
    c = Cube.apply(a, 2.0)
    return c, (c * b).sum()


@case(leaf(X), leaf(W), native=False)
def past_a_custom_function(a, b):
    trunk = Cube.apply(a, 2.0)
    c = trunk * b
    return c, (c * trunk).sum()


def results_of(function, args):
    args = copy.deepcopy(args)
    torch.manual_seed(0)
    return args, function(*args)


def live(results):
    return [i for i, t in enumerate(results) if t.requires_grad]


def gradients_of_each(function, args, **options):
    """Of each result, for each result and input."""
    count = len(function(*copy.deepcopy(args)))
    found = []
    for i in range(count):
        inputs, results = results_of(function, args)
        if not results[i].requires_grad:
            continue
        targets = [*(results[k] for k in live(results)), *inputs]
        tangent = torch.linspace(-1, 2, results[i].numel()).reshape(results[i].shape)
        try:
            first = torch.autograd.grad(results[i], targets, tangent, allow_unused=True, **options)
        except RuntimeError as error:
            first = str(error)
        found.append(first)
        if not options or isinstance(first, str):
            continue
        total = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
        if torch.is_tensor(total):
            found.append(torch.autograd.grad(total, inputs, allow_unused=True))
    return found


def with_hooks(function, args, leaves=True, retained=False, scaled=False):
    """Which hooks run in which order, what they see, and what comes of what they give."""
    inputs, results = results_of(function, args)
    seen = []

    def note(name):
        def hook(gradient):
            seen.append((name, gradient.clone()))
            return gradient * 3 if scaled else None

        return hook

    for i in live(results):
        if retained:
            results[i].retain_grad()
        results[i].register_hook(note(f"result {i}"))
    for i, tensor in enumerate(inputs if leaves else []):
        tensor.register_hook(note(f"input {i}"))
    last = live(results)[-1]
    sum((i + 1) * results[i].sum() for i in live(results)).backward(retain_graph=True)
    names = [name for name, _ in seen if leaves is False or name.startswith("result")]
    results[last].sum().backward()
    return names, sorted(seen, key=lambda item: item[0]), [t.grad for t in inputs], [
        results[i].grad if retained else None for i in live(results)
    ]  # fmt: skip


def twice(function, args):
    """A backward up to a result frees what it ran and nothing else."""
    inputs, results = results_of(function, args)
    first, last = live(results)[0], live(results)[-1]
    found = []
    for run in (
        lambda: torch.autograd.grad(results[last].sum(), results[first], allow_unused=True),
        lambda: torch.autograd.grad(results[first].sum(), inputs, allow_unused=True),
        lambda: results[last].sum().backward(),
    ):
        try:
            found.append(run())
        except RuntimeError as error:
            found.append(str(error)[:60])
    return found, [t.grad for t in inputs]


def of_one_leaf_twice(function, args):
    """What a backward for one leaf does not run is freed by nobody, the rest is."""
    inputs, results = results_of(function, args)
    found = []
    for _ in range(2):
        try:
            sum(results[i].sum() for i in live(results)).backward(inputs=inputs[:1])
        except RuntimeError as error:
            found.append(str(error)[:60])
        found.append([t.grad if t.grad is None else t.grad.clone() for t in inputs])
    return found


def up_to_what_was_freed(function, args):
    """Between two results nothing was freed by a backward of the first."""
    inputs, results = results_of(function, args)
    first, last = live(results)[0], live(results)[-1]
    results[first].sum().backward()
    found = []
    for _ in range(2):
        try:
            found.append(torch.autograd.grad(results[last].sum(), results[first], allow_unused=True))
        except RuntimeError as error:
            found.append(str(error)[:60])
    return found, [t.grad for t in inputs]


SCENARIOS = {
    "up to what was freed": up_to_what_was_freed,
    "of one leaf twice": of_one_leaf_twice,
    "gradients": gradients_of_each,
    "differentiable": lambda f, a: gradients_of_each(f, a, create_graph=True),
    "kept": lambda f, a: gradients_of_each(f, a, retain_graph=True),
    "hooks": lambda f, a: with_hooks(f, a, leaves=False),
    "hooks that scale": lambda f, a: with_hooks(f, a, scaled=True),
    "retained": lambda f, a: with_hooks(f, a, retained=True),
    "twice": twice,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(*case.table)
def test_results_made_of_results(function, args, expectations, scenario):
    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(SCENARIOS[scenario](compiled, args), SCENARIOS[scenario](function, args))
    (report,) = reports(compiled)
    assert report.graph_break is None and report.captured
    assert report.has_backward == expectations.get("native", True), report.backend


def test_leaves_that_a_backward_does_not_reach_are_left_alone():
    """Their hooks do not run."""

    def function(a, b):
        return a.sin(), b.cos(), a * b

    def run(call, used):
        leaves, seen = [leaf(X), leaf(W)], []
        for i, tensor in enumerate(leaves):
            tensor.register_hook(lambda g, i=i: seen.append((i, g.clone())))
            tensor.register_post_accumulate_grad_hook(lambda t, i=i: seen.append((i, t.grad.clone())))
        call(*leaves)[used].sum().backward()
        return seen, [t.grad for t in leaves]

    compiled = framejit.compile(function)
    for used in (0, 1, 2, 0):
        assert_same(run(compiled, used), run(function, used))


def test_one_backward_computes_all_where_nobody_looks():
    """The trunk of several heads is differentiated once."""

    def function(a, b):
        trunk = (a * b).tanh()
        return trunk.sin(), trunk.cos()

    compiled = framejit.compile(function)
    for _ in range(3):
        a, b = leaf(X), leaf(W)
        first, second = compiled(a, b)
        (first.sum() + second.sum()).backward()
    assert reports(compiled)[0].description.splitlines().count("backward:") == 1


def test_module_backward_hooks():
    """Registered on a module inside: they see the gradients of its result, whatever else is made of that."""

    def train(compile):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        seen = []
        model[1].register_full_backward_hook(lambda m, g_in, g_out: seen.append((g_in[0].clone(), g_out[0].clone())))
        call = compile(model)
        for i in range(3):
            x = leaf(vector(4, 6, seed=i))
            out = call(x)
            out.register_hook(lambda g: seen.append(g.clone()))
            out.square().sum().backward()
            seen.append(x.grad)
        return seen, [p.grad for p in model.parameters()]

    assert_same(train(framejit.compile), train(lambda model: model))


def test_backwards_in_threads_that_look():
    """Two at a time over one graph."""
    import threading

    compiled = framejit.compile(chain)

    def run(call):
        a, b = leaf(X), leaf(W)
        c, d, loss = call(a, b)
        c.register_hook(lambda g: g * 2)
        threads = [threading.Thread(target=loss.backward, kwargs={"retain_graph": True}) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return a.grad, b.grad

    assert_same(run(compiled), run(chain))


def test_memory_of_a_loss_and_what_it_is_made_of():
    """No more is in use than in eager mode, although results are saved for each other."""
    layers = [nn.Linear(128, 128) for _ in range(4)]

    def function(a):
        for layer in layers:
            a = layer(a).tanh()
        return (a * a).sum(), a

    compiled = framejit.compile(function)
    of_loss = lambda call: lambda a: call(a)[0]  # noqa: E731
    (most, kept), (eager_most, eager_kept) = (
        memory(of_loss(call), (leaf(vector(512, 128)),)) for call in (compiled, function)
    )
    assert kept <= eager_kept * 1.01 and most <= eager_most * 1.01
