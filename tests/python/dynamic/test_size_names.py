"""What sizes are called in the demands of a recording: by the first tensor that has them for sure, or by their number
where they are the same for all sizes. What such a name says of another size is true of it at any sizes."""

import random

import pytest
import torch
import transformers
from dynamic_testing import demands, traces
from framejit_testing import assert_same
from torch.nn import functional as F

import framejit

X0, X1 = "L['x'].shape[0]", "L['x'].shape[1]"
Y0, Y1 = "L['y'].shape[0]", "L['y'].shape[1]"
OWN = "a name of its own"
# Parameters, so that their sizes never vary.
TABLE, WEIGHT, BIAS = (torch.nn.Parameter(torch.randn(size), False) for size in ((50, 8), (6, 8), (6,)))


def column(x):
    return x.sum(1, keepdim=True)


def of_width(x, width):
    """[X0, width]"""
    return column(x).expand(-1, width)


# Of two tensors of two dimensions: the result whose sizes are asked for, and what they are called.
CASES = {
    "pointwise": (lambda x, y: x * 2, [X0, X1]),
    "broadcast_column": (lambda x, y: column(x) + x, [X0, X1]),
    "broadcast_row": (lambda x, y: x.mean(0) + x, [X0, X1]),
    "broadcast_both": (lambda x, y: column(x) + y.sum(0), [X0, Y1]),
    "broadcast_keyword": (lambda x, y: torch.add(column(x), other=y.sum(0)), [X0, Y1]),
    "broadcast_maybe": (lambda x, y: column(x)[None] * x[:, :1, None], [X0, OWN, "1"]),
    "broadcast_number": (lambda x, y: of_width(x, 6) * y[:1, :1], [OWN, "6"]),
    "clamp_by_tensor": (lambda x, y: column(x).clamp(min=y.sum(0)), [X0, Y1]),
    "index_none": (lambda x, y: x[..., None, :], [X0, "1", X1]),
    "index_int": (lambda x, y: x[0][None], ["1", X1]),
    "index_slices": (lambda x, y: x[:, 0:], [X0, X1]),
    "index_part": (lambda x, y: x[1:], [OWN, X1]),
    "index_to_its_size": (lambda x, y: x[: x.shape[0]], [X0, X1]),
    "index_to_other_size": (lambda x, y: x[: y.shape[0]], [OWN, X1]),
    "index_of_number": (lambda x, y: TABLE[: x.shape[0], 2:6], [OWN, "4"]),
    "index_from_the_end": (lambda x, y: x[-1:], [OWN, X1]),
    "embedding": (lambda x, y: F.embedding(x.long().abs(), TABLE), [X0, X1, "8"]),
    "cat_of_numbers": (lambda x, y: torch.cat([x[:, :1], x[:, :1]], -1)[:, None], [X0, "1", OWN]),
    "cat": (lambda x, y: torch.cat([x, x * 2], dim=1), [X0, OWN]),
    "cat_of_one": (lambda x, y: torch.cat([x]), [X0, X1]),
    "cat_with_nothing": (lambda x, y: torch.cat([torch.empty(0), x], -2), [X0, X1]),
    "cat_of_known": (lambda x, y: torch.cat([F.linear(of_width(x, 8), WEIGHT)] * 2, 1), [X0, "12"]),
    "stack": (lambda x, y: torch.stack([x, x], -1), [X0, X1, "2"]),
    "split": (lambda x, y: x.split(20, dim=1)[0], [X0, OWN]),
    "chunk_of_number": (lambda x, y: F.linear(of_width(x, 8), WEIGHT).chunk(3, 1)[1], [X0, "2"]),
    "split_by_size": (lambda x, y: TABLE[:4].split(x.shape[0] + 3)[0], [OWN, "8"]),
    "unbind": (lambda x, y: torch.stack([x, x]).unbind()[1], [X0, X1]),
    "arange": (lambda x, y: torch.arange(x.shape[1])[None], ["1", X1]),
    "arange_from": (lambda x, y: torch.arange(2, end=2 + x.shape[1]), [OWN]),
    "arange_to": (lambda x, y: torch.arange(0, end=x.shape[1]), [OWN]),
    "zeros": (lambda x, y: torch.zeros(x.shape[1], y.shape[1]), [X1, Y1]),
    "full": (lambda x, y: torch.full((x.shape[1], 3), 1.5), [X1, "3"]),
    "new_ones": (lambda x, y: x.new_ones((4, *x.shape)), ["4", X0, X1]),
    "mean": (lambda x, y: x.mean(-1, keepdim=True), [X0, "1"]),
    "sum": (lambda x, y: x.sum(0), [X1]),
    "amax_of_two": (lambda x, y: x[None].amax((0, 2)), [X0]),
    "matmul": (lambda x, y: x @ x.transpose(0, 1), [X0, X0]),
    "matmul_batch": (lambda x, y: x[:, None] @ x[None].transpose(1, 2), [X0, "1", X0]),
    "addmm": (lambda x, y: torch.addmm(BIAS, of_width(x, 8), WEIGHT.transpose(0, 1)), [X0, "6"]),
    "attention": (lambda x, y: F.scaled_dot_product_attention(x[None], x[None], x[None]), ["1", X0, X1]),
    "attention_broadcast": (
        lambda x, y: F.scaled_dot_product_attention(y[None, :, :1], column(x)[..., None], x[:, None]),
        [X0, Y0, X1],
    ),
    "attention_of_groups": (
        lambda x, y: F.scaled_dot_product_attention(
            y[None, :, :1].expand(2, -1, -1)[None].expand(-1, -1, -1, 4),
            y[None, None, :, :1].expand(-1, 1, -1, 4),
            y[None, None, :, :1].expand(-1, 1, -1, 4),
            enable_gqa=True,
        ),
        [OWN, OWN, OWN, OWN],
    ),
    "expand": (lambda x, y: x[None].expand(y.shape[0], -1, -1), [Y0, X0, X1]),
    "expand_of_one": (lambda x, y: of_width(x, 7), [X0, "7"]),
    "expand_as": (lambda x, y: x[:1].expand_as(x), [X0, X1]),
    "view_rest": (lambda x, y: x.reshape(x.shape[0], -1), [X0, X1]),
    "view_rest_of_number": (lambda x, y: of_width(x, 12).reshape(x.shape[0], -1, 4), [X0, "3", "4"]),
    "view_rest_of_product": (lambda x, y: x.reshape(-1), [OWN]),
    "view_rest_of_part": (lambda x, y: torch.cat([x, x]).reshape(2, -1, x.shape[1]), ["2", OWN, X1]),
}  # fmt: skip


