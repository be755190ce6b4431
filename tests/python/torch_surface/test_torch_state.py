"""torch's state set inside of a function: inference mode, the default dtype, the default device."""

import contextlib
import subprocess
import sys

import pytest
import torch
from framejit_testing import Cases, assert_same, check, counting, vector

import framejit

F = torch.nn.functional

case = Cases()
X, Y = vector(4, 6, seed=1), vector(4, 6, seed=2)
I = torch.arange(6).reshape(2, 3)  # noqa: E741
LAYER = torch.nn.Linear(6, 3)
WEIGHT = torch.nn.Parameter(vector(6, seed=3))


def state():
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch._C._is_fwd_grad_enabled(),
        torch._C._is_multithreading_enabled(), torch.get_default_dtype(), torch.get_default_device(),
    )  # fmt: skip


# --- inference mode ---------------------------------------------------------------------------------------------------
@case(X)
def inference(x):
    with torch.inference_mode():
        return x * 2 + 1


@case(X, grad=True)
def inference_results_and_others(x):
    y = x + 1
    with torch.inference_mode():
        z = y * 2
        w = z[1:].t()
    return y, z, w, z + 1, w * 2, torch.is_inference_mode_enabled()


@torch.inference_mode()
def predict(x):
    return LAYER(x).softmax(-1)


@case(X, grad=True)
def a_decorated_function(x):
    return predict(x), torch.is_inference_mode_enabled()


@case(X, grad=True)
def a_decorated_function_without_call(x):
    @torch.inference_mode
    def inner(t):
        return t.sin(), torch.is_inference_mode_enabled()

    return inner(x)


