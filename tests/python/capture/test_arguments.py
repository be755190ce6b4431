"""How arguments reach the recorded function: every calling convention, in and out of the compiled function."""

import functools

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)
SCALE = vector(seed=3)


@case(X)
def one_argument(x):
    return x + 1


@case(X, Y)
def two_arguments(x, y):
    return x * y


@case(X, kwargs={"y": Y})
def keyword_argument(x, y):
    return x - y


@case(X)
def default_number(x, scale=3):
    return x * scale


@case(X, 4)
def default_overridden(x, scale=3):
    return x * scale


@case(X)
def default_tensor(x, scale=SCALE):
    return x * scale


@case(X, kwargs={"scale": 2})
def keyword_only(x, *, scale, offset=1):
    return x * scale + offset


@case(X, 2, 3)
def positional_only(x, scale, /, offset):
    return x * scale + offset


@case(X, Y, X)
def star_arguments(*tensors):
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


@case(kwargs={"first": X, "second": Y})
def star_keywords(**tensors):
    return tensors["first"] * 2 + tensors["second"], list(tensors)


@case(X, Y, kwargs={"scale": 2.5})
def all_conventions(x, /, y, *rest, scale=1.0, **others):
    return x + y * scale, rest, others


@case(X, Y)
def calls_with_star(x, y):
    def inner(a, b, c=1):
        return a * b + c

    pair = (x, y)
    return inner(*pair) + inner(*pair, c=2) + inner(**{"a": x, "b": y, "c": 3})


@case(X, Y)
def calls_with_mixed_stars(x, y):
    def inner(*args, **kwargs):
        return sum(args) * kwargs["scale"]

    return inner(x, *[y, y], **{"scale": 2})


@case(X)
def calls_with_defaults(x):
    def inner(a, b=2, *, c=3):
        return a * b + c

    return inner(x) + inner(x, 5) + inner(x, c=7)


@case([X, Y])
def list_argument(tensors):
    return tensors[0] + tensors[1]


@case({"a": X, "b": [Y, 3]})
def nested_argument(tree):
    return tree["a"] * tree["b"][1] + tree["b"][0]


@case((X, (Y, 2)))
def tuple_argument(pair):
    x, (y, scale) = pair
    return x + y * scale


@case(X, None)
def none_argument(x, mask):
    return x if mask is None else x * mask


@case(X, "relu")
def string_argument(x, activation):
    return getattr(torch, activation)(x)


@case(X, torch.float64)
def dtype_argument(x, dtype):
    return x.to(dtype)


@case(X, True)
def bool_argument(x, negate):
    return -x if negate else x


@case(X, 1.5)
def float_argument(x, scale):
    return x * scale


@case(X, slice(1, 3))
def slice_argument(x, where):
    return x[where] * 2


@case(torch.tensor(2.0), torch.tensor(3))
def zero_dimensional(a, b):
    return a * b


@case(torch.empty(0, 3))
def empty_tensor(x):
    return x + 1, x.sum()


@case(vector(3, 5).t())
def transposed(x):
    return x * 2, x.contiguous()


@case(vector(6)[::2])
def strided(x):
    return torch.relu(x)


@case(vector(1, 4).expand(3, 4))
def expanded(x):
    return x + 1


@pytest.mark.parametrize(*case.table)
def test_arguments(function, args, expectations):
    check(function, *args, **expectations)


def test_same_tensor_twice():
    def add(x, y):
        return x + y, x is y

    x = vector()
    check(add, x, x)
    check(add, x, x.clone())


def test_alias_between_arguments():
    """Two arguments that share memory, one of them written to."""

    def write(x, y):
        x.add_(1)
        return y * 2

    base = vector(4)
    check(write, base, base[1:3])


def test_wrong_arguments_raise_as_in_eager():
    def one(x):
        return x + 1

    check(one, graphs=0)
    check(one, X, X, graphs=0)
    check(one, X, graphs=0, kwargs={"unknown": 1})


def test_partial_and_bound_method():
    class Scaler:
        def __init__(self, scale):
            self.scale = scale

        def apply(self, x, offset=0):
            return x * self.scale + offset

    scaler = Scaler(3)
    partial = functools.partial(scaler.apply, offset=2)

    def call(x):
        return scaler.apply(x) + partial(x)

    check(call, X)


def test_compiled_method():
    import framejit

    class Scaler:
        def __init__(self, scale):
            self.scale = scale

        @framejit.compile
        def apply(self, x):
            return x * self.scale

    assert torch.equal(Scaler(3).apply(X), X * 3)
    assert torch.equal(Scaler(4).apply(X), X * 4)
    assert torch.equal(Scaler.apply(Scaler(5), X), X * 5)
