"""Tensor operators, methods, attributes, indexing, in-place writes, factories and dtypes."""

import math
import operator

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(4, 6, seed=1), vector(4, 6, seed=2)
IDS = torch.tensor([2, 0, 1])


@case(X, Y)
def arithmetic(x, y):
    return x + y, x - y, x * y, x / (y.abs() + 1), -x, abs(x), x**2, 2**x, 1 - x, 3 / (x.abs() + 1), x % 2, x // 1


@case(X)
def numbers_alone(x):
    return torch.div(7, 2, rounding_mode="trunc") + x, torch.add(1.5, 2), torch.mul(3, True)


@case(X, Y)
def comparisons(x, y):
    return x < y, x <= 0, x == y, x != 1, x > y, ~(x >= y), (x > 0) & (y > 0) | (x < -1)


@case(X, Y)
def matrix_products(x, y):
    return x @ y.T, torch.matmul(x, y.t()), torch.einsum("ij,kj->ik", x, y), x.mm(y.mT), torch.bmm(x[None], y.mT[None])


@case(X)
def pointwise_functions(x):
    p = x.abs() + 0.5
    return (
        x.sin(),
        x.cos(),
        x.exp(),
        p.log(),
        p.sqrt(),
        p.rsqrt(),
        x.tanh(),
        x.sigmoid(),
        x.relu(),
        torch.erf(x),
        x.clamp(-1, 1),
    )


@case(X)
def reductions(x):
    return x.sum(), x.mean(-1), x.amax(0), x.var(1), x.std(), x.prod(1), x.argmax(1), x.norm(), x.all(), (x > 0).any(0)


@case(X)
def row_functions(x):
    return x.softmax(-1), x.log_softmax(0), x.cumsum(1), torch.logsumexp(x, 1), x.sort(1)[0], x.topk(2)[0]


@case(X)
def shape_changes(x):
    return (
        x.view(6, 4),
        x.reshape(-1),
        x.t(),
        x.permute(1, 0),
        x.unsqueeze(0),
        x.unflatten(1, (2, 3)),
        x[None].squeeze(0),
    )


@case(X)
def splits(x):
    a, b = x.chunk(2)
    first, rest = x.split([1, 3])
    return a + b, first, rest, torch.cat([a, b], 1), torch.stack([a, b]), *x.unbind(0)


@case(X, IDS)
def indexing(x, ids):
    return x[0], x[1:3, ::2], x[..., -1], x[:, None], x[ids], x[ids, 1], x.gather(1, ids[None]), x.index_select(0, ids)


@case(X)
def attributes(x):
    return x.shape[0] * x, x.ndim, x.dtype, x.device, x.is_contiguous(), x.size(-1), len(x), x.T, x.mT, x.is_cuda


@case(X)
def sizes_as_numbers(x):
    batch, width = x.shape
    return x.view(batch, 2, width // 2) / math.sqrt(x.size(1))


@case(X)
def iterates_tensor(x):
    return sum(row * i for i, row in enumerate(x))


@case(X)
def factories(x):
    n = x.shape[1]
    return (
        x + torch.zeros(n),
        x * torch.ones_like(x),
        torch.arange(n) + 1,
        torch.full((2,), 3.0) * 2,
        x.new_zeros(2),
        torch.eye(2),
    )


@case(X)
def constants(x):
    return x + torch.tensor(2.0), x * torch.tensor([1.0] * 6), torch.tensor([1, 2]) + 1


@case(X)
def type_changes(x):
    return (
        x.double(),
        x.half(),
        x.to(torch.bfloat16),
        x.int(),
        x.bool(),
        x.float() is x,
        x.type(torch.float64),
        x.long() + 1.5,
    )


@case(X, Y)
def where_and_masks(x, y):
    return torch.where(x > 0, x, y), x.masked_fill(y > 0, 0.0), torch.triu(x), torch.maximum(x, y)


@case(X, Y)
def operator_module(x, y):
    return operator.add(x, y), operator.matmul(x, y.t()), operator.neg(x), operator.getitem(x, 0)


@case(X, Y)
def in_place_on_argument(x, y):
    x.add_(y)
    x.mul_(2)
    return x


@case(X, Y)
def in_place_operator(x, y):
    x += y
    x[0] = 1
    x[1:3] *= 2
    return x.sum()


@case(X)
def in_place_on_view_of_argument(x):
    x[0].fill_(7)
    return x * 1


@case(X)
def in_place_on_local(x):
    y = x.clone()
    y[:, 0] = 5
    y.t()[1].zero_()
    return y


@case(X, Y)
def out_argument(x, y):
    z = torch.empty_like(x)
    torch.add(x, y, out=z)
    return z


@case(X)
def copy_into_argument(x):
    x.copy_(torch.ones_like(x) * 3)
    return None, x + 1


@case(X.double())
def double_precision(x):
    return torch.nn.functional.gelu(x).softmax(-1)


@case(X.bfloat16())
def brain_float(x):
    return x * 2 + 1


@case((X * 8).int())
def integers(x):
    return x + 1, x // 3, x % 3, x << 1, x & 3, x * 2.5, x.sum(), x.float().mean()


@case(X > 0)
def booleans(x):
    return x & True, ~x, x.sum(), x.float(), x ^ x


@case(torch.complex(X, Y))
def complex_numbers(x):
    return x * x, x.real, x.imag, x.abs()


@case(torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), -0.0, 1e-40]))
def special_values(x):
    return x + 1, x.exp(), x.relu(), x.sigmoid(), x.clamp(-1, 1), torch.maximum(x, x.flip(0)), x.isnan(), x.softmax(0)


@case(X)
def random_numbers(x):
    return torch.rand(3) + x[0, :3], torch.randn_like(x), torch.nn.functional.dropout(x, 0.5, True)


@case(X)
def detach_and_requires_grad(x):
    return x.detach() + 1, x.requires_grad, x.is_leaf


@case(vector(4, 6).requires_grad_(), grad=True)
def differentiable(x):
    y = torch.relu(x) * 2
    return y.sum()


@case(vector(4, 6).requires_grad_(), grad=True)
def detaches_part(x):
    y = x * 2
    with torch.no_grad():
        z = y + 1
    return y, z, y.detach()


@pytest.mark.parametrize(*case.table)
def test_tensors(function, args, expectations):
    check(function, *args, **expectations)


def test_gradients_reach_the_arguments():
    from framejit_testing import assert_same, counting

    def f(x, y):
        return (torch.sin(x) * y).sum()

    compiled, backend = counting(f)
    for seed in (1, 2):
        pair = [vector(4, seed=seed).requires_grad_() for _ in range(2)]
        eager_pair = [t.detach().clone().requires_grad_() for t in pair]
        compiled(*pair).backward()
        f(*eager_pair).backward()
        for actual, expected in zip(pair, eager_pair, strict=True):
            assert_same(actual.grad, expected.grad)
    assert backend.count == 1
