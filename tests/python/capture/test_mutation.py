"""Functions that write to tensors: what the native backend makes of them is what eager does, call by call where a
functional form would differ."""

import numpy
import pytest
import torch
from framejit_testing import Cases, assert_same, check, counting, vector
from torch import nn

import framejit

case = Cases()
X = vector(4, 6, seed=1)


@case(X.t())
def strided_base_then_reshape(x):
    y = x[::2, ::2]
    y = y.add(0)[:, :]
    y.add_(1)
    return y.reshape(-1) * 1


@case(vector(8, 6, seed=2)[::2])
def strided_input_then_reshape(y):
    y.add_(1)
    return y.reshape(2, 2, 6) * 1, y.flatten() + 1


@case(vector(6, 8, seed=3)[:, ::2])
def strided_input_then_einsum(y):
    y.mul_(2)
    return torch.einsum("ij,kj->ik", y, y)


@case(X)
def number_beside_a_write(x):
    # The graph has a functional form, in which nothing but a number goes into the copy of it.
    count = torch.tensor(8)
    total = torch.tensor(2.5) * 2
    y = x + 1
    y.add_(count)
    return count, total, y


@case(X)
def number_that_is_written(x):
    count = torch.tensor(8)
    count.add_(1)
    y = x * count
    y.add_(1)
    return count, y


@case(X)
def strides_after_in_place_operators(x):
    y = x.t().clone(memory_format=torch.preserve_format)
    y.masked_fill_(y > 0, 0.5)
    z = x.t().clone(memory_format=torch.preserve_format)
    z.index_add_(0, torch.tensor([1]), torch.ones(1, 4))
    return y, z


@case(X)
def chunks_that_hide_their_base(x):
    a, b = (x @ x.t()).unsafe_chunk(2, 1)
    c, d = (x * 2).unsafe_split(2, 1)[:2]
    return torch.sigmoid(a) * b + a, torch.tanh(c) + d


@case(X, cpu=True)
def written_overlap_raises(x):
    x[1:] = x[:-1]
    return x


@case(X[:1].expand(4, 6), graphs=0)
def written_expanded_raises(x):
    return x.add_(1)


@case(X)
def negative_base(x):
    return (-2.0) ** x.round(), (-2) ** x.round()


@case(X)
def list_indices(x):
    x[[0, 2]] = 5.0
    y = x.clone()
    y[:, [1, 3]] += 1
    return x[[0, 2]], x[:, [1, 3]], x[[0, 1], [1, 2]], y


@pytest.mark.parametrize(*case.table)
def test_mutation(function, args, expectations):
    check(function, *args, **expectations)


def test_gru_cell():
    torch.manual_seed(0)
    cell = nn.GRUCell(6, 4).eval()
    check(cell, vector(3, 6, seed=4), vector(3, 4, seed=5))


@pytest.mark.parametrize("native", [False, True], ids=["fx", "native"])
def test_arguments_that_become_one_tensor(native):
    """Recorded for two tensors, then called with one tensor twice: the write shows in both."""

    def write(x, y):
        x.add_(1)
        return y * 2

    compiled = framejit.compile(write) if native else counting(write)[0]
    with torch.no_grad():
        for _ in range(2):
            assert_same(compiled(torch.ones(3), torch.ones(3)), torch.full((3,), 2.0))
        for _ in range(2):
            both = torch.ones(3)
            assert_same(compiled(both, both), torch.full((3,), 4.0))
        assert_same(compiled(torch.ones(3), torch.ones(3)), torch.full((3,), 2.0))


def test_gradient_of_a_written_argument():
    """The history of a gradient leaves through an argument that is written."""

    def write(x, y):
        y.add_(x)
        return y

    x = vector(4, seed=6).requires_grad_()
    compiled = framejit.compile(write)
    for _ in range(2):
        y = torch.ones(4)
        result = compiled(x, y)
        assert result is y and result.requires_grad
        (result * 3).sum().backward()
        assert_same(x.grad, torch.full((4,), 3.0))
        x.grad = None


def test_recording_errors_are_not_the_programs():
    """What fails only because operands are fake reaches no handler of the program."""

    def sparse(x):
        try:
            return x.sum() + x.to_sparse().to_dense()
        except RuntimeError:
            return x.sum() * 0 - 99

    check(sparse, X, graphs=2, breaks=2)  # it has no metadata; what it gives cannot be recorded


@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor, lambda array: torch.tensor(data=array)])
def test_arrays_are_guarded(make):
    array = numpy.ones(4, dtype=numpy.float32)

    def f(x):
        return x + make(array)

    compiled = framejit.compile(f)
    with torch.no_grad():
        for _ in range(2):
            assert_same(compiled(X[0, :4]), f(X[0, :4]))
            array += 1
    # as_tensor shares the array's memory.
    check(f, X[0, :4], graphs=1, breaks=1 if make is torch.as_tensor else 0)


def test_breaks_inside_context_managers_are_silent(capfd):
    from contextlib import contextmanager

    entered = []

    @contextmanager
    def manager():
        entered.append("in")
        try:
            yield
        finally:
            entered.append("out")

    def f(x):
        with manager():
            return x + x.sum().item()

    compiled = framejit.compile(f)
    assert_same(compiled(X), X + X.sum().item())
    assert entered == ["in", "out"]
    assert "ignored" not in capfd.readouterr().err


def random_slices(generator, size: int, length: int) -> slice:
    """`length` indices of a dimension, at some start with some step."""
    step = 1 + int(torch.randint((size - 1) // max(length - 1, 1), (), generator=generator))
    start = int(torch.randint(size - (length - 1) * step, (), generator=generator))
    return slice(start, start + (length - 1) * step + 1, step)


@pytest.mark.parametrize("seed", range(40))
def test_parts_of_one_tensor(seed):
    """One part of a tensor is written with another, which may lie beside it, between its elements or over them."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    rows, columns = (1 + int(torch.randint(limit, (), generator=generator)) for limit in (3, 4))
    parts = [(random_slices(generator, 6, rows), random_slices(generator, 9, columns)) for _ in range(3)]

    def f(x):
        y = x.sin()
        first, second, third = (y[part] for part in parts)
        first.mul_(second)
        first.sigmoid_()
        z = first + third
        third.add_(first)
        return y, z, second * first, third.t() @ first

    check(f, vector(6, 9, seed=seed))


@pytest.mark.cpu
def test_gates_of_a_cell():
    """Parts of a product are written in place and read in another layout than what they were part of."""

    def f(x, w):
        gates = x @ w
        a, b, c = gates.chunk(3, 1)
        a.sigmoid_()
        b.mul_(a).tanh_()
        c.add_(b)
        return gates, a * b, c.relu()

    check(f, X, vector(6, 9, seed=2))
    (graph,) = framejit.explain(f)(X, vector(6, 9, seed=2)).graphs
    assert graph.backend == "cpu"
