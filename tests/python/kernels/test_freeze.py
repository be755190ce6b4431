"""framejit.compile(freeze=True): weights as constants, and what happens where they change after all."""

import gc
import weakref

import pytest
import torch
from torch import nn

import framejit


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 20, 3, stride=2),
        nn.BatchNorm2d(20, affine=False),
        nn.Conv2d(20, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 9, 10),
        nn.BatchNorm1d(10),
    )
    for module in net:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


class Residual(nn.Module):
    """What is returned, viewed and added has the layout of eager, whatever convolutions compute in."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        kept = self.first(x)
        y = torch.relu(self.norm(self.second(kept)) + kept)
        parts = y.reshape(2, 2, 2, 8, 8)[:, 1]
        return kept, y.view(2, -1).softmax(1), parts.transpose(1, 2) * 2, y.mean((2, 3))


def lowered(compiled) -> str:
    [trace] = [t for t in framejit._C.traces(compiled._entry if hasattr(compiled, "_entry") else compiled)]
    return trace["lowered"]


def count(compiled, text: str) -> int:
    return lowered(compiled).count(text)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for a, e in zip(actual, expected, strict=True) if isinstance(actual, tuple) else [(actual, expected)]:
        assert a.stride() == e.stride()


@pytest.mark.parametrize("backend", ["cpu", "interp"])
def test_batch_norms_are_folded(backend):
    net, x = conv_net(), torch.randn(2, 3, 15, 15)
    compiled = framejit.compile(net, freeze=True, backend=backend, fullgraph=True)
    with torch.no_grad():
        expected = net(x)
        close(compiled(x), expected)
        close(compiled(x), expected)
        assert count(compiled, "rsqrt") == 0 and count(compiled, "batch_norm") == 0


def test_layouts_are_those_of_eager():
    net, x = Residual().eval(), torch.randn(2, 4, 8, 8)
    compiled = framejit.compile(net, freeze=True, fullgraph=True)
    with torch.inference_mode():
        close(compiled(x), net(x))
    assert count(compiled, "_convolution_pointwise") == 1, "the first one is returned"


def test_channels_last_inputs():
    net, x = conv_net()[:7], torch.randn(2, 3, 15, 15).to(memory_format=torch.channels_last)
    compiled = framejit.compile(net, freeze=True, fullgraph=True)
    with torch.no_grad():
        close(compiled(x), net(x))


def test_nothing_folded_is_exact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32)).eval()
    x = torch.randn(4, 32)
    frozen, plain = framejit.compile(net, freeze=True), framejit.compile(net)
    with torch.no_grad():
        assert torch.equal(frozen(x), plain(x))


def test_constant_subgraphs_are_computed_once():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.rand(8, 1))
            self.register_buffer("shift", torch.randn(16))

        def forward(self, x):
            weight = (self.weight * self.scale.exp()).to(torch.float64) + self.shift.tanh()
            return x @ weight.t()

    net, x = Scaled(), torch.randn(3, 16, dtype=torch.float64)
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        close(compiled(x), net(x))
        assert [count(compiled, op) for op in ("exp", "tanh", "_to_copy", "aten::mul")] == [0, 0, 0, 0]


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_packed_weights_of_products(rows):
    net, x = nn.Linear(50, 33), torch.randn(rows, 50)
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        close(compiled(x), net(x))


def changes(net: nn.Module):
    def step():
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        torch.optim.SGD(net.parameters(), lr=0.1).step()

    def load():
        net.load_state_dict({k: v + 1 for k, v in net.state_dict().items() if v.is_floating_point()}, strict=False)

    def replace():
        net[0].weight = nn.Parameter(net[0].weight.detach() * 2)

    def data():
        net[0].weight.data = net[0].weight.data * 2

    def statistics():
        net[1].running_var.mul_(3)

    return {"step": step, "load": load, "replace": replace, "data": data, "statistics": statistics}


@pytest.mark.parametrize("name", ["step", "load", "replace", "data", "statistics"])
def test_changed_weights_are_seen(name):
    net, x = conv_net(), torch.randn(2, 3, 15, 15)
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        before = compiled(x)
        close(before, net(x))
        changes(net)[name]()
        assert not torch.allclose(net(x), before)
        close(compiled(x), net(x))


def test_weights_that_keep_changing():
    net, x = nn.Linear(4, 4), torch.randn(6, 4)
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        for _ in range(30):
            close(compiled(x), net(x))
            net.weight.add_(1)


def test_what_writes_past_the_version_is_not_seen():
    net, x = nn.BatchNorm1d(3).eval(), torch.randn(2, 3)
    net = nn.Sequential(nn.Linear(3, 3), net).eval()
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        before = compiled(x)
        net[0].weight.data.mul_(2)
        assert torch.equal(compiled(x), before), "the documented contract"
        framejit.reset()
        close(compiled(x), net(x))


def test_with_gradients_nothing_is_frozen():
    net, x = conv_net(), torch.randn(2, 3, 15, 15)
    compiled = framejit.compile(net, freeze=True)
    out = compiled(x)
    out.sum().backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    torch.testing.assert_close(got, [p.grad for p in net.parameters()], rtol=1e-4, atol=1e-4)


def test_buffers_that_are_written_are_none_of_them():
    net, x = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), torch.randn(8, 5)
    compiled, twin = framejit.compile(net, freeze=True), nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        for _ in range(3):
            close(compiled(x), twin(x))
        torch.testing.assert_close(net.state_dict(), twin.state_dict())


def test_returned_weights_are_the_callers():
    class Returns(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self):
            return self.weight.exp(), self.weight

    net = Returns()
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        first, weight = compiled()
        assert weight is net.weight
        first.zero_()
        assert torch.equal(compiled()[0], net.weight.exp())


def test_sizes_that_vary():
    net = conv_net()[:6]
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        for size in (15, 16, 17, 15):
            x = torch.randn(2, 3, size, size)
            close(compiled(x), net(x))


def test_a_deleted_model_is_freed():
    net, x = conv_net(), torch.randn(2, 3, 15, 15)
    compiled = framejit.compile(net, freeze=True)
    with torch.no_grad():
        compiled(x)
    memory = weakref.ref(net[0].weight)
    del net, compiled
    gc.collect()
    assert memory() is None


def test_reset_frees_constants():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(256, 256))

        def forward(self, x):
            return x + self.weight.exp()

    compiled, x = framejit.compile(Large(), freeze=True), torch.randn(256, 256)

    def live() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1])

    with torch.no_grad():
        for _ in range(5):
            compiled(x)
            framejit.reset()
        before = live()
        for _ in range(100):
            compiled(x)
            framejit.reset()
    assert live() - before < 3000, "pages of 4 KiB: a hundred constants would be 6400"


def test_inference_tensors_have_no_version():
    with torch.inference_mode():
        net, x = conv_net(), torch.randn(2, 3, 15, 15)
        compiled = framejit.compile(net, freeze=True)
        close(compiled(x), net(x))
        net[0].weight.mul_(2)
        close(compiled(x), net(x))


def test_not_together_with_strict():
    with pytest.raises(ValueError, match="which strict excludes"):
        framejit.compile(conv_net(), freeze=True, strict=True)


def test_strict_graphs_have_the_products_of_aten():
    net, x = nn.Linear(40, 50), torch.randn(6, 40)
    with torch.no_grad():
        [graph] = framejit.explain(net, strict=True)(x).graphs
        assert "call own" not in graph.description
        assert torch.equal(framejit.compile(net, strict=True)(x), net(x))


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_bad_values(value):
    with pytest.raises(TypeError, match="freeze: expected a bool"):
        framejit.compile(conv_net(), freeze=value)
