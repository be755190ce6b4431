"""The shadow check: sampled calls run in eager mode as well, and must do the same."""

import pytest
import torch
from framejit_testing import vector

import framejit

X = vector(4, 6, seed=1)
F = torch.nn.functional


@pytest.fixture(autouse=True)
def shadow():
    framejit.set_checks("shadow")
    yield
    framejit.set_checks("")


def checked():
    return framejit._C.shadow_counts()[0]


def wrong(change):
    """A backend that changes its first result."""

    def backend(module, _):
        def run(*inputs):
            results = module(*inputs)
            return [change(results[0]), *results[1:]] if isinstance(results, tuple | list) else change(results)

        return run

    return backend


WRONG = {
    "values": (lambda t: t * 1.01, "the result differs: by"),
    "dtype": (lambda t: t.double(), "the result.dtype is torch.float64, in eager mode torch.float32"),
    "layout": (lambda t: t.t().contiguous().t(), r"the result.stride\(\) is \(1, 4\), in eager mode \(6, 1\)"),
    "gradient": (lambda t: t.clone().requires_grad_(), "the result.requires_grad is True, in eager mode False"),
    "values that are none": (lambda t: torch.where(t > 1, float("nan"), t), "the result differs: by inf"),
}


@pytest.mark.internal_errors(1)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_backend_is_found(name, caplog):
    change, message = WRONG[name]
    compiled = framejit.compile(lambda x: torch.relu(x) + 1, backend=wrong(change))
    with pytest.raises(framejit.CheckError, match=message) as caught:
        compiled(X)
    text = str(caught.value)
    assert "a recording of " in text and "aten::relu" in text and text in caplog.text


@pytest.mark.internal_errors(1)
def test_memory_that_is_shared_with_an_input():
    compiled = framejit.compile(lambda x: x[1:], backend=wrong(torch.clone))
    with pytest.raises(framejit.CheckError, match="storage_offset|has memory of its own, in eager mode shares memory"):
        compiled(X)


@pytest.mark.internal_errors(1)
def test_memory_that_results_share():
    compiled = framejit.compile(lambda x: [x + 1, 2], backend=wrong(lambda t: t))
    compiled(X)

    def two(x):
        y = x + 1
        return y, y[:]

    compiled = framejit.compile(two, backend=wrong(torch.clone))
    with pytest.raises(framejit.CheckError, match=r"the result\[1\] has memory of its own, in eager mode shares"):
        compiled(X)


def test_right_results_pass():
    def several(x, w, *rest, scale=2, **more):
        y = torch.softmax(x @ w, -1) * scale
        return {"y": y, "rows": [y[0], y[1:]], "sums": (y.sum(), len(rest)), "more": more, "same": y}

    compiled, before = framejit.compile(several), checked()
    for scale in (2, 2, 3):
        results = compiled(X, X.t(), 1, 2, scale=scale, extra="text")
        assert results["same"] is results["y"]
    assert checked() == before + 3


@pytest.mark.internal_errors(1)
def test_what_is_written_is_compared():
    compiled = framejit.compile(lambda x: (x.mul_(2), x.sum())[1])
    x = X.clone()
    before = checked()
    assert torch.allclose(compiled(x), (X * 2).sum()) and torch.equal(x, X * 2)
    assert x._version == 1 and checked() == before + 1

    def backend(module, _):
        def run(x):
            result = module(x)
            x[0, 0] = 9.0
            return result

        return run

    compiled = framejit.compile(lambda x: (x.mul_(2), x.sum())[1], backend=backend)
    x = X.clone()
    with pytest.raises(framejit.CheckError, match="what is written to x differs|what is written to L\\['x'\\] differs"):
        compiled(x)
    assert torch.equal(x, X) and x._version == 0, "nothing of the call has happened"


def test_running_statistics():
    norm, twin = torch.nn.BatchNorm1d(6), torch.nn.BatchNorm1d(6)
    compiled, before = framejit.compile(lambda x: norm(x)), checked()
    with torch.no_grad():
        for _ in range(3):
            assert torch.allclose(compiled(X), twin(X), atol=1e-6)
    assert int(norm.num_batches_tracked) == int(twin.num_batches_tracked)
    assert torch.allclose(norm.running_mean, twin.running_mean)
    assert checked() > before


def test_random_numbers_are_those_of_one_call():
    def dropped(x):
        return F.dropout(x, 0.5) + torch.rand(6)

    torch.manual_seed(5)
    expected = [dropped(X) for _ in range(3)]
    after = torch.get_rng_state()
    torch.manual_seed(5)
    compiled, before = framejit.compile(dropped), checked()
    for e in expected:
        assert torch.equal(compiled(X), e)
    assert torch.equal(torch.get_rng_state(), after)
    assert checked() == before + 3


def test_gradients():
    weight = vector(6, 3, seed=2).requires_grad_()
    compiled, before = framejit.compile(lambda x: torch.tanh(x @ weight).sum()), checked()
    for _ in range(2):
        weight.grad = None
        compiled(X).backward()
    gradient, weight.grad = weight.grad, None
    torch.tanh(X @ weight).sum().backward()
    assert torch.allclose(gradient, weight.grad, atol=1e-6) and weight._version == 0
    assert checked() == before + 2


def test_calls_that_change_objects_happen_once_and_are_counted():
    log = []

    def logs(x):
        log.append(x.shape[0])
        return x + 1

    def breaks(x):
        y = x + 1
        framejit.graph_break()
        return y * 2

    left_out = framejit._C.shadow_counts()[1]
    assert torch.equal(framejit.compile(logs)(X), X + 1) and log == [4]
    assert framejit._C.shadow_counts()[1] == left_out + 1
    assert torch.equal(framejit.compile(breaks)(X), (X + 1) * 2)
    assert framejit._C.shadow_counts()[1] == left_out + 3


def test_what_raises_does_so_once():
    def raises(x, w):
        return x.view(5, -1) @ w

    compiled = framejit.compile(raises)
    with pytest.raises(RuntimeError, match="shape"):
        compiled(X, X)


def test_a_rate_samples_by_number():
    framejit.set_checks("shadow:0.25")
    compiled, before = framejit.compile(lambda x: x + 1), checked()
    for _ in range(9):
        compiled(X)
    assert checked() == before + 3


@pytest.mark.parametrize("text", ["shadow:0", "shadow:2", "shadow:x", "shadow:"])
def test_a_bad_rate_is_an_error(text):
    with pytest.raises(ValueError, match="the rate of shadow is a number above 0 and at most 1"):
        framejit.set_checks(text)


def test_views_that_autograd_forbids():
    """Since what they are of was written they raise where they are asked for their history."""

    def function(x):
        a = x.exp()
        rows = a.unbind()
        a.add_(1)
        return rows

    compiled = framejit.compile(function)
    for _ in range(3):
        rows = compiled(torch.ones(3, requires_grad=True))
        assert [row.detach().item() for row in rows] == [row.detach().item() for row in function(torch.ones(3))]
        with pytest.raises(RuntimeError, match="multiple views"):
            rows[0].is_leaf  # noqa: B018
