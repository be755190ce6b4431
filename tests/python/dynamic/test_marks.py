"""framejit.mark_dynamic, mark_unbacked and mark_static: what they make of the first recording, what their limits
demand, and the error where a marked size has to be fixed."""

import re

import pytest
import torch
from dynamic_testing import assert_same_as_eager, demands, recordings
from framejit_testing import assert_same
from torch import nn

import framejit


def data(rows: int, width: int = 4) -> torch.Tensor:
    return torch.arange(rows * width, dtype=torch.float32).reshape(rows, width).sin()


def marked(rows: int, dim=0, **limits) -> torch.Tensor:
    x = data(rows)
    framejit.mark_dynamic(x, dim, **limits)
    return x


def double(x):
    return x * x.shape[0] + 1


@pytest.mark.parametrize("dynamic", [None, False])
def test_first_recording_is_open(dynamic):
    compiled = framejit.compile(double, dynamic=dynamic)
    assert torch.equal(compiled(marked(3)), double(data(3)))
    for rows in (4, 5, 1, 9):
        assert_same_as_eager(compiled, double, data(rows))
    assert recordings(compiled) == 1


def test_limits():
    compiled = framejit.compile(double)
    compiled(marked(3, min=2, max=8))
    for rows in (2, 8, 5):
        assert_same_as_eager(compiled, double, data(rows))
    assert recordings(compiled) == 1
    assert demands(compiled) == ["(L['x'].shape[0] >= 2)", "(L['x'].shape[0] <= 8)"]
    for rows in (9, 1, 10, 20):
        assert_same_as_eager(compiled, double, data(rows))
    assert recordings(compiled) == 2


def test_static_dimension():
    """The other dimension stays open; this one has a recording for each size."""

    def function(x):
        return x.t() * 2

    compiled = framejit.compile(function)
    for rows, width in ((3, 4), (4, 4), (5, 4), (9, 4), (3, 5), (4, 5), (8, 5)):
        x = data(rows, width)
        framejit.mark_static(x, 1)
        assert torch.equal(compiled(x), function(x))
    assert recordings(compiled) == 3


def test_static_tensor():
    compiled = framejit.compile(double)
    for rows in (3, 4, 5, 6):
        x = data(rows)
        framejit.mark_static(x)
        assert torch.equal(compiled(x), double(x))
    assert recordings(compiled) == 4


def fixed_by_loop(x):
    y = x + 1
    for i in range(x.shape[0]):
        y = y + i
    return y


def fixed_by_comparison(x):
    y = x + 1
    return y * 2 if x.shape[0] == 3 else y


def fixed_by_text(x):
    y = x + 1
    return y, f"{x.size(0)} rows"


def fixed_by_key(x):
    y = x + 1
    return y * {3: 4}[len(x)]


def fixed_by_half(x):
    y = x + 1
    return y * [1, 2, 3][x.shape[0] // 2]


def fixed_by_c_code(x):
    y = x + 1
    return y * len(bytes(x.shape[0]))


@pytest.mark.parametrize(
    "function, line, by",
    [
        (fixed_by_loop, 2, " by builtins.range"),
        (fixed_by_comparison, 2, ""),
        (fixed_by_text, 2, ""),
        (fixed_by_key, 2, ""),
        (fixed_by_half, 2, ""),
        (fixed_by_c_code, 2, " by builtins.bytes"),
    ],
)
def test_fixed(function, line, by):
    compiled = framejit.compile(function)
    place = f"test_marks.py:{function.__code__.co_firstlineno + line}"
    expected = (
        rf"{function.__name__}: dimension 0 of L\['x'\] is marked dynamic, but .* is fixed to \d{by} \(.*{place}\)"
    )
    with pytest.raises(framejit.DynamicShapeError, match=expected):
        compiled(marked(3))
    # Another dimension of the tensor may be fixed, and so may one that nobody marked.
    compiled = framejit.compile(function)
    compiled(marked(3, dim=1))
    compiled(data(3))


def test_not_served_at_all():
    def function(x):
        return x + 1 if x.contiguous() is x.t().contiguous() else x - 1

    compiled = framejit.compile(function)
    with pytest.raises(framejit.DynamicShapeError, match="holds for no other sizes: tensors are compared by identity"):
        compiled(marked(3))


def test_conditions_are_no_faults():
    def function(x):
        return x + 1 if x.shape[0] > 2 else x - 1

    compiled = framejit.compile(function)
    for rows in (3, 2, 7, 1):
        assert torch.equal(compiled(marked(rows)), function(data(rows)))
    assert recordings(compiled) == 2


def test_mark_of_a_buffer():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("rows", data(3))
            framejit.mark_dynamic(self.rows, -2, min=1)

        def forward(self, x):
            return x @ self.rows.t()

    module = Table()
    compiled = framejit.compile(module)
    for rows in (3, 5, 7):
        module.rows = module.rows if rows == 3 else data(rows)
        # Products add up in an order of their own.
        torch.testing.assert_close(compiled(data(2)), data(2) @ data(rows).t())
    assert recordings(compiled) == 1


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: framejit.mark_dynamic(3, 0), TypeError, "tensor: expected a Tensor, got int"),
        (lambda: framejit.mark_dynamic(data(3), 2), IndexError, "dim: 2 of a tensor with 2 dimensions"),
        (lambda: framejit.mark_dynamic(data(3), "a"), TypeError, "dim: expected an int or several, got str"),
        (lambda: framejit.mark_dynamic(data(3), 0, min="a"), TypeError, "min: expected an int or None, got str"),
        (lambda: framejit.mark_dynamic(data(3), 0, min=4), ValueError, "the size in dimension 0 is 3, not from 4"),
        (lambda: framejit.mark_dynamic(data(3), 0, max=2), ValueError, "the size in dimension 0 is 3, not from None"),
        (lambda: framejit.mark_static(None), TypeError, "tensor: expected a Tensor, got NoneType"),
        (lambda: framejit.mark_static(data(3), -3), IndexError, "dim: -3 of a tensor with 2 dimensions"),
    ],
)
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def unbacked(rows: int, dim=0, width: int = 4) -> torch.Tensor:
    x = data(rows, width)
    framejit.mark_unbacked(x, dim)
    return x


