"""Kernels that a graph has several times are lowered and compiled once; those that are almost the same are not."""

import pytest
import torch

import framejit

KERNEL_NODES = 64  # of one kernel at most


def check(function, *arguments):
    """The description of a compiled function whose results were eager's to the bit."""
    compiled = framejit.compile(function, fullgraph=True)
    for _ in range(2):
        expected, actual = function(*arguments), compiled(*arguments)
        expected, actual = ([r] if isinstance(r, torch.Tensor) else list(r) for r in (expected, actual))
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e) and a.dtype == e.dtype and a.stride() == e.stride()
    [trace] = framejit._C.traces(compiled)
    assert trace["captured"] and trace["break"] is None
    return trace["description"]


def codes_of(function, *arguments, monkeypatch, tmp_path) -> list[str]:
    """The loops of all kernels, in the order in which they run."""
    monkeypatch.setenv("FRAMEJIT_DUMP_DIR", str(tmp_path))
    check(function, *arguments)
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    files = sorted(folder.glob("kernel-*.loops"), key=lambda path: int(path.stem.removeprefix("kernel-")))
    return [path.read_text() for path in files]


def many(step, count=4 * KERNEL_NODES):
    def f(x):
        for i in range(count):
            x = step(x, i)
        return x

    return f


STEPS = {
    "equal": lambda x, i: x + 1,
    "another number in one kernel": lambda x, i: x + (2 if i == 2 * KERNEL_NODES + 5 else 1),
    "another number in each kernel": lambda x, i: x + (1 + i // KERNEL_NODES),
    "another operator in one kernel": lambda x, i: x - 1 if i == KERNEL_NODES + 7 else x + 1,
    "zeros of both signs": lambda x, i: x * (-0.0 if i == KERNEL_NODES else 0.0) if i % KERNEL_NODES == 0 else x + 0.0,
    "transposed halfway": lambda x, i: x.t() + 1 if i == 2 * KERNEL_NODES else x + 1,
    "another type from somewhere on": lambda x, i: x.double() + 1 if i == 2 * KERNEL_NODES else x + 1,
    "rows": lambda x, i: x - x.amax(-1, keepdim=True) + i % 2,
}


@pytest.mark.parametrize("name", STEPS)
def test_chains(name):
    check(many(STEPS[name]), torch.arange(12.0).reshape(3, 4) - 5)
    check(many(STEPS[name]), torch.arange(36.0).reshape(6, 6).t())


def test_results_in_between():
    def f(x):
        results = []
        for i in range(4 * KERNEL_NODES):
            x = x * 0.5 + i % 2
            if i in (7, 100, 101):
                results.append(x)
        return (*results, x)

    check(f, torch.rand(8))


def test_which_operands_are_one():
    def f(x, y):
        a = torch.cat([x * x, y * y]).sum()
        b = torch.cat([x * y, y * x]).sum()
        return (x * x).flip(0) + a, (x * y).flip(0) + b, (y * x).flip(0), (y * y).flip(0)

    check(f, torch.arange(5.0), torch.arange(5.0) + 1)


def test_operands_in_other_places():
    """Both subtract what flips give, one the other way around."""

    def f(x, y):
        a, b = x.flip(0), y.flip(0)
        c = (a - b).flip(0)
        d = (b - a).flip(0)
        return c, d, (c - d).flip(0), (d - c).flip(0)

    check(f, torch.arange(5.0), torch.arange(5.0) * 3)


def test_constants_stay_their_own():
    one, two = torch.tensor(1.5), torch.tensor(2.5)

    def f(x):
        for i in range(3 * KERNEL_NODES):
            x = x + torch.tensor(1.5 if i < KERNEL_NODES else 2.5)
        return x * one * two

    check(f, torch.rand(6))


def test_loops_of_equal_kernels(monkeypatch, tmp_path):
    loops = codes_of(many(STEPS["equal"]), torch.zeros(16), monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert len(loops) == 4 and len(set(loops)) == 1


def test_loops_of_other_kernels(monkeypatch, tmp_path):
    step = STEPS["another number in each kernel"]
    loops = codes_of(many(step), torch.zeros(16), monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert len(loops) == len(set(loops)) == 4
