"""Scaled-dot-product attention runs torch's flash kernel for the CPU; attention that a program spells out is fused."""

import math

import pytest
import torch
import torch.nn.functional as F

import framejit

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def heads(length: int, count: int = 4, batch: int = 2, width: int = 16) -> torch.Tensor:
    """As a model makes them: [batch, count, length, width], a transposed view."""
    return torch.randn(batch, length, count, width).transpose(1, 2)


def additive() -> torch.Tensor:
    return torch.randn(2, 1, 10, 12)


def boolean() -> torch.Tensor:
    mask = torch.rand(2, 1, 10, 12) > 0.4
    mask[..., 0] = True
    return mask


CASES = {
    "plain": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), None, 4),
    "scale": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3), None, 4),
    "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), None, 4),
    "additive mask": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), additive, 4),
    "boolean mask": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), boolean, 4),
    "grouped queries": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), None, 2),
    "grouped, causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), None, 2),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_flash_attention(name, dtype):
    function, mask, key_heads = CASES[name]
    tensors = [heads(10), heads(12, key_heads), heads(12, key_heads)]
    if mask is not None:
        tensors.append(mask())
    tensors = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
    report = framejit.explain(function, fullgraph=True)
    compiled = framejit.compile(function, fullgraph=True)
    with torch.no_grad():
        [graph] = report(*tensors).graphs
        assert graph.lowered.count(FLASH) == 1 and "softmax" not in graph.lowered
        expected, got = function(*tensors), compiled(*tensors)
    assert torch.equal(got, expected) and got.stride() == expected.stride()


def spelt_out(q, k, v):
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]))
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1) @ v


def test_attention_that_is_spelt_out():
    q, k, v = heads(10), heads(12), heads(12)
    compiled = framejit.compile(spelt_out, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(q, k, v), spelt_out(q, k, v))
        [graph] = framejit.explain(spelt_out)(q, k, v).graphs
    assert sum(line.startswith("kernel") and "softmax" in line for line in graph.description.splitlines()) == 1
