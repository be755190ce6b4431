"""Kernels of the CPU write mutated inputs themselves, where nothing else needs what those held."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from framejit_testing import vector

import framejit

pytestmark = pytest.mark.cpu


def add(x, y, z):
    x.add_(y)


def chain(x, y, z):
    x.mul_(0.5).add_(y, alpha=2).clamp_(-1, 1)


def returned(x, y, z):
    return x.add_(y)


def replaced(x, y, z):
    z.copy_(torch.relu(x) + y)


def both(x, y, z):
    x.add_(y)
    z.mul_(y)


def exchanged(x, y, z):
    old = x.clone()
    x.copy_(y)
    y.copy_(old)


def rotated(x, y, z):
    z.copy_(x)
    x.add_(1)
    return z * y


def read_later(x, y, z):
    x.add_(y)
    z.copy_(x.sum(0) + y)


def old_read_later(x, y, z):
    row = x.clone()
    x.add_(y)
    return row.sum(1), x.sum(0)


def shifted(x, y, z):
    x.copy_(x.flip(0) + y)


def transposed(x, y, z):
    x.copy_(x.t() * y)


def normalised(x, y, z):
    x.copy_(torch.softmax(x, -1))


def other_softmax(x, y, z):
    z.copy_(torch.softmax(x, -1))


def summed(x, y, z):
    x.copy_(x - x.mean(0))
    return x.amax(1)


def scanned(x, y, z):
    x.copy_(x.cumsum(1))


def row_written(x, y, z):
    x[1].add_(y[0])
    z[:, 2:5] = x[:, 2:5]


def with_a_product(x, y, z):
    x.add_(y)
    return x @ y


def behind_a_product(x, y, z):
    x.add_(x @ y)


def twice(x, y, z):
    x.add_(y)
    z.copy_(x)
    x.mul_(z)


def beside_a_result(x, y, z):
    x.add_(y)
    return torch.softmax(z[:, :7], -1) * 2


FUNCTIONS = [
    add, chain, returned, replaced, both, exchanged, rotated, read_later, old_read_later, shifted, transposed,
    normalised, other_softmax, summed, scanned, row_written, with_a_product, behind_a_product, twice,
    beside_a_result,
]  # fmt: skip
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack((x, x), -1)[..., 1],
    "with offset": lambda x: torch.cat((x, x))[x.shape[0] :],
}


def close(expected):
    # Sums of 33 numbers are added in another order.
    return {"rtol": 1e-6, "atol": 1e-5} if expected.is_floating_point() else {"rtol": 0, "atol": 0}


def check(function, compiled, tensors):
    """Compares results, all of the inputs' storages and what their version counters count."""
    theirs, ours = copy.deepcopy(tensors), copy.deepcopy(tensors)
    before = [t.data_ptr() for t in ours]
    results = []
    for call, given in ((function, theirs), (compiled, ours)):
        result = call(*given)
        results.append([] if result is None else [result] if isinstance(result, torch.Tensor) else list(result))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **close(expected))
        assert actual.stride() == expected.stride()
        places = [[r.data_ptr() == t.data_ptr() for t in given] for r, given in ((expected, theirs), (actual, ours))]
        assert places[0] == places[1]
    for data, expected, actual in zip(before, theirs, ours, strict=True):
        assert actual.data_ptr() == data
        whole = [torch.empty(0, dtype=t.dtype).set_(t.untyped_storage()) for t in (expected, actual)]
        torch.testing.assert_close(whole[1], whole[0], **close(expected))
        assert actual._version == expected._version


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_writes_are_eagers(function, layout):
    compiled = framejit.compile(function, fullgraph=True)
    for seed in range(3):
        check(function, compiled, [LAYOUTS[layout](vector(33, 33, seed=3 * seed + i)) for i in range(3)])
    assert len(framejit._C.traces(compiled)) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_of_each_type(dtype):
    def f(x, y, z):
        x.copy_(torch.where(y, x, z)) if x.dtype == torch.bool else x.mul_(y).add_(z)

    compiled = framejit.compile(f, fullgraph=True)
    tensors = [(vector(40, 37, seed=i) * 5).to(dtype) for i in range(3)]
    check(f, compiled, tensors)


@pytest.mark.parametrize("function", [add, chain, replaced, both, other_softmax, beside_a_result])
def test_no_memory_but_the_inputs(function, monkeypatch, tmp_path):
    monkeypatch.setenv("FRAMEJIT_DUMP_DIR", str(tmp_path))
    compiled = framejit.compile(function, fullgraph=True)
    check(function, compiled, [vector(33, 33, seed=i) for i in range(3)])
    [plan] = tmp_path.glob("*/plan.txt")
    assert "arena: 0 bytes" in plan.read_text()


