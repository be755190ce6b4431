"""The torch.fx.GraphModule that backends get: it passes lint, prints readable code, runs under Interpreter, can be
transformed, and its nodes say shape, dtype and source line."""

import importlib
import operator
import pickle

import pytest
import torch
import torch.fx
from framejit_testing import assert_same, counting, vector
from torch import nn

X = vector(4, 6, seed=1)


def chain(x):
    y = torch.relu(x) * 2
    return (y + x).sum(-1), y


def with_module(x):
    return MODEL(x) - 1


def containers(x):
    parts = torch.cat([x, x + 1], dim=1).split(4, dim=1)
    return {"first": parts[0], "rest": list(parts[1:]), "same": x}


def writes_argument(x):
    x.add_(1)
    x[0] = 2
    return x * 2


def keyword_arguments(x):
    return torch.nn.functional.layer_norm(x, normalized_shape=(6,), eps=1e-3), x.sum(dim=1, keepdim=True)


torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.LayerNorm(6)).eval()
FUNCTIONS = [chain, with_module, containers, writes_argument, keyword_arguments]


def capture(function, x=X):
    """(graph module, example inputs) of one recording."""
    seen = []

    def backend(graph_module, example_inputs):
        seen.append((graph_module, list(example_inputs)))
        return graph_module.forward

    import framejit

    with torch.no_grad():
        framejit.compile(function, backend=backend)(x.clone())
    assert len(seen) == 1
    return seen[0]


def copies(inputs):
    return [t.clone() for t in inputs]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
class TestGraphModule:
    def test_is_a_graph_module_that_passes_lint(self, function):
        module, inputs = capture(function)
        assert isinstance(module, torch.fx.GraphModule)
        module.graph.lint()
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        assert len(placeholders) == len(inputs)
        assert [node.op for node in module.graph.nodes][-1] == "output"
        assert all(isinstance(t, torch.Tensor) for t in inputs)

    def test_runs_like_the_interpreter(self, function):
        module, inputs = capture(function)
        with torch.no_grad():
            expected = module(*copies(inputs))
            assert_same(torch.fx.Interpreter(module).run(*copies(inputs)), expected)

    def test_code_is_readable_and_runs_again(self, function):
        module, inputs = capture(function)
        assert "def forward(self" in module.code
        again = torch.fx.GraphModule(module, module.graph)
        again.recompile()
        with torch.no_grad():
            assert_same(again(*copies(inputs)), module(*copies(inputs)))

    def test_nodes_carry_metadata(self, function):
        module, inputs = capture(function)
        for node in module.graph.nodes:
            if node.op in ("call_function", "call_method", "call_module"):
                assert node.stack_trace and "test_graph_module.py" in node.stack_trace or function is with_module
        for node, example in zip(module.graph.nodes, inputs, strict=False):
            assert node.meta["tensor_meta"].shape == example.shape
            assert node.meta["tensor_meta"].dtype == example.dtype

    def test_result_is_a_tuple_of_tensors(self, function):
        module, inputs = capture(function)
        with torch.no_grad():
            outputs = module(*copies(inputs))
        assert isinstance(outputs, (tuple, list))
        assert all(isinstance(t, torch.Tensor) for t in outputs)


def test_metadata_of_results_equals_the_real_results():
    module, inputs = capture(chain)
    real = {}

    class Recording(torch.fx.Interpreter):
        def run_node(self, node):
            real[node.name] = super().run_node(node)
            return real[node.name]

    with torch.no_grad():
        Recording(module).run(*copies(inputs))
    checked = 0
    for node in module.graph.nodes:
        if node.op in ("call_function", "call_method") and isinstance(real[node.name], torch.Tensor):
            meta = node.meta["tensor_meta"]
            for name in ("shape", "dtype", "requires_grad"):
                assert getattr(meta, name) == getattr(real[node.name], name)
            assert meta.stride == real[node.name].stride()
            checked += 1
    assert checked >= 3


def test_source_lines():
    module, _ = capture(chain)
    first = chain.__code__.co_firstlineno
    lines = [node.stack_trace for node in module.graph.nodes if node.op in ("call_function", "call_method")]
    assert f"line {first + 1}" in lines[0] and "in chain" in lines[0]
    assert f"line {first + 2}" in lines[-1]


