"""Models over batches and lengths that vary: few recordings serve them all, with and without gradients."""

import copy
import logging
import random
import threading

import pytest
import torch
import transformers
from dynamic_testing import PythonBackend, demands, recordings, traces
from framejit_testing import assert_same, assert_tensor_equal
from torch import nn
from torch.nn import functional as F

import framejit

TEXT = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=100,
    max_position_embeddings=64,
)  # fmt: skip


def batches(count: int, longest: int, seed: int = 0):
    generator = random.Random(seed)
    yield from ((3, 5), (4, 7))
    yield from ((generator.randint(1, 6), generator.randint(1, longest)) for _ in range(count))


def tokens(batch: int, length: int):
    generator = torch.Generator().manual_seed(100 * batch + length)
    ids = torch.randint(0, 100, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 + 1 :] = 0
    return ids, mask


def test_bert():
    """Lengths of 1 take another branch of the attention."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**TEXT)).eval()
    compiled = framejit.compile(model)
    with torch.no_grad():
        for batch, length in batches(50, 40):
            ids, mask = tokens(batch, length)
            actual, expected = compiled(ids, attention_mask=mask), model(ids, attention_mask=mask)
            assert type(actual) is type(expected)
            assert_same(actual.last_hidden_state, expected.last_hidden_state)
            assert_same(actual.pooler_output, expected.pooler_output)
    assert recordings(compiled) <= 3
    assert len(demands(compiled)) <= 10


class Encoder(nn.Module):
    def __init__(self, width: int = 16, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.table = nn.Embedding(100, width)
        self.positions = nn.Embedding(64, width)
        self.projection = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        batch, length = ids.shape
        x = self.table(ids) + self.positions(torch.arange(length))
        q, k, v = self.projection(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1)
        return self.norm(x + self.out(mixed))


def loss_of(model, ids, targets):
    logits = F.linear(model(ids), model.table.weight)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


@pytest.mark.parametrize("backend", ["cpu", "interp"])
def test_encoder(backend):
    torch.manual_seed(0)
    model = Encoder().eval()
    compiled = framejit.compile(model, backend=backend)
    with torch.no_grad():
        for batch, length in batches(50, 40):
            ids, _ = tokens(batch, length)
            assert_same(compiled(ids), model(ids))
    assert recordings(compiled) == 2
    assert demands(compiled) == []


def test_training_over_batches_of_any_size():
    torch.manual_seed(0)
    model = Encoder()
    same = copy.deepcopy(model)
    compiled = framejit.compile(loss_of)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, same)]
    for batch, length in batches(20, 24, seed=1):
        ids, _ = tokens(batch, length)
        targets = ids.roll(1, 1)
        for optimizer, loss in zip(
            optimizers, (compiled(model, ids, targets), loss_of(same, ids, targets)), strict=True
        ):
            optimizer.zero_grad()
            loss.backward()
        for name, parameter in model.named_parameters():
            assert_tensor_equal(parameter.grad, same.get_parameter(name).grad, name, tolerance=1e-4)
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), same.parameters(), strict=True):
                theirs.sub_(theirs.grad, alpha=0.1)
                ours.copy_(theirs)
    assert recordings(compiled) == 2
    assert all(trace["has_backward"] for trace in traces(compiled))


def encode(ids, w):
    """An encoder's layer of the tensors `w`."""
    batch, length = ids.shape
    x = F.layer_norm(F.embedding(ids, w["table"]) + w["positions"][:length], (16,))
    q, k, v = F.linear(x, w["projection"]).view(batch, length, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
    y = F.layer_norm(x + mixed, x.shape[-1:])
    return F.gelu(y @ w["up"]) @ w["down"] + y


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("name", [None, "eager", "aot_eager"])
def test_module_of_encoder(name, trains):
    sizes = {"table": (100, 16), "positions": (64, 16), "projection": (48, 16), "up": (16, 64), "down": (64, 16)}
    torch.manual_seed(0)
    weights = {key: torch.randn(size, requires_grad=trains) for key, size in sizes.items()}
    backend = PythonBackend(name)
    compiled = framejit.compile(encode, backend=backend)
    generator = random.Random(0)
    for _ in range(20):
        ids, _ = tokens(generator.randint(2, 9), generator.randint(2, 31))
        actual, expected = compiled(ids, weights), encode(ids, weights)
        assert_same(actual, expected)
        if trains:
            grads = [
                torch.autograd.grad(result.square().sum(), list(weights.values())) for result in (actual, expected)
            ]
            for key, ours, theirs in zip(weights, *grads, strict=True):
                assert_tensor_equal(ours, theirs, key, tolerance=1e-4)
    assert recordings(compiled) == 2
    assert (len(backend.modules), len(backend.symbolic)) == (2, 1)


@pytest.mark.parametrize("name", [None, "aot_eager"])
def test_module_of_a_model(name):
    torch.manual_seed(0)
    model = Encoder().eval()
    backend = PythonBackend(name)
    compiled = framejit.compile(model, backend=backend)
    generator = random.Random(0)
    with torch.no_grad():
        for _ in range(20):
            ids, _ = tokens(generator.randint(2, 9), generator.randint(2, 31))
            assert_same(compiled(ids), model(ids))
    assert recordings(compiled) == 2
    assert (len(backend.modules), len(backend.symbolic)) == (2, 1)


@pytest.mark.parametrize("name", [None, "aot_eager"])
def test_module_of_training(name):
    torch.manual_seed(0)
    model = Encoder()
    same = copy.deepcopy(model)
    backend = PythonBackend(name)
    compiled = framejit.compile(loss_of, backend=backend)
    generator = random.Random(1)
    for _ in range(12):
        ids, _ = tokens(generator.randint(2, 9), generator.randint(2, 20))
        targets = ids.roll(1, 1)
        for own, loss in ((model, compiled(model, ids, targets)), (same, loss_of(same, ids, targets))):
            own.zero_grad()
            loss.backward()
        for parameter_name, parameter in model.named_parameters():
            expected = same.get_parameter(parameter_name).grad
            assert_tensor_equal(parameter.grad, expected, parameter_name, tolerance=1e-4)
    assert recordings(compiled) == 2
    assert (len(backend.modules), len(backend.symbolic)) == (2, 1)


def test_gradient_of_a_gradient():
    def function(x, w):
        return ((x @ w).sin() * x.shape[0]).sum()

    compiled = framejit.compile(function)
    torch.manual_seed(0)
    w = torch.randn(4, 3, requires_grad=True)
    for rows in (3, 5, 2, 7, 1, 5):
        x = torch.randn(rows, 4)
        grads = []
        for f in (compiled, function):
            (first,) = torch.autograd.grad(f(x, w), w, create_graph=True)
            grads.append(torch.autograd.grad(first.square().sum(), w)[0])
        assert_tensor_equal(*grads, "second gradient")
    assert recordings(compiled) == 2


def test_dropout_draws_what_eager_draws():
    def function(x):
        return F.dropout(x, 0.5) * x.shape[0]

    compiled = framejit.compile(function)
    for rows in (3, 5, 2, 7, 1, 5):
        x = torch.ones(rows, 8)
        torch.manual_seed(rows)
        actual = compiled(x)
        torch.manual_seed(rows)
        assert torch.equal(actual, function(x))
    assert recordings(compiled) == 2


def test_both_modes_of_gradients():
    """What is recorded under no_grad does not serve calls that want gradients."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)

    def function(x):
        return layer(x).relu()

    compiled = framejit.compile(function)
    for rows in (3, 5, 2, 7):
        x = torch.randn(rows, 4)
        with torch.no_grad():
            assert_same(compiled(x), function(x))
        assert_same(compiled(x), function(x))
    assert recordings(compiled) == 4


def test_threads():
    def function(x):
        return (x * x.shape[0]).softmax(-1)

    compiled = framejit.compile(function)
    for rows in (3, 4):
        compiled(torch.randn(rows, 8))
    failures = []

    def work(seed):
        generator = random.Random(seed)
        for _ in range(100):
            rows = generator.randint(1, 40)
            x = torch.arange(8.0 * rows).view(rows, 8).sin()  # draws from no generator that threads share
            if not torch.allclose(compiled(x), function(x), atol=1e-6):
                failures.append(tuple(x.shape))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert recordings(compiled) == 2


def test_log(caplog):
    def function(x):
        if x.shape[0] > 4:
            return x + int(f"{x.shape[1]}")
        return x

    framejit.set_logs("symbols,recompiles")
    try:
        with caplog.at_level(logging.INFO, logger="framejit"):
            compiled = framejit.compile(function)
            for rows in (5, 6, 7, 2):
                compiled(torch.ones(rows, 3))
    finally:
        framejit.set_logs("")
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "demands (L['x'].shape[0] > 4)" in text
    assert "specialised: demands L['x'].shape[1] == 3" in text
    assert "is made for sizes, strides and numbers 7 3 3 1" in text
    assert "it does not hold for these sizes: it demands (L['x'].shape[0] > 4)" in text
