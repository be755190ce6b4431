"""Operators that raise in the kernel, of which metadata know nothing: no exception of eager mode is lost with a result
that nobody uses, nor because the compiled form of an operator can do what the operator cannot."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import Cases, check, vector

case = Cases()
X = vector(4, 4, seed=1)
HALF = X.half()
WHOLE = torch.arange(16).reshape(4, 4)
TRUTH = WHOLE > 3


@case(WHOLE)
def softmax_of_integers(x):
    x.softmax(-1)
    return x + 1


@case(X)
def bits_of_floats(x):
    torch.bitwise_not(x)
    return x + 1


@case(TRUTH)
def product_of_truth_values(x):
    x @ x
    return x + 1


@case(TRUTH, cpu=True)
def absolute_truth(x):
    x.abs()
    return x + 1


@case(TRUTH, graphs=2, cpu=True)  # and one of the layer, which is called when the function runs again
def relu_of_truth_values(x):
    F.relu(x)
    return x + 1


@case(X + 0j, graphs=2, cpu=True)  # and one of the layer, which is called when the function runs again
def clamped_complex_numbers(x):
    F.relu6(x)
    return x + 1


@case(X + 0j)
def sorted_complex_numbers(x):
    x.sort()
    return x + 1


@case(WHOLE)
def fractions_of_integers(x):
    x.frac()
    return x + 1


@case(WHOLE, graphs=2, cpu=True)  # and one of the layer, which is called when the function runs again
def layer_norm_of_integers(x):
    F.layer_norm(x, (4,))
    return x + 1


@case(WHOLE)
def pooled_integers(x):
    F.adaptive_avg_pool1d(x, 2)
    return x + 1


@case(WHOLE.to(torch.uint8))
def a_fill_that_overflows(x):
    torch.full_like(x, 1000)
    return x + 1


@case(X)
def an_index_of_floats(x):
    x.index_fill(0, x[0], 1.0)
    return x + 1


@case(X, graphs=2, cpu=True)  # and one of the layer, which is called when the function runs again
def a_class_that_is_not_there(x):
    F.nll_loss(x, x[0].long() * 0 + 9)
    return x + 1


@case(X)
def the_inverse_of_nothing(x):
    torch.linalg.inv(x * 0)
    return x + 1


@case(WHOLE, cpu=True)
def division_by_zero(x):
    x // 0
    return x + 1


@pytest.mark.parametrize(*case.table)
def test_the_exception_of_an_unused_result(function, args, expectations):
    assert pytest.raises(Exception, function, *args), "eager raises"
    check(function, *args, **expectations)


used = Cases()


@used(WHOLE.view(2, 2, 4), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long), graphs=2, cpu=True)
def batch_norm_of_integers(x, mean, variance):
    return F.batch_norm(x, mean, variance)


@used(X, graphs=0)
def a_limit_out_of_range(x):
    return x.clamp(max=1e300)


@used(HALF)
def a_filling_out_of_range(x):
    return x.masked_fill(x > 0, -1e9)


@used(HALF, graphs=0)
def a_constant_out_of_range(x):
    return torch.full_like(x, 1e5)


@pytest.mark.parametrize(*used.table)
def test_the_exception_of_a_result(function, args, expectations):
    assert pytest.raises(Exception, function, *args), "eager raises"
    check(function, *args, **expectations)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 65504.0, 1])
def test_numbers_in_range(number):
    check(lambda x: (x.masked_fill(x > 0, number), torch.full_like(x, number), x.clamp(max=number)), HALF)


# --- dtypes that do not go together -----------------------------------------------------------------


def norms(x, weight, mean, variance, training):
    return F.batch_norm(x, mean, variance, weight, weight, training)


LOW, FULL, OTHER = torch.bfloat16, torch.float32, torch.float16


@pytest.mark.cpu
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("statistics", [LOW, FULL])
@pytest.mark.parametrize("parameters", [LOW, FULL, OTHER])
def test_batch_norm_of_several_dtypes(parameters, statistics, training):
    x, weight = vector(2, 4, 3).to(LOW), vector(4, seed=2).to(parameters)
    mean, variance = torch.zeros(4).to(statistics), torch.ones(4).to(statistics)
    alike = parameters == statistics == LOW or parameters == statistics == FULL
    check(norms, x, weight, mean, variance, training, graphs=int(alike), breaks=int(not alike))


@pytest.mark.cpu
@pytest.mark.parametrize("parameters", [LOW, FULL, OTHER])
def test_layer_norm_of_several_dtypes(parameters):
    x, weight = vector(2, 4, 3).to(LOW), vector(3, seed=2).to(parameters)
    graphs = int(parameters != OTHER)
    check(lambda x, w: F.layer_norm(x, (3,), w, w), x, weight, graphs=graphs, breaks=1 - graphs)


@pytest.mark.cpu
@pytest.mark.parametrize("parameters", [LOW, FULL, OTHER])
def test_group_norm_of_several_dtypes(parameters):
    x, weight = vector(2, 4, 3).to(LOW), vector(4, seed=2).to(parameters)
    graphs = int(parameters != OTHER)
    check(lambda x, w: F.group_norm(x, 2, w, w), x, weight, graphs=graphs, breaks=1 - graphs)
