"""Numbers and texts that would be recorded again for each value, forever: they are found, one line says which, and from
then on nothing is recorded and the graphs around what reads them run. What is one of a few values keeps its graphs."""

import logging

import pytest
import torch
from framejit_testing import assert_same, counting, vector
from torch import nn

import framejit

X = vector(2, 4, seed=1)


def warnings_of(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "framejit" and r.levelno >= logging.WARNING]


def run_both(compiled, plain, calls):
    """Each call by both; the number of graphs that the backend was given until then."""
    for arguments in calls:
        with torch.no_grad():
            assert_same(compiled(*arguments), plain(*arguments))


class Counting(nn.Module):
    """Keeps a count that changes with each call, as trackers and schedules do."""

    def __init__(self, first=0, step=1):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.count, self.step = first, step

    def forward(self, x):
        y = self.linear(x).relu()
        self.count += self.step
        return y * self.count + self.linear(x)


@pytest.mark.parametrize("first, step", [(0, 1), (0.5, 0.25), (10, -1)])
def test_attribute_that_counts(first, step, caplog):
    module, same = Counting(first, step), Counting(first, step)
    same.load_state_dict(module.state_dict())
    compiled, backend = counting(module)
    run_both(compiled, same, [(X,)] * 30)
    assert module.count == same.count
    settled = backend.count
    run_both(compiled, same, [(X,)] * 30)
    assert backend.count == settled
    assert module.count == same.count
    # Several entries go on behind the module's breaks; each says it once, and the module's own names the attribute.
    named = [text for text in warnings_of(caplog) if "['count']" in text and "make it a tensor" in text]
    assert len(named) == len(set(named)) >= 1


def scaled(x, step):
    y = x.sin()
    if step % 5 == 0:
        y = y + 1
    return y * step


def test_argument_that_counts(caplog):
    compiled, backend = counting(scaled)
    run_both(compiled, scaled, [(X, i) for i in range(40)])
    settled = backend.count
    run_both(compiled, scaled, [(X, i) for i in range(40, 80)])
    assert backend.count == settled
    assert [text for text in warnings_of(caplog) if "L['step'] (last 6)" in text]


@pytest.mark.parametrize("read", ["argument", "attribute"])
def test_a_tensor_where_numbers_varied(read, caplog):
    """The last recording does not look at what varied, so it serves whatever else is there."""
    holder = nn.Module()

    def scaled(x, by):
        by = by if read == "argument" else holder.by
        return (x.sin() * by).cos()

    compiled, backend = counting(scaled)
    for by in [float("nan") for _ in range(9)] + [vector(4, seed=2)] * 2:
        holder.by = by
        run_both(compiled, scaled, [(X, by if read == "argument" else None)])
        settled = backend.count
    assert "last nan" in warnings_of(caplog)[0]
    run_both(compiled, scaled, [(X, vector(4, seed=3) if read == "argument" else None)])
    assert backend.count == settled


def test_argument_in_a_cell():
    def captures(x, step):
        return (lambda: x * step)()

    compiled, _ = counting(captures)
    run_both(compiled, captures, [(X, i) for i in range(20)])


def test_argument_that_is_handed_on(caplog):
    def inner(x, step):
        return x + step

    def outer(x, step, unused):
        return inner(x.cos(), step).sin()

    compiled, backend = counting(outer)
    run_both(compiled, outer, [(X, i, f"run {i}") for i in range(30)])
    settled = backend.count
    run_both(compiled, outer, [(X, i, f"run {i}") for i in range(30, 60)])
    assert backend.count == settled


def test_few_values_keep_their_graphs(caplog):
    compiled, backend = counting(scaled)
    for _ in range(4):
        run_both(compiled, scaled, [(X, i) for i in range(6)])
    assert backend.count == 6
    assert warnings_of(caplog) == []


def test_another_shape_is_no_reason(caplog):
    """The limit is reached by shapes; the number, which never changes, stays guarded."""
    compiled, backend = counting(scaled, dynamic=False)
    run_both(compiled, scaled, [(torch.ones(n), 3) for n in range(1, 9)])
    assert backend.count == 8
    assert warnings_of(caplog) == []


def test_full_graph_gives_nothing_up(caplog):
    compiled, backend = counting(scaled, fullgraph=True)
    run_both(compiled, scaled, [(X, i) for i in range(20)])
    assert backend.count == 8
    assert any("recompile_limit" in text for text in warnings_of(caplog))


def test_layers_that_know_their_number():
    """One decorated forward of many layers: more than the limit, each right."""

    class Layer(nn.Module):
        def __init__(self, index):
            super().__init__()
            self.index = index

        @framejit.compile
        def forward(self, x):
            return x.sin() + (self.index + 1)

    def plain(x):
        for index in range(12):
            x = x.sin() + (index + 1)
        return x

    layers = nn.Sequential(*[Layer(index) for index in range(12)])
    run_both(layers, plain, [(X,)] * 3)
