"""Modules of Python backends whose sizes are SymInts: one call of the backend for all sizes, what it is given, and what
happens where sizes have no expressions or the backend takes them for given."""

import math

import pytest
import torch
from dynamic_testing import PythonBackend, assert_same_as_eager, recordings
from framejit_testing import assert_same, counting
from torch import nn
from torch.nn import functional as F

import framejit

SIZES = [(5, 3), (4, 6), *((rows, columns) for rows in (2, 3, 7, 16, 31) for columns in (2, 5, 8, 13))]


def data(*sizes: int) -> torch.Tensor:
    return torch.arange(sizes[0] * sizes[1], dtype=torch.float32).reshape(*sizes).sin()


def halves(x):
    count = x.shape[0] * x.shape[1] // 2
    return x.flatten()[:count] * torch.arange(count) + len(x), count


@pytest.mark.parametrize("name", [None, "eager", "aot_eager"])
def test_one_call_for_all_sizes(name):
    """The first recording is for its sizes; the second is for all, and its backend is called once."""
    backend = PythonBackend(name)
    compiled = framejit.compile(halves, backend=backend)
    for sizes in SIZES:
        assert_same_as_eager(compiled, halves, data(*sizes))
    assert recordings(compiled) == 2
    assert (len(backend.modules), len(backend.symbolic)) == (2, 1)


@pytest.mark.parametrize("name", ["eager", "aot_eager"])
def test_by_name(name):
    compiled = framejit.compile(halves, backend=name, dynamic=True)
    for sizes in SIZES:
        assert_same_as_eager(compiled, halves, data(*sizes))
    assert recordings(compiled) == 1


def test_what_the_backend_is_given():
    backend = PythonBackend()
    compiled = framejit.compile(lambda x, w: halves(x @ w)[0].view(-1, 1), backend=backend, dynamic=True)
    x, w = data(4, 6), torch.ones(6, 8, requires_grad=True)
    compiled(x, nn.Parameter(w))
    (module,), (inputs,) = backend.modules, backend.inputs
    nodes = {node.name: node for node in module.graph.nodes}
    values = {name: node.meta["val"] for name, node in nodes.items() if "val" in node.meta}
    rows, tensors = next(iter(values.values())), [value for value in values.values() if isinstance(value, torch.Tensor)]
    # Sizes come first, as TorchDynamo has it. That of the weight is given, and so is that of the product with it.
    assert [type(value) for value in inputs] == [torch.SymInt, torch.Tensor, nn.Parameter]
    assert inputs[0] is rows and inputs[1] is x
    assert [node.op for node in module.graph.nodes][:4] == ["placeholder"] * 3 + ["call_function"]
    assert all(isinstance(value, torch._subclasses.FakeTensor) for value in tensors)
    assert str(tensors[0].shape) == f"torch.Size([{rows}, 6])" and tensors[0].stride() == (6, 1)
    assert str(tensors[1].shape) == "torch.Size([6, 8])" and tensors[1].requires_grad
    assert str(tensors[2].shape) == f"torch.Size([{rows}, 8])" and tensors[2].requires_grad
    assert str(tensors[-1].shape) == f"torch.Size([4*{rows}, 1])"
    assert [str(values[name]) for name in ("mul", "floordiv")] == [f"8*{rows}", f"4*{rows}"]
    assert all(node.meta["example_value"] is values[node.name] for node in module.graph.nodes if "val" in node.meta)
    assert nodes["arange"].args == (nodes["floordiv"],)


def test_sizes_of_results():
    """What no size of an input is, is asked of the tensor."""

    def function(x):
        y = x[x.shape[0] // 2 :]
        return y.reshape(y.numel(), 1).expand(-1, y.size(0)) + y.stride(0)

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, dynamic=True)
    for sizes in SIZES:
        if sizes[0] > 2:  # of two rows, one is left
            assert_same_as_eager(compiled, function, data(*sizes))
    (module,) = backend.modules
    targets = [node.target for node in module.graph.nodes]
    assert torch.ops.aten.sym_numel.default in targets and torch.ops.aten.sym_size.int in targets
    assert len(backend.symbolic) == 1


def test_zero_and_one():
    """Each of them is given where a call has it: as for torch.compile."""
    backend = PythonBackend()
    compiled = framejit.compile(halves, backend=backend, dynamic=True)
    for sizes in [(3, 5), (1, 5), (1, 7), (4, 1), (1, 1), (0, 3), (0, 4), (6, 6), (5, 1)]:
        assert_same_as_eager(compiled, halves, data(*sizes))
    assert recordings(compiled) == 1
    assert len(backend.modules) == 5


def test_layouts():
    """Strides are open as sizes are; modules are for the order that they say."""
    backend = PythonBackend("aot_eager")
    compiled = framejit.compile(lambda x: (x * x.shape[0]).view(-1), backend=backend, dynamic=True)
    for rows in (3, 5, 8, 4):
        for x in (data(rows, 4), data(4, rows).t().contiguous(), data(rows, 9)[:, 2:6], data(rows + 2, 6)[2:]):
            assert torch.equal(compiled(x), (x * rows).view(-1))
    assert recordings(compiled) == 1
    assert len(backend.modules) <= 2


