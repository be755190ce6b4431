"""Versions: what the program's writes make of those of results, and which writes behind a call a backward notices."""

import pytest
import torch
from framejit_testing import Cases, assert_same, vector
from gradients_testing import leaf
from training_testing import reports

import framejit

case = Cases()
X, W = vector(4, 6, seed=1), vector(4, 6, seed=2)
INDEX = torch.tensor([[0, 1, 2, 3, 0, 1], [1, 1, 1, 2, 2, 2]])


@case(X)
def written_once(a):
    return a.sin().mul_(2)


@case(X)
def written_often(a):
    b = a.sin()
    b.add_(1)
    b[0] = 2
    b[1:].zero_()
    return b, b[0], a.cos()


@case(X)
def zeros_filled(a):
    b = torch.zeros(3)
    b[0] = a.sum()
    c = torch.empty(2).fill_(1)
    return b, c, torch.ones(2)


@case(X)
def through_data(a):
    b = a.exp()
    b.data.add_(1)
    b.detach().mul_(2)
    return b


@case(leaf(X), leaf(W))
def saved_and_written_before(a, b):
    c = (a * b).relu_()
    d = a.sin().mul_(3)
    return c, d, (c * d).sum()


@case(leaf(X))
def written_under_no_grad(a):
    b = a * 2
    with torch.no_grad():
        b.add_(1)
    return b, b.sum()


@case(leaf(X))
def of_a_view(a):
    b = (a * 2).t()
    b.mul_(3)
    return b


def versions_of(results):
    return [t._version for t in (results if isinstance(results, (tuple, list)) else [results])]


def results_of(call, args):
    args = [a.detach().clone().requires_grad_(a.requires_grad) for a in args]
    results = call(*args)
    found = versions_of(results)
    gradients = None
    live = [t for t in (results if isinstance(results, tuple) else [results]) if t.requires_grad]
    if live:
        gradients = torch.autograd.grad(sum(t.sum() for t in live), args, retain_graph=True, allow_unused=True)
    for result in results if isinstance(results, tuple) else [results]:
        with torch.no_grad():
            result.add_(1)
    return results, found, versions_of(results), gradients, [a._version for a in args]


@pytest.mark.parametrize(*case.table)
def test_versions_of_results(function, args, expectations):
    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(results_of(compiled, args), results_of(function, args))
    (report,) = reports(compiled)
    assert report.graph_break is None and report.captured


def test_versions_behind_a_break():
    def function(a):
        b = a.sin()
        b.add_(1)
        print(end="")
        b.mul_(2)
        return b

    compiled = framejit.compile(function)
    for _ in range(3):
        assert compiled(X)._version == function(X)._version


sizes = Cases()
I2 = vector(2, 6).clone()


@sizes(leaf(X))
def gathered(a):
    return a.gather(0, INDEX)


@sizes(leaf(X))
def gathered_of_a_result(a):
    b = a * 2
    return b, b.gather(0, INDEX)


@sizes(leaf(X), leaf(I2))
def scattered(a, b):
    return a.scatter(0, INDEX, b)


@sizes(leaf(X))
def selected(a):
    return a.index_select(1, INDEX[0, :3])


@sizes(leaf(X))
def cumulated(a):
    return a.cumprod(0).sum(), a.cumsum(1)


@sizes(leaf(X))
def sorted_values(a):
    return a.sort(1)[0], a.topk(2)[0], a.kthvalue(2)[0]


@sizes(leaf(X))
def of_sizes_alone(a):
    return a.sum(0), a.expand(2, 4, 6), a[:, 1:], a.reshape(24), a.mean()


@sizes(leaf(X), leaf(W))
def complex_parts(a, b):
    c = torch.complex(a, b)
    return c.real * 2, c.abs(), c.angle(), torch.view_as_real(c * c).sum()


@sizes(leaf(X), leaf(W))
def polar(a, b):
    return torch.polar(a, b).abs(), torch.view_as_complex(torch.stack([a, b], -1)).conj().imag.exp()


@sizes(leaf(X))
def fourier(a):
    return torch.fft.rfft(a).abs(), torch.fft.irfft(torch.fft.rfft(a)), torch.fft.fft(a).real.sum()


@sizes(leaf(X))
def padded(a):
    return torch.nn.functional.pad(a[None], (1, 2), mode="reflect"), a.roll(1, 0), a.unfold(0, 2, 1)


@sizes(leaf(X))
def pooled(a):
    pooled = torch.nn.functional.max_pool1d(a[None], 2)
    return (
        torch.nn.functional.avg_pool1d(a[None], 2),
        pooled,
        torch.nn.functional.interpolate(a[None, None], scale_factor=2),
    )


@sizes(leaf(X))
def reduced(a):
    return a.prod(), a.var(), a.norm(), a.amax(0), a.max(0)[0], a.logsumexp(1), a.median()


