"""Matrix products of compiled graphs: as accurate as eager's against float64, whatever the shapes and layouts."""

import random

import pytest
import torch

import framejit


def matrix(layout: str, *sizes: int) -> torch.Tensor:
    """Of these sizes: row-major ("rows"), column-major ("columns"), or a slice of a larger one."""
    if layout == "columns":
        return torch.randn(*sizes[:-2], sizes[-1], sizes[-2]).transpose(-1, -2)
    if layout == "slice":
        return torch.randn(*sizes[:-1], sizes[-1] + 5)[..., 2 : sizes[-1] + 2]
    return torch.randn(*sizes)


def check(function, *tensors, eager_for=None):
    compiled = framejit.compile(function, dynamic=False, fullgraph=True)
    with torch.no_grad():
        expected, got = function(*tensors), compiled(*tensors)
        exact = (eager_for or function)(*(t.double() for t in tensors))
    assert got.shape == expected.shape and got.stride() == expected.stride()
    scale = exact.abs().max().item()
    ours, theirs = (((x.double() - exact).abs().max()).item() for x in (got, expected))
    assert ours <= 1.5 * theirs + 2e-7 * scale, (ours, theirs)
    return compiled


@pytest.mark.parametrize("seed", range(40))
def test_shapes_and_layouts(seed):
    choose = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 20, 24, 31, 33, 47, 64, 97, 128, 200, 300]
    rows, columns, depth = (choose.choice(sizes) for _ in range(3))
    layouts = [choose.choice(["rows", "columns", "slice"]) for _ in range(3)]
    a, b = matrix(layouts[0], rows, depth), matrix(layouts[1], depth, columns)
    check(lambda a, b: torch.mm(a, b), a, b)
    check(lambda c, a, b: torch.addmm(c, a, b), torch.randn(columns), a, b)
    check(lambda c, a, b: torch.addmm(c, a, b), matrix(layouts[2], rows, columns), a, b)
    check(lambda c, a, b: torch.addmm(c, a, b, alpha=0.5, beta=2), torch.randn(rows, 1), a, b)
    batch = choose.choice([1, 2, 5])
    a, b = matrix(layouts[0], batch, rows, depth), matrix(layouts[1], batch, depth, columns)
    check(lambda a, b: torch.bmm(a, b), a, b)
    check(lambda c, a, b: torch.baddbmm(c, a, b), matrix(layouts[2], batch, rows, columns), a, b)
    check(lambda a, b: torch.bmm(a, b[:1].expand_as(b)), a, b)


@pytest.mark.parametrize("depth", [1000, 5000])
def test_long_sums(depth):
    torch.manual_seed(0)
    for rows in (1, 6, 64):
        x, weight = torch.randn(rows, depth), torch.randn(40, depth)
        check(lambda x, w: torch.nn.functional.linear(x, w), x, weight)
        check(lambda x, w: x @ w, x, weight.t().contiguous())


def test_an_addend_that_is_not_read():
    nan = torch.full((1, 8), float("nan"))
    a, b = torch.randn(4, 6), torch.randn(6, 8)
    check(lambda c, a, b: torch.addmm(c, a, b, beta=0), nan, a, b)


@pytest.mark.parametrize("rows", [1, 9, 50])
def test_special_values_spread_as_in_eager(rows):
    a, b = torch.randn(rows, 20), torch.randn(20, 30)
    a[0, 3], b[5, 7], b[3, 2], a[rows - 1, 9], b[9] = float("inf"), float("nan"), 0, 0, float("-inf")
    with torch.no_grad():
        expected = a @ b
        for right in (b, b.t().contiguous().t()):
            got = framejit.compile(lambda a, b: a @ b)(a, right)
            assert torch.equal(got.isnan(), expected.isnan())
            assert torch.equal(got[got.isinf()], expected[expected.isinf()])


@pytest.mark.parametrize("sizes", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1)])
def test_empty_and_single(sizes):
    rows, columns, depth = sizes
    a, b, c = torch.randn(rows, depth), torch.randn(depth, columns), torch.randn(columns)
    with torch.no_grad():
        for f in (lambda a, b, c: a @ b, lambda a, b, c: torch.addmm(c, a, b)):
            torch.testing.assert_close(framejit.compile(f)(a, b, c), f(a, b, c))


def test_threads_do_not_change_results():
    a, b = torch.randn(70, 300), torch.randn(300, 500)
    compiled = framejit.compile(lambda a, b: a @ b)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(compiled(a, b))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], r) for r in results[1:])
