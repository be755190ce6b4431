"""Rows picked by position: embeddings, index_select, indexing by one tensor; values, errors, layouts, sizes."""

import pytest
import torch
import torch.nn.functional as F

import framejit

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


def check(function, *arguments, own=True):
    compiled = framejit.compile(function, fullgraph=True)
    for _ in range(2):
        expected, actual = function(*arguments), compiled(*arguments)
        assert torch.equal(actual, expected) and actual.dtype == expected.dtype
        assert actual.stride() == expected.stride() and actual._base is None
    [trace] = framejit._C.traces(compiled)
    assert trace["captured"] and ("call own" in trace["description"]) == own, trace["description"]
    return compiled


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(dtype):
    torch.manual_seed(0)
    table = torch.randint(0, 100, (50, 6, 7)).to(dtype)
    for positions in (torch.randint(-50, 50, (13,)), torch.randint(-50, 50, (3, 4)).int()):
        check(lambda t, i: t[i], table, positions)
        inner = positions % 6
        check(lambda t, i: t[:, i], table, inner)
        check(lambda t, i: t[:, :, i], table, positions % 7 - 7)
        check(lambda t, i: t.reshape(-1)[i], table, positions)
    for dim in (0, 1, -1):
        check(lambda t, i, d=dim: t.index_select(d, i), table, torch.randint(0, 6, (9,)))
    if dtype.is_floating_point:
        weight = table.reshape(50, 42)
        for positions in (torch.randint(0, 50, (4, 5)), torch.randint(0, 50, (4, 5)).int()):
            check(lambda w, i: F.embedding(i, w, padding_idx=3), weight, positions)


def test_threads():
    table, positions = torch.randn(1000, 300), torch.randint(-1000, 1000, (5000,))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        check(lambda t, i: t[i], table, positions)
        check(lambda t, i: t.index_select(1, i), table, positions % 300)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "pick",
    [lambda t, i: t[i], lambda t, i: t[:, i], lambda t, i: t.index_select(0, i), lambda t, i: F.embedding(i, t)],
    ids=["index", "inner", "index_select", "embedding"],
)
def test_positions_outside_raise_as_eager(pick):
    table = torch.randn(5, 5)
    compiled = framejit.compile(pick, fullgraph=True)
    good = torch.tensor([0, 4])
    assert torch.equal(compiled(table, good), pick(table, good))
    for bad in (5, -6, -1, 2**40, -(2**40)):
        positions = torch.tensor([0, bad])
        try:
            expected = pick(table, positions)
        except (IndexError, RuntimeError) as error:
            with pytest.raises(type(error)) as caught:
                compiled(table, positions)
            assert str(caught.value) == str(error)
        else:
            assert torch.equal(compiled(table, positions), expected)
    assert torch.equal(compiled(table, good), pick(table, good))


def test_others_are_left():
    table, positions = torch.randn(6, 8), torch.tensor([1, 0, 3])
    check(lambda t, i: t.t()[i], table, positions, own=False)
    check(lambda t, i: t[::2][i % 3], table, positions, own=False)
    check(lambda t, i: t[i, i], table, positions, own=False)
    check(lambda t, i: t[:, i[::2]], table, positions, own=False)
    check(lambda t, i: t[torch.stack([i, i])], table, positions)
    check(lambda t, i: t[i[:0]], table, positions, own=False)


def test_fused_neighbours_and_gradients():
    torch.manual_seed(0)
    weight = torch.randn(20, 16, requires_grad=True)
    positions = torch.randint(0, 20, (3, 4))

    def embed(weight, positions):
        return F.layer_norm(F.embedding(positions, weight * 2) + 1, (16,)).square().sum()

    compiled = framejit.compile(embed, fullgraph=True)
    expected = torch.autograd.grad(embed(weight, positions), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(weight, positions), weight)[0], expected)
