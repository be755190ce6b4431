"""Families of torch's surface in one graph each: operators with special metadata, Python values of constants, custom
Functions and classes, library wrappers."""

import operator

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import Cases, check, counting, vector
from torch.utils.checkpoint import checkpoint

import framejit

case = Cases()
X, Y = vector(4, 6, seed=1), vector(4, 6, seed=2)
IDS = torch.tensor([2, 0, 1])


@case(X)
def scans(x):
    return torch.cummax(x, 0), x.cummin(1), x.logcumsumexp(0), torch.cummax(x.t(), 1).values


@case(X)
def histograms(x):
    return torch.histogram(x, 4, range=(-2.0, 2.0))[0], torch.histogram(x, torch.tensor([-1.0, 0.0, 1.0]))[1]


@case(X)
def factorised(x):
    a, tau = torch.geqrf(x)
    return a, tau, torch.geqrf(x.t())[0]


@case(X)
def quantiles(x):
    q = torch.tensor([0.25, 0.5])
    return torch.quantile(x, 0.5), x.quantile(q, dim=0), torch.nanquantile(x, 0.3, dim=1, keepdim=True)


@case(X, torch.tensor([0.25, 0.5]))
def quantiles_at_given_places(x, q):
    return torch.quantile(x, q), torch.quantile(x, q, dim=1, keepdim=True), x.t().quantile(q, dim=0)


@case(X)
def covariances(x):
    return torch.cov(x), x.corrcoef(), torch.cov(x[0]), torch.cov(x, correction=0), x.long().cov()


@case(IDS)
def one_hot_of_a_number_of_classes(ids):
    return F.one_hot(ids, 3), F.one_hot(ids[None].t(), num_classes=5)


@case(X)
def max_pool_without_gradient(x):
    return F.max_pool1d(x, 2), F.max_pool1d(x[None], 3, stride=1, padding=1), F.max_pool1d(x, 2, ceil_mode=True)


@case(vector(5, 2, 4, seed=3))
def ctc(x):
    targets, lengths = torch.tensor([[1, 2], [2, 3]]), torch.tensor([5, 5])
    log_probs = x.log_softmax(-1)
    plain = F.ctc_loss(log_probs, targets, lengths, torch.tensor([2, 2]), reduction="none")
    return plain, F.ctc_loss(log_probs, targets, (5, 5), (2, 1), zero_infinity=True)


@case(torch.tensor(2.0), torch.tensor(3))
def spaces_between_tensors(low, high):
    return torch.linspace(low, high, 4), torch.linspace(low, 1, 3), torch.logspace(0.0, high, 3)


@case(X)
def results_written_to_memory_given(x):
    values, indices = torch.zeros(4), torch.zeros(4, dtype=torch.long)
    torch.mode(x, 1, out=(values, indices))
    return values, indices


@case(X, Y)
def every_operator_function(x, y):
    a, b = x.clone(), (x.long() + 9).clamp(1)
    a = operator.imod(a, 3)
    a = operator.ipow(a, 2)
    a = operator.ifloordiv(a, 2)
    b = operator.ior(operator.iand(operator.ixor(b, 5), 14), 1)
    b = operator.irshift(operator.ilshift(b, 2), 1)
    return operator.abs(a), operator.inv(b), operator.imatmul(x.clone(), y.t())


@case(X)
def lists_as_index_of_the_method(x):
    y = x.clone()
    torch.Tensor.__setitem__(y, ([0, 1], [1, 2]), 5.0)
    return torch.Tensor.__getitem__(x, [1, 2]), y


# --- Python values of what depends on constants alone ---------------------------------------------------------------


@case(X, cpu=True)
def numbers_of_constants(x):
    steps = torch.linspace(0, 1, 3).tolist()
    sizes = torch.tensor([x.shape[0], 2])
    total = sizes.prod()
    return x * torch.tensor(3.0).item(), [x + step for step in steps], x.reshape(total.item(), 3), int(total)


@case(X, cpu=True)
def decisions_on_constants(x):
    mask = torch.ones(3, dtype=torch.bool)
    mask[1] = False
    if mask.all() or not mask.any():
        return x
    return x + 1 if torch.equal(torch.arange(2), torch.tensor([0, 1])) else x - 1


@case(X, cpu=True)
def constants_written_in_between(x):
    count = torch.zeros((), dtype=torch.long)
    seen = []
    for _ in range(3):
        count += 2
        seen.append(count.item())
    view = torch.zeros(4)
    view[1:3].add_(1)
    return x * seen[-1], seen, view.tolist()


@case(X, cpu=True)
def an_index_made_of_constants(x):
    return x[torch.tensor(1)], x[torch.arange(4).max()]


@case(X, graphs=2, breaks=1)
def a_number_of_data(x):
    return x * x.sum().round().item()


@case(X, graphs=2, breaks=1)
def a_number_of_random_numbers(x):
    return x * torch.randint(1, 5, ()).item()


# --- library code -----------------------------------------------------------------------------------------------------


@case(X)
def shapes_of_broadcasting(x):
    shape = torch.broadcast_shapes(x.shape, (3, 1, 1))
    return x.expand(shape), torch.broadcast_shapes((2, 1), (1, 3))