def test_written_inputs():
    def function(x, total):
        total.add_(x.sum(0))
        x.mul_(x.shape[0])
        return total * 2

    backend = PythonBackend("aot_eager")
    compiled = framejit.compile(function, backend=backend)
    for sizes in SIZES:
        assert_same_as_eager(compiled, function, data(*sizes), torch.zeros(sizes[1]))
        ours, theirs = ((data(*sizes), torch.ones(sizes[1])) for _ in range(2))
        compiled(*ours)
        function(*theirs)
        assert_same(ours, theirs)
    assert len(backend.symbolic) == 1


def test_modes_inside():
    """Making the values sets what the program sets, and puts it back."""
    w = torch.ones(4, requires_grad=True)

    def function(x):
        with torch.no_grad():
            y = x * w * x.shape[0]
        return y + w

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, dynamic=True)
    for rows in (3, 5, 8):
        assert_same_as_eager(compiled, function, data(rows, 4))
        assert torch.is_grad_enabled()
    assert len(backend.symbolic) == len(backend.modules) == 1


def test_random_numbers():
    def function(x):
        return F.dropout(x, 0.5) + torch.rand(x.shape[0], 1)

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, dynamic=True)
    for rows in (3, 5, 8):
        torch.manual_seed(rows)
        actual, state = compiled(data(rows, 4)), torch.get_rng_state()
        torch.manual_seed(rows)
        assert torch.equal(actual, function(data(rows, 4)))
        assert torch.equal(state, torch.get_rng_state())
    assert len(backend.symbolic) == len(backend.modules) == 1


def test_marked():
    backend = PythonBackend()
    compiled = framejit.compile(halves, backend=backend)
    for sizes in SIZES:
        x = data(*sizes)
        framejit.mark_dynamic(x, 0, min=2)
        assert_same(compiled(x), halves(x))
    assert recordings(compiled) == 1
    assert len(backend.symbolic) == len(backend.modules) == 1


def test_static_dimension_is_given():
    backend = PythonBackend()
    compiled = framejit.compile(halves, backend=backend, dynamic=True)
    for rows in (3, 5, 8):
        x = data(rows, 4)
        framejit.mark_static(x, 1)
        assert_same(compiled(x), halves(x))
    (module,) = backend.symbolic
    tensor = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
    assert str(tensor.meta["val"].shape).endswith(", 4])")


def test_data_dependent_sizes():
    def function(x):
        picked = x[x > 0]
        return picked.view(-1, 1) * picked.shape[0]

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, data_dependent=True)
    for sizes in SIZES:
        assert_same_as_eager(compiled, function, data(*sizes))
    assert len(backend.symbolic) >= 1
    assert len(backend.modules) <= 3


# --- what is not served ----------------------------------------------------------------------------------------------


def test_static_on_request():
    backend = PythonBackend()
    compiled = framejit.compile(halves, backend=backend, dynamic=False)
    for sizes in SIZES[:6]:
        assert_same_as_eager(compiled, halves, data(*sizes))
    assert recordings(compiled) == len(backend.modules) == 6
    assert backend.symbolic == []


def test_backend_without_symbolic_sizes():
    """It raises, and gets modules for given sizes as before."""

    def backend(module, inputs):
        if not all(isinstance(value, torch.Tensor) for value in inputs):
            raise NotImplementedError("sizes have to be given")
        modules.append(module)
        return module.forward

    modules = []
    compiled = framejit.compile(halves, backend=backend)
    for sizes in SIZES[:6]:
        assert_same_as_eager(compiled, halves, data(*sizes))
    assert recordings(compiled) == len(modules) == 6


def test_backend_that_takes_sizes_for_given():
    """It may: what it asks a SymInt for is assumed, and the module is right where that holds."""

    def backend(module, inputs):
        rows = next((int(value) for value in inputs if isinstance(value, torch.SymInt)), None)
        calls.append(rows)

        def run(*values):
            assert rows is None or next(value for value in values if isinstance(value, int)) == rows
            return module.forward(*values)

        return run

    calls: list = []
    compiled = framejit.compile(lambda x: x * x.shape[0], backend=backend)
    for rows in (*range(2, 40), *range(2, 40)):
        x = data(rows, 4)
        assert torch.equal(compiled(x), x * rows)
    assert len(calls) < 38


def test_no_expression(caplog):
    """math.gcd of a size is none of torch's."""

    def function(x):
        return x * math.gcd(x.shape[0], 12)

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend)
    framejit.set_logs("symbols")
    try:
        with caplog.at_level("DEBUG", logger="framejit"):
            for rows in (3, 5, 8, 9):
                assert_same_as_eager(compiled, function, data(rows, 4))
    finally:
        framejit.set_logs("")
    assert "function is recorded for given sizes: " in caplog.text and "gcd has no expression" in caplog.text
    assert recordings(compiled) == len(backend.modules) == 4
    assert backend.symbolic == []


def test_numbers_are_given():
    """Only sizes are symbolic: a number that varies has a recording for each value."""
    compiled, backend = counting(lambda x, n: x * n)
    for n in (2, 3, 4):
        assert torch.equal(compiled(data(3, 4), n), data(3, 4) * n)
    assert backend.count == 3
