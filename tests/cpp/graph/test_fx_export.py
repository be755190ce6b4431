"""Exported FX modules: lint, readable code, equal results, transforms, metadata. Needs framejit_graph_testing."""

import importlib.util
import operator
import pathlib
import sys
import types

import pytest
import torch
import torch.fx

testing = pytest.importorskip("framejit_graph_testing", reason="built by the C++ tests; set FRAMEJIT_TEST_MODULES")

# The Python half by itself: importing the package needs the built extension.
if "framejit" not in sys.modules:
    sys.modules["framejit"] = types.ModuleType("framejit")
    path = pathlib.Path(__file__).resolve().parents[3] / "framejit" / "_fx.py"
    spec = importlib.util.spec_from_file_location("framejit._fx", path)
    sys.modules["framejit._fx"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["framejit._fx"])

V = testing.Value
F = torch.nn.functional


def mlp():
    """gelu(linear(x)) twice, reshaped; (program, inputs, expected)."""
    torch.manual_seed(0)
    x, w, b = torch.randn(4, 6), torch.randn(6, 6), torch.randn(6)
    here = (__file__, 34, "mlp")
    calls = [
        ("function", F.linear, (V(0), V(1), V(2)), {}, V(3), here),
        ("function", F.gelu, (V(3),), {"approximate": "tanh"}, V(4), here),
        ("function", F.linear, (V(4), V(1), V(2)), {}, V(5), here),
        ("function", F.gelu, (V(5),), {}, V(6), None),
        ("method", "view", (V(6), 2, -1), {}, V(7), None),
        ("attribute", "T", (V(7),), {}, V(8), None),
    ]
    y = F.gelu(F.linear(F.gelu(F.linear(x, w, b), approximate="tanh"), w, b))
    values = [x, w, b, y, y, y, y, y.view(2, -1), y.view(2, -1).T]
    program = testing.TorchProgram(values, [0, 1, 2], [], calls, [7, 8])
    return program, (x, w, b), (y.view(2, -1), y.view(2, -1).T)