@case(X, grad=True)
def nested_modes(x):
    with torch.no_grad():
        a = x * 1
        with torch.inference_mode():
            b = x * 2
            with torch.inference_mode(False):
                c, modes = x * 3, (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
            with torch.inference_mode(mode=True), torch.enable_grad():
                d = x * 4
        e = x * 5
    return a, b, c, d, e, modes, torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@case(X, grad=True)
def not_in_inference_mode(x):
    with torch.inference_mode(False):
        return x * 2, torch.is_grad_enabled()


@case(X, grad=False)
def gradients_on_behind_no_grad(x):
    with torch.inference_mode(False):
        y = (WEIGHT * x[0]).sum()
    return y.requires_grad, (WEIGHT * x[0]).requires_grad


@case(X)
def views_of_normal_tensors(x):
    with torch.inference_mode():
        a, b = x.view(-1), x.clone()
        c = b.view(2, 12)
    return a, b, c, a.is_inference(), b.is_inference(), c.is_inference()


@case(X)
def writes_in_inference_mode(x):
    y = x * 1
    with torch.inference_mode():
        y.add_(1)
        x.mul_(2)
        z = torch.zeros(3).add_(1)
        z[0] = 5
    return y, z, x


@case(X)
def constants_in_inference_mode(x):
    with torch.inference_mode():
        one = torch.tensor([1.0, 2.0])
        ramp = torch.arange(6.0)
    return one, ramp, x + ramp, one.is_inference()


@case(X, grad=True)
def gradients_beside_inference_mode(x):
    with torch.inference_mode():
        target = torch.zeros(6)
    y = (x * WEIGHT).sum()
    return y, target, y.requires_grad


@case(X, graphs=1, breaks=0)
def entered_by_hand(x):
    mode = torch.inference_mode()
    mode.__enter__()
    y = x + 1
    mode.__exit__(None, None, None)
    return y, x + 2


@case(X)
def left_by_an_exception(x):
    try:
        with torch.inference_mode():
            y = x * 2
            raise ValueError("out")
    except ValueError as error:
        return y, str(error), torch.is_inference_mode_enabled(), x + 1


@case(X, grad=True)
def a_generator_context(x):
    @contextlib.contextmanager
    def quiet():
        with torch.inference_mode():
            yield 3

    with quiet() as factor:
        y = x * factor
    return y, torch.is_inference_mode_enabled()


@case(X)
def complex_results_of_inference_mode(x):
    with torch.inference_mode():
        z = torch.complex(x, x + 1)
        return z.conj(), z.imag, torch.view_as_real(z), z.conj().imag


@case(X)
def modules_and_containers(x):
    with torch.inference_mode():
        return {"out": LAYER(x), "parts": [row.sum() for row in x.unbind()]}


# --- default dtype ----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@case(X)
def another_default_dtype(x):
    with default_dtype(torch.float64):
        a, b, c = torch.ones(3), torch.tensor([1.5]), torch.rand(2)
        d = x * 2.0
        inside = torch.get_default_dtype()
    return a, b, c, d, torch.ones(2), inside, torch.get_default_dtype()


@case(I)
def integers_under_another_default_dtype(i):
    with default_dtype(torch.float64):
        a, b, c = i / 2, i.sqrt(), i * 1.5
    return a, b, c, i / 2, i * 1.5


@case(X)
def only_floats_under_another_default_dtype(x):
    with default_dtype(torch.bfloat16):
        y = LAYER(x) * 2.0
    return y.relu()


@case(I)
def dtype_limits(i):
    with default_dtype(torch.float64):
        wide = torch.finfo().max
    return i / torch.finfo().tiny * 0, torch.finfo(torch.float16).eps, torch.iinfo(i.dtype).max, wide


@case(I)
def dtypes_by_name(i):
    torch.set_default_dtype(torch.float16)
    a = torch.zeros(2)
    torch.set_default_dtype(torch.float32)
    return a, i / 3


# --- default device ---------------------------------------------------------------------------------------------------
@case(X)
def on_the_cpu(x):
    with torch.device("cpu") as device:
        y = torch.zeros(6) + torch.arange(6.0) + torch.tensor(1.0)
        where = torch.get_default_device()
    return x + y, device, where, torch.get_default_device()


def test_the_first_device_of_a_process():
    """Torch imports what it needs for that late."""
    code = """
import framejit, torch
def function(x):
    with torch.device("cpu"):
        return torch.zeros(3) + x
report = framejit.explain(function)(torch.ones(3))
assert (len(report.graphs), report.break_count) == (1, 0), report
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@case(X)
def an_explicit_device_wins(x):
    with torch.device("cpu"):
        return x + torch.ones(6, device=x.device) + torch.full((6,), 2.0, device="cpu")


@case(X)
def nested_devices(x):
    with torch.device("cpu"):
        with torch.device("cpu"):
            y = torch.eye(6)
        z = torch.zeros(())
    return x @ y + z


@case(X)
def a_device_and_inference_mode(x):
    with torch.device("cpu"), torch.inference_mode():
        return x + torch.ones(6)


@pytest.mark.parametrize(*case.table)
def test_state(function, args, expectations):
    before = state()
    check(function, *args, **expectations)
    assert state() == before


# --- what is left changed ---------------------------------------------------------------------------------------------
def left_changed(function, put_back, graphs=1):
    compiled, backend = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            before = state()
            try:
                results = []
                for call in (function, target):
                    result = call(X)
                    results.append((result, result[0].is_inference(), state(), torch.ones(1), X * 1))
                    put_back()
            finally:
                put_back()
            assert state() == before
            assert_same(results[1], results[0])
    assert backend.count == graphs


def test_inference_mode_is_left_on():
    def function(x):
        mode = torch.inference_mode()
        mode.__enter__()
        open_modes.append(mode)
        return x * 2, x + 1

    open_modes = []
    left_changed(function, lambda: [open_modes.pop().__exit__(None, None, None) for _ in list(open_modes)])


def test_the_default_dtype_is_left_changed():
    def function(x):
        y = x * 2
        torch.set_default_dtype(torch.float64)
        return y, torch.ones(2)

    left_changed(function, lambda: torch.set_default_dtype(torch.float32))


@pytest.mark.cpu
def test_the_default_device_is_set():
    def function(x):
        y = x * 2
        torch.set_default_device("meta")
        z = torch.ones(2)
        torch.set_default_device(None)
        return y, z, x + 1

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            assert_same(target(X), function(X))
            assert torch.get_default_device() == torch.device("cpu")


# --- breaks inside ----------------------------------------------------------------------------------------------------
def test_a_break_in_inference_mode():
    def function(x):
        y = x + 1
        with torch.inference_mode():
            z = y * 2
            framejit.graph_break()
            w = z + 1
        return y, z, w, y + w, torch.is_inference_mode_enabled()

    check(function, X, graphs=2, breaks=1)
    check(function, X, graphs=2, breaks=1, grad=True)


def test_an_exception_behind_a_break_in_inference_mode():
    def function(x):
        with torch.inference_mode():
            y = x * 2
            framejit.graph_break()
            return y.view(5)

    before = state()
    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function), compiled):
        with pytest.raises(RuntimeError):
            target(X)
        assert state() == before


def test_a_break_under_another_default_dtype():
    def function(x):
        torch.set_default_dtype(torch.float64)
        y = torch.ones(6)
        framejit.graph_break()
        z = torch.ones(6)
        torch.set_default_dtype(torch.float32)
        return x + y, z, torch.ones(1)

    check(function, X, graphs=2, breaks=1)


@pytest.mark.cpu
def test_a_break_on_another_device():
    def function(x):
        y = x * 2
        with torch.device("cpu"):
            z = torch.ones(6)
            framejit.graph_break()
            w = torch.zeros(6)
        return y + z + w

    before = state()
    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            assert_same(target(X), function(X))
            assert state() == before


# --- state at entry ---------------------------------------------------------------------------------------------------
def test_recompiles_where_the_state_differs_at_entry():
    def function(x):
        with torch.inference_mode():
            y = x * 2
        return y, x + 1, torch.ones(2), torch.is_inference_mode_enabled()

    compiled, backend = counting(function)
    native = framejit.compile(function)
    contexts = [contextlib.nullcontext, torch.inference_mode, torch.no_grad, lambda: default_dtype(torch.float64)]
    for graphs, context in enumerate(contexts, 1):
        for _ in range(2):
            with context():
                expected = function(X)
                for target in (compiled, native):
                    actual = target(X)
                    assert_same(actual, expected)
                    assert [t.is_inference() for t in actual[:3]] == [t.is_inference() for t in expected[:3]]
        assert backend.count == graphs


def test_inference_mode_off_inside_of_inference_mode():
    def function(x):
        a = x * 2
        with torch.inference_mode(False):
            b = torch.ones(6) + 1
            c = (WEIGHT * b).sum()
        return a, b, c, x + 1

    compiled, backend = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            with torch.inference_mode():
                expected, actual = function(X), target(X)
            assert_same(actual, expected)
            assert [t.is_inference() for t in actual] == [t.is_inference() for t in expected]
            actual[2].backward()
            actual[1].add_(1)
    assert backend.count == 1


def test_inference_tensors_as_arguments():
    def function(x):
        with torch.inference_mode():
            x.add_(1)
            y = x * 2
        return y, x + y

    with torch.inference_mode():
        inputs = [X.clone(), X.clone(), X.clone()]
    compiled, backend = counting(function)
    native = framejit.compile(function)
    for _ in range(3):
        expected, first, second = function(inputs[0]), compiled(inputs[1]), native(inputs[2])
        for actual, argument in ((first, inputs[1]), (second, inputs[2])):
            assert_same(actual, expected)
            assert torch.equal(argument, inputs[0])
            assert [t.is_inference() for t in actual] == [True, False]
    assert backend.count == 1


@pytest.mark.cpu
def test_writes_to_inference_tensors_outside_of_the_mode_raise():
    def function(x):
        with torch.inference_mode():
            y = x * 2
        return y.add_(1)

    check(function, X, graphs=1, breaks=0)


def test_results_stay_usable():
    def function(x):
        with torch.inference_mode():
            return x * 2

    for target in (counting(function)[0], framejit.compile(function)):
        for _ in range(2):
            y = target(X)
            with pytest.raises(RuntimeError, match="Inference tensors do not track version counter"):
                y._version  # noqa: B018
            w = torch.ones(6, requires_grad=True)
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
                w * y  # noqa: B018
            assert torch.equal(y.clone().add_(1), X * 2 + 1)
            with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
                y.add_(1)


@pytest.mark.parametrize("backend", ["interp", "cpu", "eager", "aot_eager"])
@pytest.mark.parametrize("grad", [False, True])
def test_regions_without_autocast_in_one_with_it(backend, grad):
    """Whatever becomes of the graph behind its recording: writes are taken out of it, constants are folded."""
    w, constant = torch.randn(6, 5), torch.randn(6, 6)

    def function(x):
        with torch.autocast("cpu", enabled=False):
            y = x @ w
            y.add_(1)
            folded = torch.ones(6, 6) @ torch.full((6, 6), 1.0 + 2**-12)
            z = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
        return y, x @ w, folded, z, x @ constant

    compiled = framejit.compile(function, backend=backend, fullgraph=True)
    with torch.autocast("cpu"):
        for _ in range(2):
            x = X.clone().requires_grad_(grad)
            torch.manual_seed(3)
            expected = function(x)
            torch.manual_seed(3)
            for got, wanted in zip(compiled(x), expected, strict=True):
                assert got.dtype == wanted.dtype and got.requires_grad == wanted.requires_grad
                torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.cpu
@pytest.mark.parametrize("backend", ["interp", "cpu", "eager"])
def test_attention_with_dropout_under_autocast(backend):
    """Its kernel computes in single precision, without autocast."""

    def function(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)

    q, k, v = (torch.randn(2, 2, 8, 4, generator=torch.Generator().manual_seed(s)) for s in range(3))
    compiled = framejit.compile(function, backend=backend, fullgraph=True)
    with torch.autocast("cpu"):
        for seed in range(4):
            torch.manual_seed(seed)
            expected = function(q, k, v)
            torch.manual_seed(seed)
            torch.testing.assert_close(compiled(q, k, v), expected, rtol=2**-8, atol=2**-10)


@pytest.mark.cpu
def test_a_graph_that_raises_leaves_the_state_as_it_was():
    def function(x, i):
        with torch.no_grad(), torch.autocast("cpu"):
            y = x[i] + torch.ones(1)
        return y

    before = state()
    for backend in ("eager", "cpu", "interp"):
        compiled = framejit.compile(function, backend=backend)
        compiled(X, torch.tensor([1]))
        with pytest.raises(IndexError):
            compiled(X, torch.tensor([9]))
        assert not torch.is_autocast_enabled("cpu")
        assert state() == before
