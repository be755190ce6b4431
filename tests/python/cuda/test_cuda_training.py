"""Training on a GPU by forwards and backwards of our own: streams, threads, random numbers, devices, CUDA graphs. What
a layer or an operator gives is tests/python/training's matter."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import framejit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
F = torch.nn.functional


def values(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0, grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator).to("cuda", dtype).requires_grad_(grad)


def reports(compiled) -> list:
    return framejit._explain.reports(framejit._C, framejit._entry_of(compiled))


def assert_native(compiled, traces: int = 1) -> None:
    found = reports(compiled)
    assert len(found) == traces, [(r.backend, r.graph_break) for r in found]
    own = all(r.has_backward and r.graph_break is None and not r.fallback for r in found)
    assert own, [(r.backend, r.graph_break, r.fallback) for r in found]


class Block(nn.Module):
    """A transformer's, with all that draws random numbers."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm, self.second = nn.LayerNorm(64), nn.LayerNorm(64)
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)
        self.dropout = dropout

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, 4, 16).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(batch, length, 64)), self.dropout, True)
        return x + F.dropout(self.down(F.gelu(self.up(self.second(x)))), self.dropout, True)


def steps(module, call, inputs, count: int, dtype=None) -> list:
    """Losses and gradients of some steps of SGD from one seed."""
    torch.manual_seed(5)
    seen = []
    for number in range(count):
        module.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            loss = call(inputs[number % len(inputs)]).float().square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(parameter.grad, alpha=1e-2)
        seen.append(
            [loss.detach().clone()]
            + [p.grad.clone() for p in module.parameters()]
            + [b.clone() for b in module.buffers()]
        )
    return seen


def compare(module, count: int = 6, tolerance: float = 1e-4, dtype=None, inputs=None, **options):
    """Steps of the module, and of its copy that is compiled: losses, gradients and buffers."""
    module = module.to("cuda").train()
    own = copy.deepcopy(module)
    compiled = framejit.compile(own, **options)
    inputs = inputs or [values(4, 32, 64, seed=s) for s in range(3)]
    expected, actual = steps(module, module, inputs, count, dtype), steps(own, compiled, inputs, count, dtype)
    for number, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
        for index, (e, a) in enumerate(zip(wanted, got, strict=True)):
            largest = e.abs().max().item() or 1.0
            difference = (e - a).abs().max().item()
            assert difference <= tolerance * largest, f"step {number}, tensor {index}: {difference} of {largest}"
    return compiled


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_transformer_block(dropout, mode):
    options = {} if mode is None else {"mode": mode}
    assert_native(compare(Block(dropout), count=12, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_transformer_block_in_reduced_precision(dtype):
    """The same kernels draw the same random numbers; what is rounded otherwise grows from step to step."""
    assert_native(compare(Block(), count=3, tolerance=0.05, dtype=dtype))


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_batch_norm_updates_its_statistics(mode):
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 288, bias=False), nn.Unflatten(1, (8, 6, 6)), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(288, 32, bias=False), nn.BatchNorm1d(32), nn.Tanh(),
    )  # fmt: skip
    options = {} if mode is None else {"mode": mode}
    inputs = [values(4, 3, 8, 8, seed=s) for s in range(3)]
    assert_native(compare(module, count=12, inputs=inputs, **options))


def test_batch_norms_of_two_modules_by_one_function():
    """One graph, whose statistics lie elsewhere from call to call."""
    modules = [nn.BatchNorm2d(8).cuda().train() for _ in range(2)]
    others = copy.deepcopy(modules)
    own = framejit.compile(lambda module, x: module(x).square().mean(), mode="reduce-overhead")
    for number in range(12):
        x = values(4, 8, 6, 6, seed=number)
        own(modules[number % 2], x).backward()
        others[number % 2](x).square().mean().backward()
        for a, e in zip(modules, others, strict=True):
            torch.testing.assert_close(a.running_mean, e.running_mean)
            torch.testing.assert_close(a.running_var, e.running_var)


def test_statistics_in_full_precision():
    """A layer norm in bfloat16 keeps mean and deviation in float32."""
    x, w, b = (
        values(64, 512, dtype=torch.bfloat16),
        values(512, dtype=torch.bfloat16),
        values(512, dtype=torch.bfloat16),
    )
    results = []
    for call in (lambda f: f, framejit.compile):
        leaves = [t.clone().requires_grad_() for t in (x + 100, w, b)]
        call(lambda a, w, b: F.layer_norm(a, (512,), w, b))(*leaves).float().square().sum().backward()
        results.append([leaf.grad.float() for leaf in leaves])
    for expected, actual in zip(*results, strict=True):
        assert (expected - actual).abs().max() <= 0.01 * expected.abs().max()


