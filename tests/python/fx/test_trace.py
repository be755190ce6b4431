"""framejit.trace: the graph is the program's, in the form that torch.fx.symbolic_trace gives it where it can, and what
works on the one works on the other."""

import collections
import dataclasses
import functools
import operator
import warnings

import pytest
import torch
import torch.fx
from framejit_testing import assert_same, vector
from torch import nn

import framejit

X = vector(4, 6, seed=1)
Y = vector(4, 6, seed=2)
SCALE = torch.tensor(1.5)


def ops(module):
    """What each node is, without names."""
    return [(node.op, node.target) for node in module.graph.nodes]


def thawed(value):
    """Interpreter returns torch.fx's immutable containers."""
    if isinstance(value, (tuple, list)):
        items = [thawed(item) for item in value]
        if isinstance(value, torch.fx.immutable_collections.immutable_list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, torch.fx.immutable_collections.immutable_dict):
        return {key: thawed(item) for key, item in value.items()}
    return value


def check(target, *args, **options):
    """The traced module, whose results are eager's, in its code and under Interpreter."""
    module = framejit.trace(target, *args, **options)
    assert isinstance(module, torch.fx.GraphModule)
    module.graph.lint()
    expected = target(*args)
    assert_same(module(*args), expected)
    assert_same(thawed(torch.fx.Interpreter(module).run(*args)), expected)
    again = torch.fx.GraphModule(module, module.graph)
    assert_same(again(*args), expected)
    return module


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6)
        self.blocks = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.ones(6))

    def forward(self, x):
        y = torch.relu(self.first(x)) * self.scale
        return (self.blocks(y) + self.shift).view(2, -1)


def flat(x, y):
    z = torch.nn.functional.gelu(x) + y
    return z.sum(dim=1, keepdim=True), z[0], torch.cat([x, z], dim=1).transpose(0, 1)


@pytest.mark.parametrize("target, args", [(Net(), (X,)), (flat, (X, Y))], ids=["module", "function"])
def test_the_graph_is_that_of_symbolic_trace(target, args):
    expected = torch.fx.symbolic_trace(target)
    module = check(target, *args)
    assert ops(module) == ops(expected)
    assert module.code == expected.code
    assert sorted(module.state_dict()) == sorted(expected.state_dict())


def test_tensors_of_the_module_are_its_own():
    net = Net()
    module = framejit.trace(net, X)
    assert module.scale is net.scale and module.first is net.first
    net.scale.data.fill_(3.0)
    assert_same(module(X), net(X))
    module(X).sum().backward()
    assert net.scale.grad is not None and net.first.weight.grad is not None


def test_without_leaves_the_layers_are_their_operations():
    net = Net()
    module = check(net, X, leaf_modules=())
    assert not any(op == "call_module" for op, _ in ops(module))
    targets = [target for op, target in ops(module) if op == "get_attr"]
    assert targets == ["first.weight", "first.bias", "scale", "blocks.0.weight", "blocks.0.bias", "shift"]
    assert torch.nn.functional.gelu in [target for _, target in ops(module)]


def test_leaves_by_class_and_by_instance():
    net = Net()
    module = check(net, X, leaf_modules=[nn.Sequential, net.first])
    assert [target for op, target in ops(module) if op == "call_module"] == ["first", "blocks"]
    assert set(dict(module.named_children())) == {"first", "blocks"}


def test_leaves_of_a_function():
    layer = nn.Linear(6, 2)
    module = check(lambda x: layer(x) + 1, X, leaf_modules=[layer])
    assert [op for op, _ in ops(module)] == ["placeholder", "call_module", "call_function", "output"]


def helper(x, times):
    for _ in range(times):
        x = x.relu() + 1
    return x


torch.fx.wrap("helper")


def test_a_wrapped_function_is_one_call():
    module = check(lambda x: helper(x, 3) * 2, X)
    assert ops(module)[1:3] == [("call_function", helper), ("call_function", operator.mul)]


# --- what symbolic_trace cannot follow --------------------------------------------------------------------------------


def control_flow(x, flags):
    out = []
    for i, flag in enumerate(flags):
        if flag and x.shape[0] > i:
            out.append(x[i] * len(flags))
    return torch.stack(out) if out else x


def sizes(x):
    rows, columns = x.shape
    return x.reshape(columns, rows) + rows, int(x.numel() / 2), f"{rows}x{columns}"


