"""Random programs in double precision: results and gradients equal eager's, whichever of the results get a gradient."""

import os
import random

import pytest
import torch
import torch.nn.functional as F
from training_testing import reports

import framejit

UNARY = [
    lambda a: a.sin(),
    lambda a: a.tanh(),
    lambda a: a.exp().clamp(max=5),
    lambda a: a * 2 + 1,
    lambda a: a.t().contiguous(),
    lambda a: a.softmax(-1),
    lambda a: a.relu(),
    lambda a: a.sum(0, keepdim=True) + a,
    lambda a: a.sigmoid(),
    lambda a: a.clone().mul_(0.5),
    lambda a: F.gelu(a),
    lambda a: F.dropout(a, 0.2),
    lambda a: a.detach() * a,
    lambda a: F.layer_norm(a, a.shape[-1:]),
    lambda a: a[:, :1] * a,
    lambda a: a.flip(0),
    lambda a: a.abs().sqrt(),
]
BINARY = [
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a @ b,
    lambda a, b: torch.where(a > b, a, b),
    lambda a, b: a - b.t(),
    lambda a, b: torch.cat([a, b])[:4],
    lambda a, b: a / (b.abs() + 1),
]
PROGRAMS = 400 if os.environ.get("FRAMEJIT_LONG_TESTS") == "1" else 60
USED = (0b111, 0b001, 0b010, 0b101)  # which of the results get a gradient


def make(seed: int):
    """(a function of three matrices with one to three results, which of the matrices require grad)"""
    rng = random.Random(seed)
    plan = [(rng.random() < 0.4, *(rng.randrange(100) for _ in range(3))) for _ in range(rng.randint(2, 9))]
    results = rng.randint(1, 3)
    require = [rng.random() < 0.8 for _ in range(3)]
    require[0] |= not any(require)

    def program(a, b, c):
        values = [a, b, c]
        for binary, operator, x, y in plan:
            p, q = values[x % len(values)], values[y % len(values)]
            values.append(BINARY[operator % len(BINARY)](p, q) if binary else UNARY[operator % len(UNARY)](p))
        return tuple(value * 1.0 for value in values[-results:])

    return program, require


def run(callee, require, seed: int, used: int) -> list:
    torch.manual_seed(seed)
    inputs = [torch.randn(4, 4, dtype=torch.float64).requires_grad_(r) for r in require]
    results = callee(*inputs)
    chosen = [r for i, r in enumerate(results) if r.requires_grad and used >> i & 1]
    if chosen:
        torch.autograd.backward(chosen, [torch.full_like(r, i + 1) for i, r in enumerate(chosen)])
    return [r.detach() for r in results] + [t.grad for t in inputs]


@pytest.mark.parametrize("first", range(0, PROGRAMS, 20))
def test_random_programs(first):
    compiled_backwards = 0
    for seed in range(first, first + 20):
        program, require = make(seed)
        compiled = framejit.compile(program)
        for used in USED:
            expected, actual = run(program, require, seed, used), run(compiled, require, seed, used)
            for e, a in zip(expected, actual, strict=True):
                assert (e is None) == (a is None), f"program {seed}, results {used:b}"
                close = e is None or torch.allclose(a, e, rtol=1e-9, atol=1e-11, equal_nan=True)
                assert close, f"program {seed}, results {used:b}"
        compiled_backwards += all(report.has_backward for report in reports(compiled))
        framejit.reset()
    assert compiled_backwards >= 10