def program(function, dimension):
    def asks(x, y):
        result = function(x, y)
        return x + 1 if result.shape[dimension] > 1000 else x * 2

    return asks


def draw(generator):
    sizes = [generator.randint(1, 9) for _ in range(4)]
    return torch.randn(sizes[:2]), torch.randn(sizes[2:])


@pytest.mark.parametrize("name", CASES)
def test_names(name):
    function, expected = CASES[name]
    generator = random.Random(name)
    for dimension, size in enumerate(expected):
        asks = program(function, dimension)
        compiled = framejit.compile(asks, dynamic=True)
        for _ in range(20):
            x, y = draw(generator)
            assert_same(compiled(x, y), asks(x, y))
            is_told = size in (X0, X1, Y0, Y1) or size.isdigit()
            assert not is_told or eval(size, {"L": {"x": x, "y": y}}) == function(x, y).shape[dimension]
        assert len(traces(compiled)) == 1 and traces(compiled)[0]["captured"]
        if size == OWN:
            assert len(demands(compiled)) == 1
            assert "L[" not in demands(compiled)[0] and not demands(compiled)[0].startswith("not (1")
        else:
            assert demands(compiled) == ([] if size.isdigit() else [f"not ({size} > 1000)"])


def test_parts_that_come_of_data():
    """Sizes of data keep their names through the operators that give theirs on, and break where they are asked for."""

    def function(x):
        rows = x[x[:, 0] > 0]
        ends = torch.cat([rows, rows.mean(-1, keepdim=True).expand(-1, 2)], -1)[..., None].squeeze(-1)
        return ends + 1 if ends.shape[0] > 3 else ends - 1

    compiled = framejit.compile(function, data_dependent=True)
    for seed in range(6):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
        assert_same(compiled(x), function(x))
    first = traces(compiled)[0]
    assert first["break"]


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "vit"])
def test_layers_demand_the_same(kind, layers):
    """However many layers ask for a length, it is one demand."""
    torch.manual_seed(0)
    model, inputs = MODELS[kind](layers)
    model.eval()
    compiled = framejit.compile(model)
    with torch.no_grad():
        for batch, length in ((2, 8), (3, 13), (5, 7), (1, 1), (2, 1), (4, 20)):
            arguments = inputs(batch, length)
            assert_same(compiled(**arguments)[0], model(**arguments)[0])
    found = traces(compiled)
    assert len(found) <= 3 and all(trace["captured"] for trace in found)
    assert all(len(trace["demands"].splitlines()) <= 4 for trace in found)


def config(kind, layers, **more):
    name = {"bert": "Bert", "llama": "Llama", "vit": "ViT"}[kind]
    sizes = dict(hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64)
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes, **more))


def tokens(batch, length):
    ids = torch.randint(0, 100, (batch, length), generator=torch.Generator().manual_seed(batch * 100 + length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def images(batch, length):
    return {"pixel_values": torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(length))}


MODELS = {
    "bert": lambda layers: (config("bert", layers, vocab_size=100), tokens),
    "llama": lambda layers: (config("llama", layers, vocab_size=100, num_key_value_heads=2), tokens),
    "vit": lambda layers: (config("vit", layers, image_size=32, patch_size=8), images),
    "gpt2": lambda layers: (
        transformers.GPT2Model(transformers.GPT2Config(n_embd=32, n_layer=layers, n_head=4, vocab_size=100)),
        tokens,
    ),
}
