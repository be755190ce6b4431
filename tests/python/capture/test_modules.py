"""nn.Module: calls through __call__, hooks, containers, buffers, compiled modules, inference state."""

import copy

import pytest
import torch
from framejit_testing import Cases, assert_same, check, counting, vector
from torch import nn

import framejit

case = Cases()
X = vector(2, 4, seed=1)


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("shift", torch.arange(float(width)))
        self.scale = 2

    def forward(self, x, *, twice=False):
        y = self.dropout(torch.relu(self.linear(x))) * self.scale + self.shift
        if twice:
            y = self.linear(y)
        return self.norm(x + y)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        self.by_name = nn.ModuleDict({"in": nn.Linear(4, 4), "out": nn.Linear(4, 3)})
        self.parameters_list = nn.ParameterList([nn.Parameter(torch.ones(4) * i) for i in range(2)])
        self.tail = nn.Sequential(nn.GELU(), nn.Linear(4, 4), nn.Identity())

    def forward(self, x):
        x = self.by_name["in"](x)
        for i, block in enumerate(self.blocks):
            x = block(x, twice=bool(i)) + self.parameters_list[i]
        x = self.blocks[-1](self.tail(x))
        return self.by_name["out"](x)


torch.manual_seed(0)
NETWORK = Network().eval()
BLOCK = Block().eval()
CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()).eval()
ENCODER = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
LSTM_CELL = nn.LSTMCell(4, 3).eval()
EMBEDDING = nn.Embedding(10, 4).eval()


@case(X)
def module_call(x):
    return BLOCK(x)


@case(X, cpu=True)
def module_that_is_moved_to_where_it_is(x):
    return BLOCK.to(torch.float32).to("cpu")(x)


@case(X)
def module_with_keyword(x):
    return BLOCK(x, twice=True)


@case(X)
def network(x):
    return NETWORK(x)


@case(vector(2, 3, 8, 8))
def convolution(x):
    return CONV(x)


@case(vector(2, 5, 8))
def transformer_layer(x):
    return ENCODER(x)


@case(vector(2, 4))
def lstm_cell(x):
    return LSTM_CELL(x)


@case(torch.tensor([[1, 2], [3, 4]]))
def embedding(x):
    return EMBEDDING(x)


@case(X)
def walks_children(x):
    names = [name for name, _ in NETWORK.named_children()]
    return x + sum(p.sum() for p in BLOCK.parameters()), names, [m.training for m in BLOCK.children()]


@case(X)
def state_of_modules(x):
    return x + len(NETWORK.blocks), isinstance(BLOCK, nn.Module), "linear" in BLOCK._modules, BLOCK.training


@case(X)
def inside_no_grad(x):
    with torch.no_grad():
        y = BLOCK(x)
    return y, torch.is_grad_enabled()


@case(X)
def no_grad_decorator(x):
    @torch.no_grad()
    def inner(y):
        return BLOCK(y)

    return inner(x)


@case(X)
def enable_grad_inside(x):
    with torch.enable_grad():
        enabled = torch.is_grad_enabled()
    return x + 1, enabled, torch.is_grad_enabled()


@case(X)
def set_grad_enabled_context(x):
    with torch.set_grad_enabled(False):
        return x * 2, torch.is_grad_enabled()


@case(X)
def functional_calls(x):
    f = nn.functional
    return f.gelu(x), f.softmax(x, dim=-1), f.layer_norm(x, (4,)), f.pad(x, (1, 1)), f.silu(x), f.dropout(x, 0.5, False)


@case(X)
def attention(x):
    q = x.view(1, 1, 2, 4)
    return nn.functional.scaled_dot_product_attention(q, q, q)


@pytest.mark.parametrize(*case.table)
def test_modules(function, args, expectations):
    check(function, *args, **expectations)


def test_compiled_module_object():
    model = copy.deepcopy(BLOCK)
    compiled, backend = counting(model)
    with torch.no_grad():
        for seed in (1, 2, 3):
            x = vector(2, 4, seed=seed)
            assert_same(compiled(x), model(x))
    assert backend.count == 1