def keyword_only(x, *rest, factor, **named):
    for other in rest:
        x = x + other
    return x * factor + named["bias"]


def handlers(x):
    try:
        return {}["missing"]
    except KeyError:
        return x - 1


def comprehension(x):
    return {name: x * i for i, name in enumerate("ab")}, [part.sum() for part in x.unbind(0)]


def test_programs_that_symbolic_trace_cannot_follow():
    check(control_flow, X, [True, False, True])
    check(sizes, X)
    check(handlers, X)
    check(comprehension, X)
    for function, args in ((control_flow, (X, [True])), (sizes, (X,)), (comprehension, (X,))):
        with pytest.raises(Exception):  # noqa: B017, PT011  (whatever it says)
            symbolic = torch.fx.symbolic_trace(function)
            assert_same(symbolic(*args), function(*args))


def test_star_arguments_and_keywords():
    module = framejit.trace(keyword_only, X, Y, Y, factor=2.0, bias=SCALE)
    expected = keyword_only(X, Y, Y, factor=2.0, bias=SCALE)
    assert_same(module(X, Y, Y, factor=2.0, bias=SCALE), expected)
    assert [target for op, target in ops(module) if op == "placeholder"] == ["x", "*rest", "factor", "**named"]


def test_containers_of_tensors_are_taken_apart():
    module = check(lambda pair, table: pair[0] + table["y"][1], (X, 1), {"y": [X, Y]})
    assert [target for op, target in ops(module) if op == "call_function"].count(operator.getitem) == 3


def test_other_numbers_fail_an_assertion():
    module = check(lambda x, n, mask: x * n if mask is None else x, X, 3, None)
    with pytest.raises(AssertionError, match="n was 3 when the program was traced"):
        module(X, 4, None)
    with pytest.raises(AssertionError, match="mask was None"):
        module(X, 3, X)


def test_parameters_that_are_not_passed_are_no_placeholders():
    module = check(lambda x, n=3: x * n, X)
    assert [op for op, _ in ops(module)] == ["placeholder", "call_function", "output"]


def test_tensors_from_anywhere_are_constants():
    module = check(lambda x: x * SCALE + torch.tensor([1.0] * 6), X)
    assert [target for op, target in ops(module) if op == "get_attr"] == ["_tensor_constant0", "_tensor_constant1"]


# --- results ----------------------------------------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    extra: torch.Tensor | None = None
    count: int = 0


def test_results_keep_their_structure():
    check(lambda x: Pair(x + 1, [x, None, {"k": (x * 2, "text", 1.5)}]), X)
    check(lambda x: torch.max(x, 0), X)
    check(lambda x: x.shape, X)
    check(lambda x: {1: x, "s": slice(1, 2)}, X)
    check(lambda x: collections.OrderedDict(a=x + 1), X)
    check(lambda x: x, X)


def test_a_data_class_is_built():
    module = framejit.trace(lambda x: Output(x + 1, count=4), X)
    result = module(X)
    assert type(result) is Output and result.count == 4 and result.extra is None
    assert torch.equal(result.hidden, X + 1)
    assert ("call_function", Output) in ops(module)


class Cache:
    __slots__ = ("keys", "seen", "__dict__")

    def __init__(self, keys):
        self.keys = keys
        self.seen = [1]
        self.more = {"k": keys[0] * 2}

    def __eq__(self, other):
        return (
            type(other) is Cache and self.seen == other.seen and all(map(torch.equal, self.tensors(), other.tensors()))
        )

    def tensors(self):
        return [*self.keys, *self.more.values()]


def test_instances_are_built():
    module = framejit.trace(lambda x: (Cache([x + 1, x]), x), X)
    assert module(X)[0] == Cache([X + 1, X])
    assert torch.fx.Interpreter(module).run(X)[0].more["k"].equal((X + 1) * 2)


def test_numbers_in_front_of_operators():
    def program(x):
        n = 2
        n += x
        m = 3
        m **= x.abs()
        k = 1.5
        k -= m
        return n, m, k, -(2**x)

    check(program, X)


def test_writes_to_arguments_are_in_the_graph():
    def write(x, y):
        x.add_(y)
        x[0] = 0
        return x * 2

    module = framejit.trace(write, X.clone(), Y)
    x, expected = X.clone(), X.clone()
    assert_same((module(x, Y), x), (write(expected, Y), expected))


