"""Random computations with sizes, as text from seeds: their values are those of Python at every size, in whatever way
they branch. Each way is one recording."""

import random

import pytest
import torch
from dynamic_testing import PythonBackend, demands, recordings

import framejit

SEEDS = range(60)
OPERATORS = ("+", "-", "*", "//", "%", "<<")
COMPARISONS = ("<", "<=", "==", "!=", ">", ">=")
SIZES = [(3, 4), (5, 6), *((rows, columns) for rows in (1, 2, 3, 4, 7, 8, 13, 31) for columns in (1, 2, 5, 8, 12))]


class Expressions:
    """Texts of expressions over n and m, the sizes of x."""

    def __init__(self, seed: int, branches: bool):
        self.random = random.Random(seed)
        self.branches = branches

    def leaf(self) -> str:
        return self.random.choice(
            ["n", "m", "n", "m", "x.shape[0]", "x.size(-1)", "len(x)", "x.numel()", str(self.random.randint(1, 9))]
        )

    def number(self, depth: int) -> str:
        if depth == 0:
            return self.leaf()
        a, b = self.number(depth - 1), self.number(depth - 1)
        kind = self.random.randrange(10)
        if kind < 5:
            operator = self.random.choice(OPERATORS)
            if operator in ("//", "%"):
                return f"({a} {operator} (abs({b}) + 1))"
            return f"({a} * 2)" if operator == "<<" else f"({a} {operator} {b})"
        if kind == 5:
            return f"{self.random.choice(('min', 'max'))}({a}, {b})"
        if kind == 6:
            return f"-({a})"
        if kind == 7:
            return f"int({a})"
        if kind == 8:
            return f"sum(({a}, {b}))"
        return f"({a} if {self.condition(depth - 1)} else {b})" if self.branches else f"divmod({a}, 3)[0]"

    def condition(self, depth: int) -> str:
        a, b = self.number(depth), self.number(depth)
        return f"({a} {self.random.choice(COMPARISONS)} {b})"


def make(seed: int, branches: bool):
    expressions = Expressions(seed, branches)
    first, second = expressions.number(3), expressions.number(3)
    lines = ["n, m = x.shape", f"y = {first}", f"z = {second} / 4", "return x * 0 + y, y, (z, [n, z])"]
    text = "".join(["def function(x):\n", *(f"    {line}\n" for line in lines)])
    namespace: dict = {}
    exec(text, namespace)
    return namespace["function"], text


def check(seed: int, branches: bool):
    function, text = make(seed, branches)
    compiled = framejit.compile(function, backend="interp", options={"recompile_limit": 64})
    for sizes in SIZES:
        x = torch.ones(sizes, dtype=torch.float64)
        actual, expected = compiled(x), function(x)
        assert torch.equal(actual[0], expected[0]), text
        assert actual[1:] == expected[1:], text
        assert type(actual[1]) is type(expected[1]), text
    return compiled


@pytest.mark.parametrize("seed", SEEDS)
def test_arithmetic(seed):
    """Without branches nothing is demanded: the first recording, and one for all other sizes."""
    compiled = check(seed, branches=False)
    assert demands(compiled) == []
    assert recordings(compiled) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_branches(seed):
    compiled = check(seed, branches=True)
    assert recordings(compiled) <= 1 + 2 ** min(6, len(set(demands(compiled))))


@pytest.mark.parametrize("seed", range(12))
def test_modules(seed):
    """What torch's expressions make of the same: each of 0 and 1 is a size of its own to them."""
    function, text = make(seed, branches=False)
    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, options={"recompile_limit": 64})
    for sizes in SIZES:
        x = torch.ones(sizes, dtype=torch.float64)
        actual, expected = compiled(x), function(x)
        assert torch.equal(actual[0], expected[0]), text
        assert actual[1:] == expected[1:], text
    assert len(backend.modules) - len(backend.symbolic) <= 2, text
