"""`data_dependent=True` with Python backends: what comes of data is an unbacked symbol of a module, which is one graph
without a break. What is taken for granted of such a symbol is checked in each call; where that fails, or nothing can be
said without it, the program gives what eager gives all the same."""

import operator

import pytest
import torch
from data_testing import FUNCTIONS, breaks, data, masked, returns_as_eager
from dynamic_testing import PythonBackend, assert_same_as_eager, traces
from torch._subclasses import FakeTensor
from torch.fx.experimental.symbolic_shapes import is_symbolic

import framejit


class CountingBackend(PythonBackend):
    """Counts how often what it made was run to its end."""

    runs = 0

    def __call__(self, module, inputs):
        run = super().__call__(module, inputs)

        def counted(*args):
            result = run(*args)
            self.runs += 1
            return result

        return counted


def values(module):
    return {node.name: node.meta["val"] for node in module.graph.nodes if "val" in node.meta}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", [None, "eager", "aot_eager"])
def test_one_graph(function, name):
    backend = CountingBackend(name)
    compiled = framejit.compile(function, backend=backend, data_dependent=True)
    for seed in range(12):
        assert_same_as_eager(compiled, function, data(seed))
    assert len(traces(compiled)) == 1 and breaks(compiled) == []
    assert (len(backend.modules), backend.runs) == (1, 12)
    for node in backend.modules[0].graph.nodes:
        if node.op in ("placeholder", "call_function", "call_method") and node.target is not operator.setitem:
            assert isinstance(node.meta["val"], FakeTensor | torch.SymInt | torch.SymFloat | tuple | list), node


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sizes_vary_too(function):
    """One module for sizes from outside and from data alike."""
    backend = CountingBackend()
    compiled = framejit.compile(function, backend=backend, data_dependent=True, dynamic=True)
    for seed in range(12):
        assert_same_as_eager(compiled, function, data(seed, rows=3 + seed % 7))
    assert len(traces(compiled)) == 1 and breaks(compiled) == []
    assert (len(backend.modules), backend.runs) == (1, 12)


def test_what_the_backend_is_given():
    def function(x, small):
        kept = x[x[:, 1] > 0]
        half = kept.shape[0] // 2
        return torch.zeros(half + small.sum(dtype=torch.uint8).item(), x.shape[0]), half

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, data_dependent=True, dynamic=True)
    for seed in range(5):
        assert_same_as_eager(compiled, function, data(seed, 5 + seed), torch.ones(seed + 2, dtype=torch.uint8))
    (module,) = backend.modules
    nodes = {node.name: node for node in module.graph.nodes}
    given = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    (x, small), (rows, columns, length) = given[-2:], given[:-2]
    kept, item, zeros = (values(module)[name] for name in ("getitem_1", "item", "zeros"))
    assert [str(value.shape) for value in (x, small)] == [f"torch.Size([{rows}, {columns}])", f"torch.Size([{length}])"]
    assert str(kept.shape) == f"torch.Size([u0, {columns}])" and str(item) == "u1"
    assert str(values(module)["floordiv"]) == "(u0//2)"
    assert str(zeros.shape) == f"torch.Size([u1 + ((u0//2)), {rows}])"
    assert zeros.dtype == torch.float32 and is_symbolic(zeros.shape[0])
    env = item.node.shape_env
    assert [str(symbol) for symbol in nodes["item"].meta["unbacked_bindings"]] == ["u1"]
    limits = [env.var_to_range[symbol] for symbol in (kept.shape[0].node.expr, item.node.expr)]
    assert [limit.lower for limit in limits] == [0, 0] and limits[1].upper == 255
    # The number that the program returns is computed by a node, and comes behind the tensors.
    assert nodes["output"].args[0][:2] == (nodes["zeros"], nodes["floordiv"])


@pytest.mark.parametrize("name", [None, "aot_eager"])
def test_what_is_taken_for_granted(name):
    """To broadcast, torch takes a size of data for that of the other operand, and never for 1."""

    def function(x, y):
        kept = x[x > 0]
        total = kept * y
        return total, kept.shape[0], total.shape[0], torch.zeros(kept.shape[0])

    backend = CountingBackend(name)
    compiled = framejit.compile(function, backend=backend, data_dependent=True)
    lists = [1.0, 2, 3, 4], [-1.0, 1, 2, 3, 4], [1.0, -1], [-1.0, 3], [4.0, 3, 2, 1], [-2.0, -1, 1, 2]
    for numbers in lists:
        x, y = torch.tensor(numbers), torch.arange(4.0)
        try:
            expected = function(x, y)
        except RuntimeError as error:
            with pytest.raises(RuntimeError, match="must match the size"):
                compiled(x, y)
            assert "must match the size" in str(error)
        else:
            actual = compiled(x, y)
            assert torch.equal(actual[0], expected[0]) and torch.equal(actual[3], expected[3])
            assert actual[1:3] == expected[1:3]
    assert breaks(compiled) == []


def limited(x, limit):
    n = int(x.abs().sum())
    torch._check(n < limit, lambda: f"{n} is too many")
    torch._check(n != 7)
    return torch.ones(n) if n < limit else x


