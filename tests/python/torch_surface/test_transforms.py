"""torch.func: what a transform comes to is one graph, also at torch level."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import Cases, check, counting, vector
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp, vmap

import framejit

pytestmark = pytest.mark.cpu  # another default device is a function mode, under which transforms break
case = Cases()
X, Y = vector(4, 6, seed=1), vector(4, 6, seed=2)
LAYER = torch.nn.Linear(6, 3)


def cube(x):
    return (x**3).sum()


@case(X)
def over_rows(x):
    return vmap(lambda row: row.sum() * row)(x) + 1


@case(X, Y)
def over_given_dimensions(x, y):
    return vmap(torch.dot, in_dims=1)(x, y), vmap(torch.add, in_dims=(0, None), out_dims=1)(x, y[0])


@case(X)
def nested_maps(x):
    return vmap(vmap(torch.sin))(x), vmap(lambda row: vmap(lambda v: v * 2 + row.sum())(row))(x)


@case(X)
def maps_over_structures(x):
    return vmap(lambda d: {"sum": d["a"] + d["b"], "first": d["a"]})({"a": x, "b": x * 2})


@case(X, Y)
def maps_read_what_is_around_them(x, y):
    scale = y.mean()
    return vmap(lambda row: F.softmax(row * scale, -1))(x)


@case(X)
def gradients(x):
    return grad(cube)(x), grad_and_value(lambda t: t.sin().sum())(x), grad(lambda a, b: (a * b).sum(), argnums=1)(x, x)


@case(X)
def second_gradients(x):
    return vmap(grad(grad(lambda v: v.sin())))(x[0])


@case(X, Y)
def forward_derivatives(x, y):
    return jvp(torch.sin, (x,), (y,))


@case(X)
def modules_with_other_parameters(x):
    weights = {"weight": torch.ones(3, 6), "bias": torch.zeros(3)}
    return functional_call(LAYER, weights, (x,))


@case(X)
def lists_of_results(x):
    return vmap(lambda row: sum(part.sin() for part in row.split(2)) + row.unbind()[0])(x), vmap(torch.max)(x)


@case(X)
def writes(x):
    return vmap(lambda row: row.clone().add_(1).mul_(2).sum())(x) * 2


@case(X)
def jacobians(x):
    return jacrev(torch.sin)(x[0]), jacfwd(lambda v: v**2)(x[0]), hessian(lambda v: (v**3).sum())(x[0])


@case(X, Y)
def gradients_per_sample(x, y):
    weights = {"weight": LAYER.weight.detach(), "bias": LAYER.bias.detach()}

    def loss(weights, row, target):
        return F.mse_loss(functional_call(LAYER, weights, (row[None],)), target[None, :3])

    return vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y)


@case(X)
def random_numbers(x):
    return vmap(lambda row: F.dropout(row, 0.5), randomness="different")(x), torch.rand(2)


@case(X)
def pull_backs(x):
    value, pull_back = vjp(lambda t: t.sin() * 2, x)
    return value, pull_back(torch.ones_like(x)), pull_back(value)


@case(X, Y, grad=True)
def pull_backs_of_several(x, y):
    (a, b), pull_back = vjp(lambda s, t: (s @ t.T, (s * t).sum()), x, y)
    return a, b, pull_back((torch.ones_like(a), torch.ones_like(b)))


@case(X)
def pull_backs_of_structures(x):
    value, pull_back, extra = vjp(lambda d: ({"out": d["a"].exp()}, d["a"].sum()), {"a": x}, has_aux=True)
    return value, pull_back({"out": x}), extra


@case(X)
def pull_backs_of_modules(x):
    weights = dict(LAYER.named_parameters())
    value, pull_back = vjp(lambda w: functional_call(LAYER, w, (x,)), weights)
    return value, pull_back(torch.ones_like(value))


@case(X)
def mapped_pull_backs(x):
    _, pull_back = vjp(lambda t: t.sin() * t.sum(), x[0])
    return vmap(pull_back)(torch.eye(6))[0], jacrev(lambda t: t.sin() * t.sum())(x[0])


@case(X, Y)
def pull_backs_in_a_map(x, y):
    return vmap(lambda row, tangent: vjp(torch.tanh, row)[1](tangent)[0])(x, y)


@case(X, Y)
def products_with_a_hessian(x, y):
    _, pull_back = vjp(grad(cube), x)
    return pull_back(y)[0], jvp(grad(cube), (x,), (y,))[1]


@case(X)
def a_pull_back_that_is_not_called(x):
    value, pull_back = vjp(torch.sin, x)
    return value + 1


@pytest.mark.parametrize(*case.table)
def test_transforms(function, args, expectations):
    check(function, *args, **expectations)


mapped = vmap(lambda row: row * 2)


def test_a_transform_from_outside():
    def function(x):
        return mapped(x) + 1

    check(function, X)


def test_gradients_flow_through_a_transform():
    def function(x, w):
        return (vmap(lambda row: (row @ w).tanh())(x) ** 2).sum()

    native = framejit.compile(function, fullgraph=True)
    python, backend = counting(function)
    for compiled in (native, python):
        for _ in range(3):
            x, w = X.clone().requires_grad_(), Y.t().clone().requires_grad_()
            expected = torch.autograd.grad(function(x, w), (x, w))
            for actual, wanted in zip(torch.autograd.grad(compiled(x, w), (x, w)), expected, strict=True):
                assert torch.allclose(actual, wanted, atol=1e-6)
    assert backend.count == 1


def test_a_pull_back_leaves_the_function():
    def function(x):
        y = x * 2
        value, pull_back = vjp(torch.sin, y)
        return value + 1, pull_back

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            value, pull_back = target(X)
            assert torch.equal(value, (X * 2).sin() + 1)
            assert torch.allclose(pull_back(torch.ones_like(X))[0], (X * 2).cos())
    assert torch._C._functorch.maybe_current_level() is None


def test_a_pull_back_from_outside():
    _, pull_back = vjp(torch.sin, X)

    def function(x):
        return pull_back(x * 2)[0] + 1

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            assert torch.allclose(target(Y), X.cos() * Y * 2 + 1)


def test_a_pull_back_is_alive_at_a_break():
    def function(x):
        value, pull_back = vjp(lambda t: t.sin() * 2, x)
        framejit.graph_break()
        return value, pull_back(torch.ones_like(x))

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            value, (gradient,) = target(X)
            assert torch.equal(value, X.sin() * 2) and torch.allclose(gradient, X.cos() * 2)
    assert torch._C._functorch.maybe_current_level() is None


def test_gradients_through_a_pull_back():
    def function(x, w):
        value, pull_back = vjp(lambda t: (t * w).sin(), x)
        (gradient,) = pull_back(value)
        return (gradient**2).sum()

    native = framejit.compile(function, fullgraph=True)
    python, backend = counting(function)
    for compiled in (native, python):
        for _ in range(3):
            x, w = X.clone().requires_grad_(), Y.clone().requires_grad_()
            expected = torch.autograd.grad(function(x, w), (x, w))
            for actual, wanted in zip(torch.autograd.grad(compiled(x, w), (x, w)), expected, strict=True):
                assert torch.allclose(actual, wanted, atol=1e-5)
    assert backend.count == 1 and not backend.errors


def test_a_pull_back_of_other_results():
    def function(x):
        _, pull_back = vjp(torch.sin, x)
        return pull_back((x, x))

    for target in (function, framejit.compile(function)):
        with pytest.raises(RuntimeError, match="Expected pytree structure of cotangents"):
            target(X)


def test_a_break_inside_of_a_transform():
    @framejit.disable
    def outside(x):
        return x * 3

    def function(x):
        y = x.sin()
        return vmap(lambda row: outside(row) + 1)(y) * 2

    compiled, _ = counting(function)
    for _ in range(3):
        assert torch.equal(compiled(X), function(X))
    assert torch._C._functorch.maybe_current_level() is None


def test_an_error_inside_of_a_transform():
    def function(x):
        return vmap(lambda row: row.view(5))(x)

    with pytest.raises(RuntimeError):
        framejit.compile(function)(X)
    assert torch._C._functorch.maybe_current_level() is None