def assert_equal(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype and a.stride() == e.stride() and torch.equal(a, e)


def test_torch_level_module():
    program, inputs, expected = mlp()
    module = program.export(names=["x", "weight", "bias"])
    module.graph.lint()
    assert_equal(module(*inputs), expected)
    assert_equal(torch.fx.Interpreter(module).run(*inputs), expected)
    assert_equal(torch.fx.Transformer(module).transform()(*inputs), expected)
    names = [node.name for node in module.graph.nodes]
    assert names == ["x", "weight", "bias", "linear", "gelu", "linear_1", "gelu_1", "view", "getattr_1", "output"]
    assert "torch._C._nn.gelu(linear, approximate = 'tanh')" in module.code


def test_metadata():
    program, inputs, _ = mlp()
    nodes = {node.name: node for node in program.export().graph.nodes}
    assert nodes["linear"].meta["tensor_meta"].shape == (4, 6)
    assert nodes["linear"].meta["tensor_meta"].dtype == torch.float32
    assert nodes["getattr_1"].meta["val"].stride() == (1, 12)
    assert f'File "{__file__}", line 34, in mlp' in nodes["linear"].stack_trace
    fake = next(iter(program.export(values=True).graph.nodes)).meta["val"]
    assert type(fake).__name__ == "FakeTensor" and fake.device.type == "cpu"


def test_replace_pattern():
    program, inputs, expected = mlp()
    module = program.export()
    matches = torch.fx.replace_pattern(module, lambda x: F.gelu(x), lambda x: torch.relu(x))
    assert len(matches) == 1
    x, w, b = inputs
    y = torch.relu(F.linear(F.gelu(F.linear(x, w, b), approximate="tanh"), w, b)).view(2, -1)
    assert_equal(module(*inputs), (y, y.T))


def test_containers_slices_state_and_constants():
    x, c = torch.randn(4, 6), torch.arange(6.0)
    parts = x.split(2, 1)
    generator = torch.Generator()
    calls = [
        ("function", torch._C._set_grad_enabled, (False,), {}, None, None),
        ("method", "split", (V(0), 2), {"dim": 1}, (V(1), V(2), V(3)), None),
        ("function", torch.cat, ([V(3), V(1)],), {"dim": 1}, V(4), None),
        ("function", operator.getitem, (V(4), (slice(None, 2), Ellipsis, None, slice(1, None, 2))), {}, V(5), None),
        ("function", operator.add, (V(0), V(6)), {}, V(7), None),
        ("method", "add_", (V(7), float("inf")), {}, V(7), None),
        ("function", torch.max, (V(7),), {"dim": 1}, torch.return_types.max((V(8), V(9))), None),
        ("function", torch.rand, (torch.Size([2]),), {"generator": generator, "dtype": torch.float64}, V(10), None),
        ("function", torch._C._set_grad_enabled, (True,), {}, None, None),
    ]
    values = [x, *parts, torch.cat([parts[2], parts[0]], 1), x[:2, None], c, x, x[:, 0], x[:, 0].long(), torch.rand(2)]
    module = testing.TorchProgram(values, [0], [(6, c)], calls, [5, 7, 8, 9, 10]).export()
    generator.manual_seed(3)
    y = torch.cat([parts[2], parts[0]], 1)[:2, ..., None, 1::2]
    z = (x + c).add_(float("inf"))
    top = torch.max(z, dim=1)
    expected = (y, z, top.values, top.indices, torch.rand(torch.Size([2]), generator=generator, dtype=torch.float64))
    for run in (module, torch.fx.Interpreter(module).run):
        generator.manual_seed(3)
        assert_equal(run(x), expected)
    assert torch.is_grad_enabled()


def test_nameless_callable_is_an_error():
    calls = [("function", operator.methodcaller("relu"), (V(0),), {}, V(1), None)]
    with pytest.raises(RuntimeError, match="has no name that an FX graph could print"):
        testing.TorchProgram([torch.ones(1)] * 2, [0], [], calls, [1]).export()


def test_value_used_before_it_is_made():
    with pytest.raises(RuntimeError, match="torch value 1 is used before it is made"):
        testing.TorchProgram([torch.ones(1)] * 2, [0], [], [], [1]).export()


def test_print():
    text = mlp()[0].print()
    assert "%4: float32[4, 6] = torch._C._nn.gelu(%3, approximate='tanh')  # at " in text
    assert "%7: float32[2, 12] = %6.view(2, -1)" in text
    assert "%8: float32[12, 2] strides=[1, 12] = %7.T" in text

    class Rude:
        def __repr__(self):
            raise AssertionError("user code ran")

    calls = [("function", torch.relu, (V(0), Rude()), {}, {"a": V(1)}, None)]
    text = testing.TorchProgram([torch.ones(1)] * 2, [0], [], calls, [1]).print()
    assert "{'a': %1: float32[1]} = " in text and "relu(%0, <Rude>)" in text


ATEN = """\
input %0: float32[4, 6] @0
input %1: float32[6] @1
constant %2: float32[6] @2 = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
%3: float32[4, 6] @3, %4: float32[4, 1] @4, none = aten::native_layer_norm(%0, [6], %1, none, 1e-05)  # at m.py:3 in f
[%5: float32[2, 6] @3, %6: float32[2, 6] offset=12 @3] = aten::split.Tensor(%3, 2)
%7: float32[4, 6] @7 = aten::cat([%6, %5])
%8: float64[4, 6] @8 = aten::_to_copy(%7, dtype=float64)
%9: float64[4, 6] @9 = aten::add.Tensor(%8, %2, alpha=0.5)
%10: float64[4] @10, %11: int64[4] @11 = aten::max.dim(%9, 1)
%12: float32[6] @12 = aten::add.Scalar(%1, 1)
mutate %1 <- %12
return %9, %10, %11, %6
"""


def test_aten_level_module():
    module = testing.export_aten(ATEN)
    module.graph.lint()
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert torch.ops.aten.add.Tensor in targets and targets[-1] is torch.ops.aten.copy_.default
    assert "torch.ops.aten._to_copy.default(cat, dtype = torch.float64)" in module.code
    assert (
        'File "m.py", line 3, in f' in next(n for n in module.graph.nodes if n.name == "native_layer_norm").stack_trace
    )
    torch.manual_seed(0)
    x, w = torch.randn(4, 6), torch.randn(6)
    y = torch.native_layer_norm(x, [6], w, None, 1e-5)[0]
    z = torch.add(torch.cat([y[2:], y[:2]]).double(), torch.arange(1.0, 7.0), alpha=0.5)
    for run in (module, torch.fx.Interpreter(module).run, torch.fx.Transformer(module).transform()):
        weight = w.clone()
        assert_equal(run(x, weight), (z, *torch.max(z, 1), y[2:]))
        assert torch.equal(weight, w + 1)
