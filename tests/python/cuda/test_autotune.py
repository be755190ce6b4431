"""Kernels whose launch shapes were measured: they compute what eager computes, and the log says what was measured."""

import logging

import pytest
import torch

import framejit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
F = torch.nn.functional


def values(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator).to("cuda", dtype)


@pytest.fixture
def messages(caplog):
    """What was said about kernels; a function that takes it, and forgets it."""
    framejit.set_logs("cuda,cudagraphs")
    caplog.set_level(logging.INFO, logger="framejit")

    def take() -> list[str]:
        texts = [record.message for record in caplog.records]
        caplog.clear()
        return texts

    yield take
    framejit.set_logs("")


def compiled(function, mode="max-autotune-no-cudagraphs", **options):
    return framejit.compile(function, fullgraph=True, mode=mode, **options)


def measured(texts: list[str]) -> list[int]:
    """Of each kernel that was measured: how many plans it had."""
    counts = []
    for text in texts:
        if text.startswith("measured:"):
            *plans, chosen = text.splitlines()[1:]
            assert all(" us: " in plan for plan in plans)
            position, of = chosen.removeprefix("  chosen: ").split(" of ")
            assert 1 <= int(position) <= int(of) == len(plans)
            counts.append(len(plans))
    return counts


FUNCTIONS = {
    "elements": (lambda x: F.gelu(x) * 2, (512, 1024)),
    "many elements": (lambda x: x * 2 + 1, (4096, 4096)),
    "half": (lambda x: torch.sigmoid(x.half()) * x.half(), (512, 1024)),
    "odd elements": (lambda x: torch.relu(x[:, 1:]) - 1, (333, 77)),
    "softmax": (lambda x: torch.softmax(x, -1), (512, 1000)),
    "short rows": (lambda x: torch.softmax(x, -1), (4096, 24)),
    "long rows": (lambda x: x.square().sum(-1), (64, 30000)),
    "layer norm": (lambda x: F.layer_norm(x, x.shape[-1:]), (256, 768)),
    "columns": (lambda x: x.square().sum(0), (2048, 512)),
    "transposed": (lambda x: torch.tanh(x.t()) + 1, (1024, 512)),
    "transposed bytes": (lambda x: (x.t() > 0) & (x.t() < 1), (1024, 512)),
}


@pytest.mark.parametrize(("function", "sizes"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_results_are_eagers(function, sizes, messages):
    x = values(*sizes)
    jit, expected = compiled(function), function(x)
    actual = jit(x)
    tolerance = 2e-3 if expected.dtype == torch.float16 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert actual.stride() == expected.stride()
    counts = measured(messages())
    assert counts and min(counts) >= 2
    shifted = torch.empty(x.numel() + 1, device="cuda")[1:].view(sizes).copy_(x)
    torch.testing.assert_close(jit(shifted), expected, rtol=tolerance, atol=tolerance)


def test_a_kernel_is_measured_once(messages):
    x = values(300, 520)
    compiled(lambda x: torch.erf(x) * 3)(x)
    assert len(measured(messages())) == 1
    again = compiled(lambda y: torch.erf(y) * 3)
    torch.testing.assert_close(again(x), torch.erf(x) * 3)
    texts = messages()
    assert not measured(texts) and any("extern" in text for text in texts)


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_other_modes_measure_nothing(mode, messages):
    x = values(301, 520)
    compiled(lambda x: torch.erf(x) * 4, mode=mode)(x)
    assert not measured(messages())


def test_sizes_that_vary_are_not_measured(messages):
    jit = compiled(lambda x: torch.erf(x) * 5, dynamic=True)
    for rows in (8, 9, 200):
        x = values(rows, 520)
        torch.testing.assert_close(jit(x), torch.erf(x) * 5)
    assert not measured(messages())


def test_graphs_are_launched_whole_too(messages):
    jit, x = compiled(lambda x: torch.softmax(torch.tanh(x) @ x, -1), mode="max-autotune"), values(64, 64)
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(jit(x), torch.softmax(torch.tanh(x) @ x, -1))
    texts = messages()
    assert len(measured(texts)) == 2
    assert any(text.startswith("captured") for text in texts)


def test_gradients(messages):
    def function(x, weight):
        return F.layer_norm(F.silu(x * weight), x.shape[-1:]).square().mean()

    results = []
    for call in (function, compiled(function)):
        x, weight = values(64, 320).requires_grad_(), values(320, seed=1).requires_grad_()
        call(x, weight).backward()
        results.append((x.grad, weight.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert len(measured(messages())) >= 2


def test_memory_that_is_full(messages):
    """The measurement needs memory of its own; without it the cost model's choice is kept."""
    x = values(400, 520)
    expected = torch.erf(x) * 6
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
        torch.testing.assert_close(compiled(lambda x: torch.erf(x) * 6)(x), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    texts = messages()
    assert not measured(texts)
    assert any(text.startswith("not measured: ") and "out of memory" in text for text in texts)


def test_a_first_call_that_is_captured(messages):
    x = values(401, 520)
    jit = compiled(lambda x: torch.erf(x) * 7)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = jit(x)
    x.copy_(values(401, 520, seed=1))
    graph.replay()
    torch.testing.assert_close(got, torch.erf(x) * 7)
    texts = messages()
    assert not measured(texts) and "not measured: the stream captures a CUDA graph" in texts
