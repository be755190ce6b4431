"""Exceptions that leave the compiled function: what was computed before one is a graph, and the instruction that raises
runs natively, so that type, message, chain and traceback are eager's."""

import pytest
import torch
from framejit_testing import Cases, check, vector
from torch import nn

case = Cases()
X = vector(seed=11)
W = torch.ones(5)


class Refused(Exception):
    def __init__(self, size, *, why):
        super().__init__(size, why)
        self.why = why


def refuse(x):
    if x.shape[0] == 4:
        raise Refused(x.shape[0], why="four")
    return x


@case(X, graphs=1)
def at_the_end(x):
    y = x.sin().cos()
    raise ValueError(f"of {tuple(y.shape)}")


@case(X, graphs=0)
def before_any_operator(x):
    if x.dim() == 1:
        raise ValueError("one dimension")
    return x.sin()


@case(X, graphs=1)
def three_deep(x):
    def inner(z):
        return refuse(z * 2) + 1

    def middle(z):
        return inner(z.exp()) - 1

    return middle(x.tanh()).abs()


@case(X, W, graphs=1, cpu=True)
def in_an_operator(x, w):
    y = x.sin() + 1
    return (y * 2) + w  # sizes 4 and 5


@case([], X, graphs=1)
def behind_effects(seen, x):
    y = x.sin()
    seen.append(y)
    x.add_(1)
    seen.append("raised next")
    refuse(y)
    seen.append("never")


@case(X, graphs=1)
def raised_again(x):
    y = x.sin()
    try:
        refuse(y)
    except Refused as error:
        error.why = "again"
        raise


@case(X, graphs=1)
def raised_from(x):
    y = x.sin()
    try:
        refuse(y)
    except Refused as error:
        raise KeyError("chained") from error


@case([], X, graphs=1)
def through_finally(seen, x):
    y = x.sin()
    try:
        refuse(y)
    finally:
        seen.append(1)


@case(X, graphs=1)
def from_a_generator(x):
    x = x.exp()

    def parts():
        yield x.sin()
        yield x.cos()
        raise ValueError("no third one")

    return sum(part * 2 for part in parts())


@case(X, graphs=1)
def from_a_missing_attribute(x):
    return x.sin().nothing


@case({"a": 1}, X, graphs=1)
def from_a_missing_key(table, x):
    y = x.sin()
    return y * table["b"]


@case(X, graphs=1)
def behind_one_that_was_caught(x):
    y = x.sin()
    try:
        refuse(y)
    except Refused:
        y = y + 1
    raise ValueError(str(tuple(y.shape)))


@pytest.mark.parametrize(*case.table)
def test_exception_that_leaves_the_function(function, args, expectations):
    check(function, *args, **expectations)


class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x):
        y = self.layers(x)
        if y.shape[-1] != self.width:
            raise Refused(y.shape[-1], why="width")
        return y


def test_a_module_that_checks_its_result_is_compiled_on_both_ways():
    torch.manual_seed(0)
    module = Checked()
    module.width = 4
    check(module, torch.randn(2, 4), graphs=1)
    module.width = 3
    check(module, torch.randn(2, 4), graphs=1)