def constrained(x, limit):
    n = int(x.abs().sum())
    torch._check_is_size(n)
    torch.sym_constrain_range(n, min=1, max=20)
    return torch.ones(n) if n >= 1 and n <= 20 else x


@pytest.mark.parametrize("function", [limited, constrained])
@pytest.mark.parametrize("name", [None, "aot_eager"])
def test_checks(function, name):
    """What the program checks is checked, whatever the backend makes of it; functions that check are served as if the
    option were set."""
    backend = CountingBackend(name)
    compiled = framejit.compile(function, backend=backend, fullgraph=True)
    numbers = (2.0, 1.0, 8.0, 1.75, 3.0, 9.0, 4.0)
    good = sum(returns_as_eager(compiled, function, torch.full((4,), number), 20) for number in numbers)
    assert len(traces(compiled)) == len(backend.modules) == 1
    assert good in (4, 5) and backend.runs >= good


def test_what_a_failed_call_wrote_is_taken_back():
    def function(x, y):
        x.add_(1)
        kept = x[x > 1]
        total = kept * y
        x.mul_(2)
        return total.sum(), torch.ones(kept.shape[0])

    backend = PythonBackend()
    compiled = framejit.compile(function, backend=backend, data_dependent=True)
    for numbers in ([1.0, 2], [-1.0, 3], [2.0, -3], [3.0, 5]):
        ours, theirs = torch.tensor(numbers), torch.tensor(numbers)
        y = torch.tensor([2.0, 3])
        with framejit.disable():
            expected = function(theirs, y)
        for a, e in zip(compiled(ours, y), expected, strict=True):
            assert torch.equal(a, e)
        assert torch.equal(ours, theirs)
    assert len(backend.modules) == 1


def test_numbers_that_are_written_later():
    """A number is what the tensor held when it was read."""

    def function(x, y):
        count = x.sum()
        n = count.long()
        size = n.item()
        kept = torch.ones(size) * y
        n.add_(5)
        return kept, n, size

    backend = CountingBackend("aot_eager")
    compiled = framejit.compile(function, backend=backend, data_dependent=True)
    for _ in range(4):
        assert_same_as_eager(compiled, function, torch.ones(3), torch.arange(3.0))
    assert (len(backend.modules), backend.runs) == (1, 4)


@pytest.mark.parametrize("name", [None, "aot_eager"])
def test_demands_on_other_sizes(name):
    """What a branch asks of sizes that do not come of data holds for each call, too."""

    def function(x):
        kept = x[x[:, 0] > 0]
        rest = x[2:] * 2
        return kept + 1 if rest.shape[0] > 3 else kept - rest.shape[0]

    backend = CountingBackend(name)
    compiled = framejit.compile(function, backend=backend, data_dependent=True, dynamic=True)
    for seed in range(12):
        assert_same_as_eager(compiled, function, data(seed, 3 + seed % 6))
    assert breaks(compiled) == [] and backend.runs == 12


def pieces(x):
    """How many chunks there are, nobody knows."""
    kept = x[x[:, 1] > 0]
    return [chunk * 2 for chunk in kept.chunk(2)]


def test_what_has_no_module_breaks():
    """As without the option: in front of what comes of data."""
    backend = PythonBackend()
    compiled = framejit.compile(pieces, backend=backend, data_dependent=True)
    for seed in range(6):
        assert_same_as_eager(compiled, pieces, data(seed))
    assert "DataDependent" in breaks(compiled)[0]
    strict = framejit.compile(pieces, backend=PythonBackend(), data_dependent=True, fullgraph=True)
    with pytest.raises(framejit.GraphBreakError, match=r"test_data_modules.py:\d+.*DataDependent"):
        strict(data(0))


def test_a_backend_that_raises():
    def backend(module, inputs):
        if any("unbacked_bindings" in node.meta for node in module.graph.nodes):
            raise ValueError("no sizes of data here")
        return module.forward

    compiled = framejit.compile(masked, backend=backend, data_dependent=True)
    for seed in range(6):
        assert_same_as_eager(compiled, masked, data(seed))
    assert "DataDependent" in breaks(compiled)[0]


def test_without_the_option():
    backend = PythonBackend()
    compiled = framejit.compile(masked, backend=backend)
    for seed in range(6):
        assert_same_as_eager(compiled, masked, data(seed))
    assert "DataDependent" in breaks(compiled)[0]


@pytest.mark.parametrize("name", [None, "aot_eager"])
def test_gradients(name):
    def loss(x, w):
        kept = (x @ w)[x[:, 0] > 0]
        return (kept * kept.shape[0]).exp().sum() / (x.abs().max().item() + 1)

    backend = CountingBackend(name)
    compiled = framejit.compile(loss, backend=backend, data_dependent=True)
    for seed in range(8):
        ours, theirs = (torch.full((4, 3), 0.01, requires_grad=True) for _ in range(2))
        compiled(data(seed), ours).backward()
        loss(data(seed), theirs).backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert len(traces(compiled)) == 1 and breaks(compiled) == []
    assert (len(backend.modules), backend.runs) == (1, 8)
