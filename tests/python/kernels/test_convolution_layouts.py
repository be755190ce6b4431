"""Convolutions of images run channels-last inside graphs; what a caller sees lies as in eager mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import framejit


def description(compiled) -> list[str]:
    [trace] = framejit._C.traces(compiled._entry if hasattr(compiled, "_entry") else compiled)
    assert trace["captured"] and trace["break"] is None
    return trace["description"].splitlines()


def check(function, *arguments, **options):
    """The compiled function after two calls whose results, their strides and aliases, were eager's."""
    compiled = framejit.compile(function, fullgraph=True, **options)
    for _ in range(2):
        with torch.no_grad():
            expected, actual = function(*arguments), compiled(*arguments)
        expected = expected if isinstance(expected, tuple) else (expected,)
        actual = actual if isinstance(actual, tuple) else (actual,)
        for a, e in zip(actual, expected, strict=True):
            assert a.stride() == e.stride() and a.storage_offset() == e.storage_offset()
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
        assert [a._base is None for a in actual] == [e._base is None for e in expected]
    return compiled


def laid_out(compiled) -> int:
    """Calls of oneDNN itself, which is given channels-last images and weights as they are."""
    return description(compiled).count("call aten::mkldnn_convolution")


class Net(nn.Module):
    def __init__(self, groups: int = 1, size: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(4, 16, size, padding=size // 2)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, size, stride=2, padding=size // 2, groups=groups, bias=False)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x):
        y = F.max_pool2d(torch.relu(self.norm(self.first(x))), 3, 1, 1)
        return torch.relu(self.second(y)).mean((2, 3))


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("batch", [1, 3])
def test_network(groups, batch):
    compiled = check(Net(groups), torch.randn(batch, 4, 80, 76))
    assert laid_out(compiled) == 2


def test_pointwise_convolutions_lie_as_their_inputs():
    assert not laid_out(check(Net(1, size=1), torch.randn(2, 4, 40, 36)))

    class Bottleneck(Net):
        def __init__(self):
            super().__init__()
            self.third = nn.Conv2d(16, 8, 1)

        def forward(self, x):
            return self.third(torch.relu(self.second(self.first(x)))).sum(1) * 2

    compiled = check(Bottleneck(), torch.randn(2, 4, 40, 36))
    lines = description(compiled)
    assert laid_out(compiled) == 2 and lines.count("call aten::convolution") == 1
    assert sum("clone" in line for line in lines) == 1


def test_few_positions_stay():
    assert not laid_out(check(Net(), torch.randn(1, 4, 14, 14)))


def test_strict_stays():
    with torch.no_grad():
        net, x = Net(), torch.randn(2, 4, 40, 36)
        compiled = framejit.compile(net, strict=True)
        assert torch.equal(compiled(x), net(x))
    assert not laid_out(compiled)


def test_what_the_caller_gets_lies_as_in_eager_mode():
    net = Net()

    def convolved_only(x):
        return net.first(x)

    def both(x):
        kept = net.first(x)
        return kept, torch.relu(net.second(kept))

    def view_of_result(x):
        y = net.second(net.first(x) * 2)
        return y.flatten(2).transpose(1, 2)

    def transposed(x):
        return (net.second(net.first(x)) + 1).permute(0, 2, 3, 1)

    x = torch.randn(2, 4, 40, 36)
    assert not laid_out(check(convolved_only, x))
    assert laid_out(check(both, x)) == 1  # the first one is held
    for function in (view_of_result, transposed):
        assert laid_out(check(function, x))
    check(transposed, x.to(memory_format=torch.channels_last))
    check(view_of_result, torch.randn(2, 40, 36, 8)[..., ::2].permute(0, 3, 1, 2))


def test_views_inside():
    net = Net()

    def patches(x):
        return net.first(x).flatten(2).transpose(1, 2).softmax(-1)

    def reshaped(x):
        y = net.first(x)
        return y.reshape(x.shape[0], -1, 8, 2).sum(1), y.view(-1)[3:50:5] * 2

    def strided(x):
        y = net.first(x)
        return y.as_strided((3, 5), (7, 2)) * 2, torch.as_strided(y, (4,), (11,), 3) + 1

    def parts(x):
        a, b = net.first(x).chunk(2, 1)
        return a * b, torch.cat([b, a], 1).amax((2, 3)), net.first(x)[:, 1::3].cumsum(2)

    for function in (patches, reshaped, strided, parts):
        assert laid_out(check(function, torch.randn(2, 4, 40, 36)))


def test_strided_under_freeze():
    net = nn.Conv2d(4, 8, 3)

    def strided(module, x):
        return module(x).as_strided((3, 5), (7, 2)) * 2

    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return strided(self.net, x)

    check(Strided().eval(), torch.randn(2, 4, 40, 36), freeze=True)


def test_written_and_random_values_keep_their_places():
    net = Net()

    def written(x, out):
        y = net.first(x)
        out.copy_(y)
        y.add_(1)
        return torch.relu(y)

    def random(x):
        y = net.first(x)
        return (y * torch.rand_like(y)).sum((2, 3)), F.dropout(y, 0.5) * 2

    x = torch.randn(2, 4, 40, 36)
    compiled = framejit.compile(written, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            got, expected = torch.zeros(2, 16, 40, 36), torch.zeros(2, 16, 40, 36)
            torch.testing.assert_close(compiled(x, got), written(x, expected))
            torch.testing.assert_close(got, expected)
        compiled = framejit.compile(random, fullgraph=True)
        for seed in range(2):
            torch.manual_seed(seed)
            actual = compiled(x)
            torch.manual_seed(seed)
            torch.testing.assert_close(actual, random(x), rtol=1e-4, atol=1e-5)


def test_other_convolutions_stay():
    x = torch.randn(2, 4, 40, 36)
    weight = torch.randn(4, 6, 3, 3)
    for function in (
        lambda x: torch.relu(F.conv_transpose2d(x, weight)).sum((2, 3)),
        lambda x: torch.relu(F.conv2d(x.double(), weight.double().transpose(0, 1))).sum((2, 3)),
        lambda x: torch.relu(F.conv3d(x[:, None], weight[:, :1, None])).sum((3, 4)),
    ):
        assert not laid_out(check(function, x))


def test_gradients_keep_the_layout_that_was_recorded():
    """What the backward reads is saved as eager saves it."""
    net = Net()
    compiled = framejit.compile(net)
    x = torch.randn(2, 4, 40, 36, requires_grad=True)
    gradients = []
    for function in (net, compiled):
        x.grad = None
        net.zero_grad()
        function(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in net.parameters())])
    for actual, expected in zip(*reversed(gradients), strict=True):
        assert actual.stride() == expected.stride()
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