def test_backward_runs_on_the_streams_of_the_forward():
    compiled, w = framejit.compile(lambda x, w: torch.tanh(x @ w).square().mean()), values(512, 512)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    results = []
    for call in (lambda x, w: torch.tanh(x @ w).square().mean(), compiled, compiled):
        leaf = w.clone().requires_grad_()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(20_000_000)
            x = torch.full((256, 512), 0.01, device="cuda")
            loss = call(x, leaf)
        loss.backward()  # asked for on the default stream, which waits for the gradients
        results.append(leaf.grad.clone())
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-7)
    assert_native(compiled)


def test_threads_ask_for_backwards_at_once():
    def function(x, w):
        return F.layer_norm(torch.tanh(x @ w), (64,)).square().mean()

    compiled, w = framejit.compile(function), values(64, 64)
    compiled(values(16, 64), w.clone().requires_grad_()).backward()
    failures = []

    def work(seed):
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for number in range(20):
                    x = values(16, 64, seed=seed * 100 + number)
                    a, b = w.clone().requires_grad_(), w.clone().requires_grad_()
                    compiled(x, a).backward()
                    function(x, b).backward()
                    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_backward_is_differentiated_with_the_forwards_random_numbers():
    def function(x, w):
        return F.dropout(torch.tanh(x @ w), 0.5, True).square().sum()

    compiled = framejit.compile(function)
    results = []
    for call in (function, compiled):
        x, w = values(16, 32), values(32, 32, seed=1, grad=True)
        torch.manual_seed(3)
        loss = call(x, w)
        after = torch.rand(4, device="cuda")
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        gradient.square().sum().backward()
        results.append((loss, after, gradient, w.grad, torch.rand(4, device="cuda")))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert_native(compiled)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpoints(dropout):
    def inner(x, w):
        return F.dropout(torch.tanh(x @ w), dropout, True)

    def function(x, w):
        return checkpoint(inner, x, w, use_reentrant=False).square().sum()

    compiled = framejit.compile(function)
    for _ in range(3):
        results = []
        for call in (function, compiled):
            x, w = values(16, 32, grad=True), values(32, 32, seed=1, grad=True)
            torch.manual_seed(3)
            loss = call(x, w)
            loss.backward()
            results.append((loss.detach(), x.grad, w.grad, torch.rand(4, device="cuda")))
        for expected, actual in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_gradients_asked_for_inside():
    def function(x, w):
        (gradient,) = torch.autograd.grad(torch.tanh(x @ w).sum(), x, create_graph=True)
        return gradient.square().sum()

    compiled = framejit.compile(function)
    results = []
    for call in (function, compiled):
        x, w = values(16, 32, grad=True), values(32, 32, seed=1, grad=True)
        call(x, w).backward()
        results.append((x.grad, w.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert reports(compiled)[0].graph_break is None


def test_a_whole_step_inside():
    def function(w, x):
        loss = torch.tanh(x @ w).square().mean()
        loss.backward()
        return loss.detach()

    compiled = framejit.compile(function)
    results = []
    for call in (function, compiled):
        w = values(32, 32, seed=1, grad=True)
        results.append((call(w, values(16, 32)), w.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_numbers_on_the_cpu_go_with_gpus():
    number = torch.tensor(1.5, dtype=torch.float64)
    compiled = framejit.compile(lambda x, n: (x * n).exp().sum())
    x, y = values(100, grad=True), values(100, grad=True)
    compiled(x, number).backward()
    (y * number).exp().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert_native(compiled)


def test_several_devices_are_torchs():
    def function(x, y):
        return (x * 2).cpu() * y

    compiled = framejit.compile(function)
    results = []
    for call in (function, compiled):
        x, y = values(10, grad=True), torch.arange(10.0, requires_grad=True)
        call(x, y).sum().backward()
        results.append((x.grad, y.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert not reports(compiled)[0].has_backward


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_second_gpu():
    compiled = framejit.compile(lambda x: torch.tanh(x).square().sum())
    x = values(100).to("cuda:1").requires_grad_()
    compiled(x).backward()
    y = x.detach().requires_grad_()
    torch.tanh(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert torch.cuda.current_device() == 0
    assert_native(compiled)


def test_memory_is_given_back():
    module = Block().cuda()
    compiled, x = framejit.compile(module), values(4, 32, 64)
    for _ in range(20):  # beyond those that may be captured
        compiled(x).sum().backward()
    module.zero_grad()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        compiled(x).sum().backward()
    module.zero_grad()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