@pytest.mark.parametrize("function", [exchanged, rotated, old_read_later, transposed, with_a_product])
def test_old_values_that_are_needed_are_kept(function, monkeypatch, tmp_path):
    monkeypatch.setenv("FRAMEJIT_DUMP_DIR", str(tmp_path))
    compiled = framejit.compile(function, fullgraph=True)
    check(function, compiled, [vector(33, 33, seed=i) for i in range(3)])
    [plan] = tmp_path.glob("*/plan.txt")
    assert "arena: 0 bytes" not in plan.read_text()


def outcome(function, tensors):
    try:
        return function(*tensors) is None
    except RuntimeError as error:  # torch refuses to write some of the overlaps
        return str(error)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_inputs_that_share_memory(function):
    """Each way in which two of the three are one memory, behind a call in which none is."""
    compiled = framejit.compile(function)

    def tensors(kind):
        base = vector(66, 33, seed=7)
        x, y, z = (vector(33, 33, seed=i) for i in range(3))
        return {
            "none": [x, y, z],
            "x is y": [x, x, z],
            "y is z": [x, y, y],
            "x is z": [x, y, x],
            "overlap": [base[:33], base[10:43], z],
            "overlap of the written": [base[:33], y, base[10:43]],
        }[kind]

    for kind in ("none", "x is y", "y is z", "x is z", "overlap", "overlap of the written", "none"):
        theirs, ours = tensors(kind), tensors(kind)
        outcomes = [outcome(function, theirs), outcome(compiled, ours)]
        assert outcomes[0] == outcomes[1], kind
        for a, e in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, e, **close(e), msg=kind)


def test_a_lazy_clone_keeps_its_own():
    compiled = framejit.compile(add, fullgraph=True)
    for seed in range(3):
        x, y = vector(33, 33, seed=seed), vector(33, 33, seed=seed + 9)
        lazy, kept = torch._lazy_clone(x), x.clone()
        compiled(lazy, y, y.clone())
        assert torch.equal(x, kept)
        assert torch.equal(lazy, kept + y)


def test_a_call_that_runs_out_of_memory_has_written_once():
    def f(x, y):
        x.add_(1)
        return y.expand(1 << 46, 1) * 2

    compiled = framejit.compile(f)
    y = torch.ones(1)
    for _ in range(3):
        theirs, ours = torch.zeros(40, 40), torch.zeros(40, 40)
        with pytest.raises(RuntimeError) as expected:
            f(theirs, y)
        with pytest.raises(RuntimeError) as actual:
            compiled(ours, y)
        assert str(actual.value).splitlines()[0] == str(expected.value).splitlines()[0]
        assert torch.equal(ours, theirs)


def test_inference_tensors_are_written_in_inference_mode_alone():
    compiled = framejit.compile(add)
    y = vector(9, 9, seed=1)
    with torch.inference_mode():
        theirs, ours = vector(9, 9, seed=2), vector(9, 9, seed=2)
        for _ in range(3):
            add(theirs, y, y.clone())
            compiled(ours, y, y.clone())
        assert torch.equal(ours, theirs)
    for _ in range(2):
        for function, tensor in ((add, theirs), (compiled, ours)):
            with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
                function(tensor, y, y.clone())
        assert torch.equal(ours, theirs)


def test_explain_leaves_the_inputs_written_once():
    x, y, z = (vector(33, 33, seed=i) for i in range(3))
    expected = x + y
    framejit.explain(add)(x, y, z)
    assert torch.equal(x, expected)


def test_a_tensor_that_autograd_saved_was_written():
    def f(x, y, z):
        x.mul_(2)

    compiled = framejit.compile(f)
    for _ in range(2):
        w = vector(8, 8, seed=1).requires_grad_()
        x = vector(8, 8, seed=2)
        loss = (w * x).sum()
        compiled(x, x.clone(), x.clone())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_threads_write_inputs_of_their_own():
    compiled = framejit.compile(chain, fullgraph=True)

    def work(seed):
        for i in range(30):
            check(chain, compiled, [vector(33, 33, seed=100 * seed + 3 * i + j) for j in range(3)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))  # raises what a thread raised


def huge_pages() -> bool:
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled") as setting:
            return "[never]" not in setting.read()
    except OSError:
        return False


@pytest.mark.skipif(not huge_pages(), reason="the system has no transparent huge pages")
def test_large_results_ask_for_huge_pages():
    x = torch.ones(4096, 4096)
    result = framejit.compile(lambda x: torch.relu(x + 1) * 0.5)(x)
    middle = result.data_ptr() + result.numel() * 2
    flags = None
    with open("/proc/self/smaps") as maps:
        inside = False
        for line in maps:
            head = line.split()[0]
            if "-" in head and ":" not in head:
                begin, end = (int(part, 16) for part in head.split("-"))
                inside = begin <= middle < end
            elif inside and head == "VmFlags:":
                flags = line.split()[1:]
    assert "hg" in flags