def test_nothing_runs():
    net = nn.BatchNorm1d(6)
    x = X.clone()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(0)
    before = torch.get_rng_state()

    def program(x):
        x.add_(1)
        return nn.functional.dropout(net(x), 0.5)

    framejit.trace(program, x)
    assert torch.equal(x, X) and torch.equal(torch.get_rng_state(), before)
    assert_same(dict(net.state_dict()), state)


# --- passes -----------------------------------------------------------------------------------------------------------


def test_replace_pattern():
    module = framejit.trace(Net(), X)
    matches = torch.fx.replace_pattern(module, lambda x: torch.relu(x), lambda x: torch.sigmoid(x))
    net = Net()
    expected = (net.blocks(torch.sigmoid(net.first(X)) * net.scale) + net.shift).view(2, -1)
    assert len(matches) == 1
    assert_same(module(X), expected)


def test_subgraph_rewriting_with_functional_patterns():
    module = framejit.trace(flat, X, Y)
    pattern = lambda x, y: torch.nn.functional.gelu(x) + y  # noqa: E731
    matches = torch.fx.replace_pattern(module, pattern, lambda x, y: x - y)
    assert len(matches) == 1
    assert_same(module(X, Y)[1], (X - Y)[0])


def test_transformer():
    class Double(torch.fx.Transformer):
        def call_function(self, target, args, kwargs):
            result = super().call_function(target, args, kwargs)
            return result * 2 if target is torch.relu else result

    net = Net()
    doubled = Double(framejit.trace(net, X)).transform()
    expected = (net.blocks(torch.relu(net.first(X)) * 2 * net.scale) + net.shift).view(2, -1)
    assert_same(doubled(X), expected)


def test_nodes_know_shape_and_line():
    module = framejit.trace(flat, X, Y)
    gelu = next(node for node in module.graph.nodes if node.target is torch.nn.functional.gelu)
    assert gelu.meta["tensor_meta"].shape == X.shape
    assert f"line {flat.__code__.co_firstlineno + 1}" in gelu.stack_trace


# --- errors -----------------------------------------------------------------------------------------------------------


def data_dependent(x):
    y = x + 1
    return y if y.sum() > 0 else x


def test_a_break_is_an_error_that_names_the_line():
    line = data_dependent.__code__.co_firstlineno + 2
    with pytest.raises(framejit.GraphBreakError, match=f"test_trace.py.*line {line}|test_trace.py:{line}"):
        framejit.trace(data_dependent, X)


SEEN = []


def test_what_a_graph_does_not_do_is_warned_about():
    with pytest.warns(UserWarning, match=r"lambda.* also changes .*SEEN.*, which its graph does not do"):
        module = framejit.trace(lambda x: SEEN.append(1) or x + 1, X)
    assert_same(module(X), X + 1)
    assert SEEN == []


class State:
    value = None


STATE = State()
STATE.value = None


def doubling(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) * 2

    return wrapper


def test_parameters_are_those_of_the_wrapped_function():
    @doubling
    def program(x, y, *, scale=None, bias=None):
        return x * scale + y

    module = framejit.trace(program, X, y=Y, scale=SCALE)
    assert [target for op, target in ops(module) if op == "placeholder"] == ["x", "y", "scale"]
    assert_same(module(X, Y, SCALE), program(X, y=Y, scale=SCALE))


def test_what_is_set_and_set_back_is_no_change(recwarn):
    def program(x):
        STATE.value = 2
        y = x * STATE.value
        STATE.value = None
        return y

    check(program, X)
    assert not recwarn.list


def test_warnings_of_the_program_are_given():
    def program(x):
        warnings.warn("an old name", DeprecationWarning)
        return x + 1

    with pytest.warns(DeprecationWarning, match="an old name"):
        framejit.trace(program, X)


def test_a_result_without_a_form_is_an_error():
    with pytest.raises(framejit.GraphBreakError, match="the result of .*lambda.* holds a Function"):
        framejit.trace(lambda x: [x + 1, lambda: x], X)


def test_bad_arguments():
    with pytest.raises(TypeError, match="framejit.trace: target: expected"):
        framejit.trace(3, X)
    with pytest.raises(TypeError, match="framejit.trace: leaf_modules: expected"):
        framejit.trace(Net(), X, leaf_modules=["first"])
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        framejit.trace(flat, X)