@case(X)
def new_tensors(x):
    return x.new_tensor([1.0, 2.0]), x.double().new_tensor([[1], [2]]), x.new_tensor([1, 2], dtype=torch.int32)


@case(X)
def masked_functions(x):
    return torch.masked.sum(x), torch.masked.softmax(x, 1, mask=x > 0), torch.masked.mean(x, 0, mask=x > 0)


@case(X, Y)
def einsum_of_three(x, y):
    return torch.einsum("ij,kj,kl->il", x, y, y)


@case(X, Y)
def functions_that_torch_wraps_in_python(x, y):
    """Their names in `torch` mean Python functions that take other arguments than the C functions in them."""
    return (
        F.mse_loss(x, y[0], reduction="none"), torch.broadcast_tensors(x, y[:1]), torch.cdist(x, y), F.l1_loss(x, y),
        torch.stft(x.view(-1), 8, return_complex=True, window=torch.ones(8)), torch.norm(x), torch.norm(x, 1, dim=0),
        torch.block_diag(x, y), torch.linalg.multi_dot([x, y.t(), x]), torch.meshgrid(x[0], y[0], indexing="ij"),
        torch.tensordot(x, y, 2), torch.atleast_1d(x[0, 0]), torch.atleast_3d(x, y), torch.cartesian_prod(x[0], y[0]),
        torch.split(x, 2), x.split([1, 3]), torch.norm(x, "fro", dim=(0, 1)), torch.cdist(x, y, p=1.0),
        F.huber_loss(x, y), F.smooth_l1_loss(x, y), torch.atleast_2d(x[0]), torch.einsum("ij,kj", x, y),
    )  # fmt: skip


@case(X, grad=True)
def checkpointed(x):
    with torch.no_grad():
        return checkpoint(lambda t, scale: t.sin() * scale, x, scale=2.0, use_reentrant=False) + 1


# --- custom Functions and classes -------------------------------------------------------------------------------------


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale=1.0):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x * x * scale

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * grad * ctx.scale, None  # not the derivative: tells whose backward ran


class SquareWithContext(torch.autograd.Function):
    @staticmethod
    def forward(x, scale):
        return x * x * scale, x + scale

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.set_materialize_grads(False)


@case(X)
def custom_functions(x):
    return Square.apply(x), Square.apply(x + 1, 2.0) + 1, SquareWithContext.apply(x, 3.0)


@case(X, grad=True)
def custom_functions_of_what_needs_no_gradient(x):
    return Square.apply(x)


WEIGHT = torch.nn.Parameter(vector(4, 6, seed=4))


class ReadsParameter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * WEIGHT


@case(X, grad=True)
def a_custom_function_computes_without_gradients(x):
    return ReadsParameter.apply(x) + 1


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        raise ValueError(f"no {x.dim()} dimensions")


@case(X, grad=True)
def gradients_go_on_behind_a_custom_function_that_raises(x):
    try:
        return Raises.apply(x)
    except ValueError as error:
        return x * WEIGHT, torch.is_grad_enabled(), str(error)


@case(X)
def a_class_of_the_function(x):
    class Scale(torch.nn.Module):
        """Doubles."""

        def forward(self, x):
            return self.twice(x) + self.size

        @staticmethod
        def twice(x):
            return x * 2

        @property
        def size(self):
            return 3

    return Scale()(x)


@case(X)
def a_custom_function_of_the_function(x):
    power = 1 + 2

    class Power(torch.autograd.Function):
        scale = power * 2

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**power * Power.scale

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Power.apply(x), Power.__name__, issubclass(Power, torch.autograd.Function)


@pytest.mark.parametrize(*case.table)
def test_families(function, args, expectations):
    check(function, *args, **expectations)


def test_the_backward_of_a_custom_function_is_the_programs():
    def function(x):
        return Square.apply(x * 2).sum()

    x = X.clone().requires_grad_()
    compiled, _ = counting(function)
    (expected,) = torch.autograd.grad(function(x), x)
    for _ in range(3):
        (actual,) = torch.autograd.grad(compiled(x), x)
        assert torch.equal(actual, expected)


def test_a_class_made_by_the_function_is_another_one_each_time():
    def function(x):
        class Holder:
            def get(self):
                return 1

        return Holder, x + Holder().get()

    compiled = framejit.compile(function)
    classes = [compiled(X)[0] for _ in range(3)]
    assert len(set(classes)) == 3
    assert torch.equal(compiled(X)[1], X + 1)


def test_gradients_through_a_checkpoint():
    def function(x):
        return checkpoint(lambda t: t.sin() * t, x, use_reentrant=False).sum()

    compiled, backend = counting(function)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(x), x)
    for _ in range(3):
        (actual,) = torch.autograd.grad(compiled(x), x)
        assert torch.allclose(actual, expected)
    assert backend.count == 2  # the inside of the checkpoint, which the backward computes again, and the sum


def test_what_an_exception_said_is_in_the_report():
    def function(x):
        raise ValueError("too " + "bad")

    with pytest.raises(ValueError, match="too bad"):
        framejit.compile(function)(X)