@sizes(leaf(X), leaf(W))
def masked(a, b):
    return a.masked_fill(a > 0, 0.5), torch.where(a > 0, a, b), a.clamp(-0.5, 0.5)


@sizes(leaf(X), leaf(W))
def matrices(a, b):
    return a @ b.t(), torch.cdist(a, b), torch.addmm(a, a, b.t() @ a), torch.linalg.norm(a), torch.outer(a[0], b[0])


@sizes(leaf(X), leaf(W))
def losses(a, b):
    f = torch.nn.functional
    return f.mse_loss(a, b), f.cross_entropy(a, torch.tensor([0, 1, 2, 3])), f.smooth_l1_loss(a, b), f.kl_div(a, b)


def after_write(call, args, index, which):
    """What a backward of one result says after input `which` (or a result, behind the inputs) was written."""
    args = [a.detach().clone().requires_grad_() for a in args]
    results = call(*args)
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    if index >= len(results) or not results[index].requires_grad:
        return None
    target = [*args, *results][which] if which < len(args) + len(results) else None
    if target is None:
        return None
    tangent = torch.ones_like(results[index])
    try:
        with torch.no_grad():
            target.mul_(1)
    except RuntimeError as error:
        return "write", str(error)[:60]
    try:
        found = torch.autograd.grad(results[index], args, tangent, allow_unused=True)
    except RuntimeError as error:
        return "backward", str(error)[:60]
    return found


@pytest.mark.parametrize(*sizes.table)
def test_writes_that_a_backward_notices(function, args, expectations):
    compiled = framejit.compile(function)
    for index in range(7):
        for which in range(9):
            expected = after_write(function, args, index, which)
            if expected is None:
                continue
            actual = after_write(compiled, args, index, which)
            assert_same(actual, expected, f"result {index}, write to {which}")
    (report,) = reports(compiled)
    assert report.graph_break is None and report.captured


def written_through_data(a, b):
    c = a * 2
    b.data.add_(1)
    return b, c


def written_through_data_and_itself(a, b):
    b.add_(1)
    a.data.mul_(2)
    return b, a * 2


def written_through_data_of_data(a, b):
    c = b.data
    c.add_(1)
    return c, b, a + 1


@pytest.mark.parametrize(
    "function", [written_through_data, written_through_data_and_itself, written_through_data_of_data]
)
def test_data_of_inputs_that_share_memory(function):
    """What is written through `.data` is in none of the inputs' versions."""

    def run(call, looked):
        a = vector(3, 4, seed=1)
        b = looked(a)
        results = call(a, b)
        return results, a, b, [t._version for t in (*results, a, b)]

    for looked in (lambda a: a[...], lambda a: a[1:], lambda a: a.data):
        compiled = framejit.compile(function)
        for _ in range(3):
            assert_same(run(compiled, looked), run(function, looked))
        (report,) = reports(compiled)
        assert report.graph_break is None


def linear(a, b):
    return a * 2 + b.exp()


def product(a, b):
    return a * b


def squared(a, b):
    return (a * 2).square() + b


@pytest.mark.parametrize("function,position", [(linear, 0), (product, 0), (product, 1), (squared, 1)])
def test_inputs_that_are_written_before_a_backward_is_differentiated(function, position):
    """What no operator saved may have changed."""

    def run(call):
        leaves = leaf(X), leaf(W)
        inputs = [t * 1 for t in leaves]
        result = call(*inputs)
        inputs[position].mul_(2)
        try:
            first = torch.autograd.grad(result.square().sum(), leaves, create_graph=True)
            return first, torch.autograd.grad(sum(g.sum() for g in first), leaves)
        except RuntimeError as error:
            return str(error).partition(" [")[0]

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled), run(function))
    (report,) = reports(compiled)
    assert report.has_backward


def quotient(a, b):
    return a / b.abs()


def activated(a, b):
    return (a * 2).relu() * (b + 1).sigmoid()


def several(a, b):
    c = b.abs()
    return a / c, (a * c).tanh()


@pytest.mark.parametrize("function", [quotient, activated, several], ids=lambda f: f.__name__)
@pytest.mark.parametrize("wanted", [[0], [1], [0, 1]], ids=str)
@pytest.mark.parametrize("position", [0, 1])
def test_writes_that_the_gradients_asked_for_do_not_notice(function, wanted, position):
    """What is computed again for one gradient alone must not need what only the nodes of another one saved."""

    def run(call):
        leaves = leaf(X), leaf(W)
        results = call(*leaves)
        with torch.no_grad():
            leaves[position].mul_(2)
        total = sum(r.sum() for r in (results if isinstance(results, tuple) else (results,)))
        try:
            total.backward(inputs=[leaves[i] for i in wanted])
        except RuntimeError as error:
            return str(error).partition(" [")[0]
        return [t.grad for t in leaves]

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(run(compiled), run(function))
    (report,) = reports(compiled)
    assert report.has_backward
