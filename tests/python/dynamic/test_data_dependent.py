"""`data_dependent=True`: sizes and numbers that come of data are part of one graph, which serves all that the data
gives. What asks for their worth breaks there. Each call is compared with eager."""

import pytest
import torch
from data_testing import (
    FUNCTIONS,
    a_loop,
    breaks,
    counted,
    data,
    made,
    masked,
    masked_twice,
    repeated,
    repeated_alone,
    returns_as_eager,
    rows_found,
    scaled,
    scattered,
    selected,
)
from dynamic_testing import assert_same_as_eager, traces

import framejit


def parts(compiled) -> list[dict]:
    """The recordings of what follows breaks."""
    return [trace for trace in traces(compiled) if trace["is_segment"]]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("backend", ["cpu", "interp", "eager"])
def test_one_graph(function, backend):
    compiled = framejit.compile(function, backend=backend, data_dependent=True, fullgraph=True)
    for seed in range(40):
        assert_same_as_eager(compiled, function, data(seed))
    (trace,) = traces(compiled)
    assert trace["captured"]
    assert not trace["fallback"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sizes_vary_too(function):
    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    for seed in range(40):
        assert_same_as_eager(compiled, function, data(seed, rows=3 + seed % 7))
    assert len(traces(compiled)) <= 2


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_same_sizes_again(function):
    """What comes again is compiled for its sizes."""
    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    for seed in range(30):
        assert_same_as_eager(compiled, function, data(seed % 3))


@pytest.mark.parametrize("function", [rows_found, masked, masked_twice, selected, repeated_alone, made])
@pytest.mark.parametrize("first", ["none", "one", "all"])
def test_nothing_one_and_much(function, first):
    """Sizes that eager treats like any other, whichever of them the recording met."""
    examples = {"none": -torch.ones(6, 4), "one": -torch.ones(6, 4), "all": torch.ones(3000, 4)}
    examples["one"][2] = 1.0
    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    assert_same_as_eager(compiled, function, examples[first])
    for x in examples.values():
        for _ in range(3):
            assert_same_as_eager(compiled, function, x)
    assert len(traces(compiled)) <= 2


def test_a_branch_breaks_there():
    """What is in front of it is one graph; each way behind it has a recording."""

    def function(x):
        y = x.abs() + 1
        total = (x * 2).sum().item()
        z = y * total
        return z * 2 if total > 0 else x - total

    compiled = framejit.compile(function, data_dependent=True)
    for seed in range(40):
        assert_same_as_eager(compiled, function, data(seed))
    (trace,) = [trace for trace in traces(compiled) if not trace["is_segment"]]
    assert "DataDependent" in str(trace["break"])
    assert ".item() > 0)" in str(trace["break"])
    assert 2 <= len(parts(compiled)) <= 3


@pytest.mark.parametrize("use", [
    lambda x, n: x if n > 3 else x + 1,
    lambda x, n: x + sum(range(n)),
    lambda x, n: x + {1: 2}.get(n, 3),
    lambda x, n: (x, f"{n}"),
    lambda x, n: x + [1, 2, 3, 4, 5, 6, 7, 8, 9][min(n, 5)],
    lambda x, n: x if n else x + 1,
    lambda x, n: x.repeat(2, 1)[0] if x[x > 1].shape[0] == n else x,
])  # fmt: skip
def test_what_asks_breaks(use):
    def function(x):
        n = int((x[:2] > 0).sum())
        y = x * n
        return use(y, n)

    compiled = framejit.compile(function, data_dependent=True)
    for seed in range(12):
        assert_same_as_eager(compiled, function, data(seed))
    assert breaks(compiled)
    strict = framejit.compile(function, data_dependent=True, fullgraph=True)
    with pytest.raises(framejit.GraphBreakError, match=r"test_data_dependent.py:\d+.*DataDependent"):
        strict(data(0))


def test_sizes_that_do_not_come_of_data():
    """A branch on one asks nothing of the data."""

    def function(x):
        kept = x[x[:, 1] > 0]
        found = (x > 0).nonzero()
        if kept.shape[1] == 4 and kept.dim() == 2 and found.shape[1] == 2 and (kept * 2).size(-1) > 1:
            return kept.sum(0)
        return x

    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    for seed in range(20):
        assert_same_as_eager(compiled, function, data(seed))
    assert len(traces(compiled)) == 1


def test_what_is_known_of_a_size():
    """No size is negative."""

    def function(x):
        n = x[x > 0].shape[0]
        return x * n if n >= 0 and n + 1 > 0 and n * 2 != -1 else x

    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    for seed in range(10):
        assert_same_as_eager(compiled, function, data(seed))


def checked(x):
    n = (x > 0).sum().item()
    torch._check(n >= 0)
    torch._check(n <= x.numel(), lambda: f"{n} of {x.numel()}")
    if n > x.numel() or n < 0:
        return x
    return torch.arange(n) * 2


def test_hints_are_an_option_in():
    compiled = framejit.compile(checked, fullgraph=True)
    for seed in range(20):
        assert_same_as_eager(compiled, checked, data(seed))
    assert len(traces(compiled)) == 1


def below(x, limit):
    n = int(x.abs().sum())
    torch._check(n < limit, lambda: f"{n} is too many")
    return torch.ones(n) if n < limit else x


def ranged(x, limit):
    n = int(x.abs().sum())
    torch.sym_constrain_range(n, min=1, max=20)
    return torch.ones(n) if n >= 1 and n <= 20 else x


@pytest.mark.parametrize("function", [below, ranged])
@pytest.mark.parametrize("first", [1.0, 8.0])
def test_what_was_checked_raises_as_in_eager_mode(function, first):
    compiled = framejit.compile(function, fullgraph=True)
    numbers = (first, 1.0, 8.0, 2.0, 3.0, 9.0)
    returned = [returns_as_eager(compiled, function, torch.full((4,), number), 20) for number in numbers]
    assert True in returned and False in returned


def test_errors_are_those_of_eager_mode():
    def function(x):
        counts = (x * 2).long()
        return torch.repeat_interleave(x * 3, counts) + 1

    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -2.0])
    for x in (good, bad, good, bad):
        try:
            expected = function(x)
        except RuntimeError as error:
            with pytest.raises(RuntimeError) as raised:
                compiled(x)
            assert str(raised.value) == str(error)
            assert raised.traceback[-1].name == "function"
        else:
            assert torch.equal(compiled(x), expected)


