"""`data_dependent=True`: what follows an operator whose result depends on data is recorded once, for all numbers and
sizes that come of it. The operator itself runs natively, as a break. Each call is compared with eager."""

import pytest
import torch
from dynamic_testing import assert_same_as_eager, traces

import framejit


def data(seed: int, rows: int = 8) -> torch.Tensor:
    """Quarters, whose sums are exact in any order: what is told of a sum is a Python number, compared as such."""
    return torch.randint(-16, 17, (rows, 4), generator=torch.Generator().manual_seed(seed)) / 4


def parts(compiled) -> list[dict]:
    """The recordings of what follows breaks."""
    return [trace for trace in traces(compiled) if trace["is_segment"]]


def scaled(x):
    scale = x.abs().sum().item()
    return (x * scale + 1).relu() / (scale + 1), scale


def counted(x):
    count = int((x > 0).sum())
    return x * count + count, count


def rows_found(x):
    found = (x[:, 0] > 0).nonzero()
    return x[found[:, 0]] * 2, found.sum(0) + 1


def masked(x):
    kept = x[x[:, 1] > 0]
    return (kept * 2).sum(0), kept + 1, kept.shape[0]


def unique(x):
    values = torch.unique((x * 2).round())
    return values * 2, values.numel()


def repeated(x):
    y = torch.repeat_interleave(x, (x[:, 0] > 0).long() + 1, dim=0)
    return y * 2 + 1, y.shape[0] * 3


FUNCTIONS = [scaled, counted, rows_found, masked, unique, repeated]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("backend", ["cpu", "interp"])
def test_one_recording(function, backend):
    compiled = framejit.compile(function, backend=backend, data_dependent=True)
    for seed in range(40):
        assert_same_as_eager(compiled, function, data(seed))
    found = parts(compiled)
    assert len(found) == 1, [trace["break"] for trace in found]
    assert found[0]["break"] is None
    assert found[0]["captured"]


def test_a_number_is_an_input_of_the_graph():
    compiled = framejit.compile(scaled, data_dependent=True)
    for seed in range(80):
        assert_same_as_eager(compiled, scaled, data(seed))
    assert [trace["size_variants"] for trace in parts(compiled)] == [1]


def test_sizes_vary_too():
    compiled = framejit.compile(masked, data_dependent=True)
    for seed in range(40):
        assert_same_as_eager(compiled, masked, data(seed, rows=3 + seed % 7))
    assert len(parts(compiled)) == 1


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_and_one(rows):
    """Sizes that eager treats like any other."""
    compiled = framejit.compile(masked, data_dependent=True)
    for seed in range(10):
        assert_same_as_eager(compiled, masked, data(seed))
    x = data(3).abs().neg() - 1
    x[:rows] *= -1
    assert_same_as_eager(compiled, masked, x)


def test_a_branch():
    """Each way has a recording."""

    def function(x):
        total = x.sum().item()
        return x * total if total > 0 else x - total

    compiled = framejit.compile(function, data_dependent=True)
    for seed in range(40):
        assert_same_as_eager(compiled, function, data(seed))
    assert 2 <= len(parts(compiled)) <= 3


def test_gradients():
    def function(x):
        scale = x.detach().abs().sum().item()
        return (x * scale).exp().sum() * 1e-3

    compiled = framejit.compile(function, data_dependent=True)
    for seed in range(20):
        ours, theirs = (data(seed).mul(0.1).requires_grad_() for _ in range(2))
        compiled(ours).backward()
        function(theirs).backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert len(parts(compiled)) == 1


def test_in_a_loop():
    def function(x):
        for _ in range(3):
            x = x / (x.abs().max().item() + 1)
        return x

    compiled = framejit.compile(function, data_dependent=True)
    for seed in range(20):
        assert_same_as_eager(compiled, function, data(seed))


def test_without_it():
    """A number that differs is used natively."""
    compiled = framejit.compile(scaled)
    for seed in range(10):
        assert_same_as_eager(compiled, scaled, data(seed))
    assert any(trace["break"] is not None for trace in parts(compiled))


def test_full_graph():
    compiled = framejit.compile(scaled, data_dependent=True, fullgraph=True)
    with pytest.raises(framejit.GraphBreakError):
        compiled(data(0))


def test_the_option_is_a_bool():
    with pytest.raises(TypeError, match="data_dependent: expected a bool"):
        framejit.compile(scaled, data_dependent=1)