def test_calls_are_those_of_the_program():
    module, _ = capture(chain)
    targets = [node.target for node in module.graph.nodes if node.op in ("call_function", "call_method")]
    assert targets[0] is torch.relu
    assert operator.mul in targets and operator.add in targets and "sum" in targets


def test_replace_pattern():
    module, inputs = capture(chain)

    def pattern(x):
        return torch.relu(x)

    def replacement(x):
        return torch.sigmoid(x)

    assert len(torch.fx.replace_pattern(module, pattern, replacement)) == 1
    module.recompile()
    y = torch.sigmoid(X) * 2
    with torch.no_grad():
        outputs = module(*copies(inputs))
    assert_same(list(outputs), [(y + X).sum(-1), y])


def test_transformer():
    module, inputs = capture(chain)

    class ReluToGelu(torch.fx.Transformer):
        def call_function(self, target, args, kwargs):
            if target is torch.relu:
                target = torch.nn.functional.gelu
            return super().call_function(target, args, kwargs)

    changed = ReluToGelu(module).transform()
    y = torch.nn.functional.gelu(X) * 2
    with torch.no_grad():
        assert_same(list(changed(*copies(inputs))), [(y + X).sum(-1), y])


def test_symbolic_trace_of_the_module():
    module, inputs = capture(chain)
    again = torch.fx.symbolic_trace(module)
    with torch.no_grad():
        assert_same(list(again(*copies(inputs))), list(module(*copies(inputs))))


def test_a_changed_module_is_what_runs():
    """A backend may return whatever it made of the module."""
    import framejit

    def negate(graph_module, example_inputs):
        return lambda *inputs: [-t for t in graph_module(*inputs)]

    compiled = framejit.compile(lambda x: x + 1, backend=negate)
    for _ in range(2):
        assert torch.equal(compiled(X), -(X + 1))


def test_parameters_are_inputs_of_the_recording_or_attributes():
    compiled, backend = counting(MODEL)
    with torch.no_grad():
        compiled(X)
        weight = MODEL[0].weight.detach().clone()
        MODEL[0].weight.mul_(2)
        try:
            assert_same(compiled(X), MODEL(X), "after the weights changed in place")
        finally:
            MODEL[0].weight.copy_(weight)
    assert backend.count == 1


@pytest.mark.parametrize("name", ["eager", "aot_eager"])
def test_backends_registered_with_torch(name):
    import framejit

    compiled = framejit.compile(chain, backend=name)
    with torch.no_grad():
        for seed in (1, 2):
            x = vector(4, 6, seed=seed)
            assert_same(compiled(x), chain(x))


def test_inductor_backend():
    import framejit

    compiled = framejit.compile(with_module, backend="inductor")
    with torch.no_grad():
        for seed in (1, 2):
            x = vector(4, 6, seed=seed)
            assert_same(compiled(x), with_module(x), tolerance=2e-5)


def test_functions_that_torch_hides_behind_python_functions():
    """torch.broadcast_tensors(*tensors) is Python code around a C function of the same name that takes a list."""

    def function(x):
        return torch.nn.functional.mse_loss(x, x + 1), torch.cdist(x, x)

    module, inputs = capture(function)
    with torch.no_grad():
        assert_same(list(module(*copies(inputs))), list(function(X)))
        assert_same(list(pickle.loads(pickle.dumps(module))(*copies(inputs))), list(function(X)))


@pytest.mark.parametrize("first", ["", "torch._dynamo"])  # which wraps torch.manual_seed
def test_calls_that_set_state_are_not_dead(first):
    if first:
        importlib.import_module(first)

    def function(x):
        torch.manual_seed(3)
        with torch.inference_mode():
            y = x * 2
        return y + torch.rand(6)

    module, inputs = capture(function)
    module.graph.eliminate_dead_code()
    module.recompile()
    expected = function(X)
    torch.manual_seed(0)
    assert_same(module(*copies(inputs))[0], expected)
    assert not torch.is_inference_mode_enabled()