def test_an_input_is_as_it_was_where_it_raises():
    def function(x, counts):
        x.add_(1)
        repeated = torch.repeat_interleave(x, counts)
        x.mul_(2)
        return repeated

    compiled = framejit.compile(function, data_dependent=True)
    for counts in ([1, 2], [0, 3], [1, -1], [2, 2]):
        ours, theirs = torch.ones(2), torch.ones(2)
        for run, x in ((compiled, ours), (function, theirs)):
            try:
                run(x, torch.tensor(counts))
            except RuntimeError as error:
                assert "negative" in str(error)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("function", [scaled, masked, rows_found, repeated, scattered, a_loop])
def test_gradients(function):
    def loss(x):
        result = function(x)
        first = result[0] if isinstance(result, tuple) else result
        return (first * 0.01).exp().sum()

    compiled = framejit.compile(loss, data_dependent=True, fullgraph=True)
    for seed in range(12):
        ours, theirs = (data(seed).mul(0.1).requires_grad_() for _ in range(2))
        compiled(ours).backward()
        loss(theirs).backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert len(traces(compiled)) == 1


def test_random_numbers():
    def function(x):
        kept = x[x > 0]
        return kept + torch.rand_like(kept), torch.rand(2)

    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    for seed in range(12):
        with framejit.disable():
            torch.manual_seed(seed)
            expected = function(data(seed % 5))
        torch.manual_seed(seed)
        for ours, theirs in zip(compiled(data(seed % 5)), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_recording_writes_nothing():
    """What data is worth is found on copies of what the program writes."""
    seen = []

    def function(x):
        view = x[1:]
        view.mul_(2)
        n = int(x.sum())
        seen.append(n)
        return x.add_(n)

    compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
    for number in (1.0, 2.0, 3.0):
        ours, theirs = torch.full((4,), number), torch.full((4,), number)
        with framejit.disable():
            expected = function(theirs)
        assert torch.equal(compiled(ours), expected)
        assert torch.equal(ours, theirs)
    assert seen[0::2] == seen[1::2]


def test_without_it():
    """A number that differs is used natively."""
    compiled = framejit.compile(scaled)
    for seed in range(10):
        assert_same_as_eager(compiled, scaled, data(seed))
    assert any(trace["break"] is not None for trace in parts(compiled))


def test_static_sizes_have_no_such_numbers():
    compiled = framejit.compile(scaled, data_dependent=True, dynamic=False)
    assert_same_as_eager(compiled, scaled, data(0))
    assert breaks(compiled)


def test_the_log(caplog):
    caplog.set_level("INFO", logger="framejit")
    framejit.set_logs("symbols")
    try:
        framejit.compile(counted, data_dependent=True)(data(0))
    finally:
        framejit.set_logs("")
    assert "u0 = int(sum_2)" in caplog.text


def test_the_option_is_a_bool():
    with pytest.raises(TypeError, match="data_dependent: expected a bool"):
        framejit.compile(scaled, data_dependent=1)
