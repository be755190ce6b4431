"""The pipeline on graphs of real programs: the result computes what eager did, with eager's strides and aliasing."""

import pytest
import torch
from aten_text import record
from test_fx_export import testing
from torch import nn

F = torch.nn.functional


def mlp(x):
    return torch.nn.functional.silu(x @ W.t()).pow(2) * 1.0 + x.clone()


def rms_norm(x):
    h = x.float()
    return ((h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * W[0].to(x.dtype)).to(x.dtype)


def attention(x):
    n = x.shape[0]
    q, k = (x @ W).view(n, 2, -1).transpose(0, 1), (x @ W.t()).view(n, 2, -1).transpose(0, 1)
    mask = torch.arange(n)[None, :] > torch.arange(n)[:, None]
    scores = (q @ k.transpose(-1, -2) / 3).masked_fill(mask, float("-inf"))
    return torch.softmax(scores, -1) @ k


def mobile(x):
    return F.hardswish(x) + F.hardsigmoid(x) - F.relu6(x) * F.leaky_relu(x, 0.2) + F.hardtanh(x, -0.5, 0.5)


def fused_updates(x):
    return torch.addcmul(x, x.exp(), x + 1, value=0.3), torch.addcdiv(x, x, x.abs() + 1, value=-2)


def powers(x):
    y = x.abs() + 0.5
    return [y.pow(p) for p in (2, 3, 0.5, -0.5, -1, 1, 0.7)] + [x.pow(2)]


def aliases(x):
    y = x.view(-1)
    z = y.view(x.shape)
    return x.t().t(), z, y, x * 1, x.clone(), x.expand(x.shape) + 0


torch.manual_seed(0)
W = torch.randn(6, 6)
CONV = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4, affine=False)
)
CONV[1].running_mean.normal_()
CONV[1].running_var.uniform_(0.5, 2)
CONV[1].bias.data.normal_()
CONV.eval()
ENCODER = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu").eval()

BN = nn.BatchNorm1d(6).eval()
BN.running_mean.normal_()
BN.running_var.uniform_(0.5, 2)

X = torch.randn(5, 6)
IMAGE = torch.randn(2, 3, 6, 6)
CASES = {
    "mlp": (mlp, [X]),
    "rms_norm": (rms_norm, [X]),
    "rms_norm_bfloat16": (rms_norm, [X.bfloat16()]),
    "attention": (attention, [X]),
    "mobile": (mobile, [X]),
    "mobile_transposed": (mobile, [torch.randn(6, 5).t()]),
    "mobile_bfloat16": (mobile, [X.bfloat16()]),
    "mobile_special": (mobile, [torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -100.0])]),
    "mlp_special": (F.silu, [torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -100.0])]),
    "silu_float16": (F.silu, [torch.linspace(-12, 12, 997).half()]),
    "fused_updates": (fused_updates, [X]),
    "fused_updates_bfloat16": (fused_updates, [X.bfloat16()]),
    "powers": (powers, [X]),
    "powers_bfloat16": (powers, [torch.randn(300).bfloat16()]),
    "powers_int": (lambda x: x.pow(2), [torch.arange(-5, 5)]),
    "aliases": (aliases, [X]),
    "conv_bn": (CONV, [IMAGE]),
    "conv_bn_channels_last": (CONV, [IMAGE.to(memory_format=torch.channels_last)]),
    "bn_2d": (BN, [X]),
    "bn_bfloat16": (BN, [torch.randn(64, 6).bfloat16()]),
    "encoder": (ENCODER, [torch.randn(2, 3, 16)]),
}


def storages(tensors):
    """Which tensors share memory: each one's first companion."""
    pointers = [tensor.untyped_storage()._cdata for tensor in tensors]
    return [pointers.index(pointer) for pointer in pointers]


def parameters(inputs, function):
    """Constants too large for text would be awkward; modules pass theirs as inputs."""
    if isinstance(function, nn.Module):
        return [*inputs, *function.parameters(), *function.buffers()]
    return [*inputs, W]


@pytest.mark.parametrize("name", CASES)
def test_pipeline_keeps_results(name, request):
    function, inputs = CASES[name]
    everything = parameters(inputs, function)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operator would test nothing
    request.addfinalizer(lambda: torch.backends.mha.set_fastpath_enabled(fast_path))
    text, expected = record(lambda *tensors: function(*tensors[: len(inputs)]), everything)
    assert testing.verify(text) == ""
    printed = testing.parse_print(text)
    assert testing.parse_print(printed) == printed
    optimised = testing.run_passes(text, testing.pass_names())
    assert testing.run_passes(optimised, testing.pass_names()) == optimised, "the pipeline does not reach a fixed point"
    with torch.no_grad():
        actual = testing.export_aten(optimised)(*everything)
    for a, e in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (e.dtype, e.shape, e.stride())
        torch.testing.assert_close(
            a, e, rtol=0 if a.dtype in (torch.bfloat16, torch.float16) else 1e-6, atol=1e-6, equal_nan=True
        )
    assert storages([*everything, *actual]) == storages([*everything, *expected])


def test_decompositions_happen():
    graphs = {
        "batch_norm": record(lambda x, *p: CONV(x), parameters([IMAGE], CONV))[0],
        "silu": record(lambda x, w: mlp(x), [X, W])[0],
        "hardtanh": record(lambda x: mobile(x), [X])[0],
        "leaky_relu": record(lambda x: mobile(x), [X])[0],
        "addcmul": record(fused_updates, [X])[0],
    }
    for op, text in graphs.items():
        assert op in text
        assert op not in testing.run_passes(text, testing.pass_names()), op


def test_a_large_graph_gets_smaller():
    def layers(x):
        for _ in range(50):
            x = torch.relu(x + 1) * 2 - torch.sigmoid(x).t().t() + (x.view(-1).view(x.shape)) / 3
        return x

    text, _ = record(layers, [torch.randn(6, 6)])
    assert text.count("\n") > 500
    lowered = testing.run_passes(text, testing.pass_names())
    assert lowered.count("\n") < text.count("\n")