@pytest.mark.parametrize("first", [0, 1, 3])
def test_unbacked_sizes_are_open(first):
    """No size is one of its own: neither 0 nor 1, nor that of the first call."""

    def function(x):
        y = x.softmax(-1) * x.shape[0]
        return y.sum(0) + x.shape[0], y.reshape(-1, 2), torch.cat([y, x])

    compiled = framejit.compile(function, fullgraph=True)
    assert_same(compiled(unbacked(first)), function(data(first)))
    for rows in (0, 1, 2, 7, 100):
        assert_same_as_eager(compiled, function, data(rows))
    assert recordings(compiled) == 1


ASKS = [
    lambda x: x * 2 if x.shape[0] > 3 else x,
    lambda x: x * 2 if x.numel() == 12 else x,
    lambda x: x + sum(range(len(x))),
    lambda x: x + {3: 1}.get(x.size(0), 2),
    lambda x: x * 2 if (x @ x.t()).shape[1] > 3 else x,
    lambda x: (x, str(x.shape[0])),
]


@pytest.mark.parametrize("function", ASKS)
def test_what_asks_for_an_unbacked_size_breaks(function):
    strict = framejit.compile(function, fullgraph=True)
    line = function.__code__.co_firstlineno
    with pytest.raises(framejit.GraphBreakError, match=rf"test_marks.py:{line} .*(shape|numel).*DataDependent"):
        strict(unbacked(3))
    compiled = framejit.compile(function)
    for rows in (3, 5, 3, 8):
        assert_same(compiled(unbacked(rows)), function(data(rows)))


def test_other_dimensions_of_an_unbacked_tensor():
    def function(x):
        return x * 2 if x.shape[1] == 4 and (x + 1).shape[1] == 4 and x.dim() == 2 else x

    compiled = framejit.compile(function, fullgraph=True)
    for rows in (3, 1, 6):
        assert_same(compiled(unbacked(rows)), function(data(rows)))
    assert recordings(compiled) == 1


def test_what_is_known_of_an_unbacked_size():
    def function(x, limit):
        torch._check(x.shape[0] <= limit)
        return x * 2 if 0 <= x.shape[0] <= limit else x

    compiled = framejit.compile(function, fullgraph=True)
    for rows in (3, 1, 6):
        assert_same(compiled(unbacked(rows), 10), function(data(rows), 10))
    with pytest.raises(RuntimeError, match="Expected cond to be True"):
        compiled(unbacked(11), 10)


def test_unbacked_where_no_other_size_holds():
    compiled = framejit.compile(lambda x: x + 1 if x.contiguous() is x.t().contiguous() else x - 1)
    with pytest.raises(framejit.DynamicShapeError, match="dimension 0 of L.'x'. is marked unbacked"):
        compiled(unbacked(3))


def test_arguments_of_mark_unbacked():
    with pytest.raises(TypeError, match="mark_unbacked: tensor"):
        framejit.mark_unbacked(3, 0)
    with pytest.raises(IndexError, match="mark_unbacked: dim"):
        framejit.mark_unbacked(torch.ones(2), 1)