def test_compiled_module_keeps_its_interface():
    model = copy.deepcopy(BLOCK)
    compiled = framejit.compile(model)
    with torch.no_grad():
        compiled(X)
    assert list(compiled.state_dict()) == list(model.state_dict())
    assert [id(p) for p in compiled.parameters()] == [id(p) for p in model.parameters()]
    assert compiled.training is False


def test_training_mode_uses_dropout_and_its_own_recording():
    model = copy.deepcopy(BLOCK)
    compiled, backend = counting(model)
    with torch.no_grad():
        compiled(X)
        model.train()
        torch.manual_seed(7)
        expected = model(X)
        torch.manual_seed(7)
        assert_same(compiled(X), expected)
        model.eval()
        assert_same(compiled(X), model(X))
    assert backend.count == 2


def test_batch_norm_updates_its_statistics():
    eager = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    model = copy.deepcopy(eager)
    compiled, backend = counting(model)
    with torch.no_grad():
        for seed in (1, 2, 3):
            x = vector(5, 4, seed=seed)
            assert_same(compiled(x), eager(x))
    assert_same(dict(model.state_dict()), dict(eager.state_dict()))
    assert model[1].num_batches_tracked.item() == 3
    assert backend.count == 1


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "forward_with_kwargs"])
def test_hooks_run_in_order(kind):
    def make():
        torch.manual_seed(3)
        model, log = Block().eval(), []
        if kind == "forward":
            model.linear.register_forward_hook(lambda m, args, out: (log.append("hook"), out * 2)[1])
        elif kind == "forward_pre":
            model.linear.register_forward_pre_hook(lambda m, args: (log.append("pre"), (args[0] + 1,))[1])
        else:
            model.register_forward_hook(lambda m, args, kwargs, out: out + len(kwargs), with_kwargs=True)
        return model, log

    eager, eager_log = make()
    model, log = make()
    compiled, backend = counting(model)
    with torch.no_grad():
        for seed in (1, 2):
            x = vector(2, 4, seed=seed)
            assert_same(compiled(x, twice=True), eager(x, twice=True))
    assert log == eager_log
    assert backend.count == 1


def test_hook_added_later_is_seen():
    model = copy.deepcopy(BLOCK)
    compiled, backend = counting(model)
    with torch.no_grad():
        plain = compiled(X)
        handle = model.register_forward_hook(lambda m, args, out: out * 3)
        assert_same(compiled(X), plain * 3)
        handle.remove()
        assert_same(compiled(X), plain)
    assert backend.count == 2


def test_training_with_autograd():
    """A frame that needs gradients gives the same gradients as eager."""
    eager = copy.deepcopy(BLOCK)
    model = copy.deepcopy(BLOCK)
    compiled, backend = counting(model)
    for seed in (1, 2):
        x = vector(2, 4, seed=seed)
        eager(x).square().sum().backward()
        compiled(x).square().sum().backward()
    for (name, parameter), (_, expected) in zip(model.named_parameters(), eager.named_parameters(), strict=True):
        assert_same(parameter.grad, expected.grad, name)
    assert backend.count == 1


def test_inference_mode():
    compiled, backend = counting(copy.deepcopy(BLOCK))
    with torch.inference_mode():
        for _ in range(2):
            out = compiled(X)
            assert out.is_inference()
            assert_same(out, BLOCK(X))
    assert backend.count == 1


def test_a_module_made_inside_after_torch_compile_was_used(monkeypatch):
    """TorchDynamo replaces Module.__init__ by one that notes each new module; slices of a ModuleList make one."""
    from torch._dynamo.mutation_guard import install_generation_tagging_init

    for name in ("__init__", "__setstate__"):
        monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))
    monkeypatch.setattr(nn.Module, "___needs_generation_tag_patch", True, raising=False)
    install_generation_tagging_init()
    assert nn.Module.__init__.__module__ == "torch._dynamo.mutation_guard"
    layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def function(x):
        for layer in layers[:2]:
            x = layer(x)
        return x

    check(function, X)
