"""Hugging Face architectures in small random configurations, for the capture table (benchmarks.coverage) and the tests.

`ARCHITECTURES[name].build()` makes the model from its configuration class, in eval mode; `.inputs(seed)` its keyword
arguments. Nothing is downloaded.
"""

import os
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SEED = 20240229
VOCABULARY = 100


@dataclass(frozen=True)
class Architecture:
    kind: str  # text, vision, audio, encoder-decoder, mixture of experts, state space, multimodal
    model: str
    config: str
    values: dict  # of the configuration
    input_of: dict = field(default_factory=dict)  # keyword -> how it is made (see _tensor)

    def build(self) -> nn.Module:
        import transformers

        torch.manual_seed(SEED)
        transformers.logging.set_verbosity_error()
        return getattr(transformers, self.model)(getattr(transformers, self.config)(**self.values)).eval()

    def inputs(self, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(SEED + seed)
        return {name: _tensor(shape, generator) for name, shape in self.input_of.items()}


def _tensor(shape: tuple, generator: torch.Generator) -> Tensor:
    """("tokens", 2, 16): token ids of that shape; ("mask", 2, 16): all ones but for the end of the last row; numbers
    alone: floating point."""
    if shape[0] == "tokens":
        return torch.randint(3, VOCABULARY, shape[1:], generator=generator)
    if shape[0] == "mask":
        mask = torch.ones(shape[1:], dtype=torch.long)
        mask[-1, -3:] = 0
        return mask
    return torch.randn(*shape, generator=generator)


TOKENS = {"input_ids": ("tokens", 2, 16)}
MASKED = {"input_ids": ("tokens", 2, 16), "attention_mask": ("mask", 2, 16)}
TRANSLATION = {**MASKED, "decoder_input_ids": ("tokens", 2, 8)}
IMAGES = {"pixel_values": (2, 3, 32, 32)}
LARGER_IMAGES = {"pixel_values": (2, 3, 64, 64)}
WAVEFORM = {"input_values": (2, 1600)}

BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
LLAMA = {**BERT, "num_key_value_heads": 2, "pad_token_id": 0}
EXPERTS = {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
WAV2VEC2 = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def _text(model: str, config: str, values: dict, inputs: dict = MASKED, kind: str = "text") -> Architecture:
    return Architecture(kind, model, config, values, inputs)


def _vision(model: str, config: str, values: dict, inputs: dict = IMAGES) -> Architecture:
    return Architecture("vision", model, config, values, inputs)


ARCHITECTURES: dict[str, Architecture] = {
    # Encoders of text.
    "bert": _text("BertModel", "BertConfig", BERT),
    "roberta": _text("RobertaModel", "RobertaConfig", {**BERT, "pad_token_id": 1}),
    "distilbert": _text(
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    ),
    "albert": _text("AlbertModel", "AlbertConfig", {**BERT, "embedding_size": 16}),
    "electra": _text("ElectraModel", "ElectraConfig", {**BERT, "embedding_size": 16}),
    "deberta-v2": _text(
        "DebertaV2Model",
        "DebertaV2Config",
        {
            **BERT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "type_vocab_size": 0,
        },
    ),
    "mpnet": _text("MPNetModel", "MPNetConfig", BERT),
    "xlnet": _text(
        "XLNetModel", "XLNetConfig", {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    ),
    "modernbert": _text(
        "ModernBertModel",
        "ModernBertConfig",
        {**BERT, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    "funnel": _text(
        "FunnelModel",
        "FunnelConfig",
        {
            "vocab_size": VOCABULARY,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 64,
            "num_decoder_layers": 1,
        },
    ),
    "fnet": _text("FNetModel", "FNetConfig", {**BERT}, TOKENS),
    "longformer": _text("LongformerModel", "LongformerConfig", {**BERT, "attention_window": 8}),
    # Decoders of text.
    "gpt2": _text(
        "GPT2Model",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gpt-neo": _text(
        "GPTNeoModel",
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 64,
        },
    ),
    "gpt-neox": _text("GPTNeoXModel", "GPTNeoXConfig", BERT),
    "gptj": _text(
        "GPTJModel",
        "GPTJConfig",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    ),
    "opt": _text(
        "OPTModel",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
        },
    ),
    "bloom": _text(
        "BloomModel", "BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    ),
    "mpt": _text(
        "MptModel",
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "codegen": _text(
        "CodeGenModel",
        "CodeGenConfig",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    ),
    "llama": _text("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "mistral": _text("MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 8}),
    "qwen2": _text("Qwen2ForCausalLM", "Qwen2Config", LLAMA),
    "qwen3": _text("Qwen3ForCausalLM", "Qwen3Config", {**LLAMA, "head_dim": 8}),
    "gemma2": _text("Gemma2ForCausalLM", "Gemma2Config", {**LLAMA, "head_dim": 8, "sliding_window": 8}),
    "gemma3": _text("Gemma3ForCausalLM", "Gemma3TextConfig", {**LLAMA, "head_dim": 8, "sliding_window": 8}),
    "phi": _text("PhiForCausalLM", "PhiConfig", LLAMA),
    "phi3": _text("Phi3ForCausalLM", "Phi3Config", LLAMA),
    "falcon": _text("FalconForCausalLM", "FalconConfig", {**BERT, "num_kv_heads": 2}),
    "stablelm": _text("StableLmForCausalLM", "StableLmConfig", LLAMA),
    "olmo2": _text("Olmo2ForCausalLM", "Olmo2Config", LLAMA),
    "cohere": _text("CohereForCausalLM", "CohereConfig", LLAMA),
    "granite": _text("GraniteForCausalLM", "GraniteConfig", LLAMA),
    "smollm3": _text("SmolLM3ForCausalLM", "SmolLM3Config", LLAMA),
    "starcoder2": _text("Starcoder2ForCausalLM", "Starcoder2Config", LLAMA),
    # Mixtures of experts.
    "mixtral": _text("MixtralForCausalLM", "MixtralConfig", EXPERTS, kind="mixture of experts"),
    "qwen2-moe": _text(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            **LLAMA,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
        kind="mixture of experts",
    ),
    "olmoe": _text(
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2},
        kind="mixture of experts",
    ),
    "gpt-oss": _text(
        "GptOssForCausalLM", "GptOssConfig", {**EXPERTS, "head_dim": 8, "sliding_window": 8}, kind="mixture of experts"
    ),
    "deepseek-v3": _text(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **LLAMA,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
        kind="mixture of experts",
    ),
    "switch-transformers": _text(
        "SwitchTransformersModel",
        "SwitchTransformersConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
        },
        TRANSLATION,
        kind="mixture of experts",
    ),
    # State space models and recurrences.
    "mamba": _text(
        "MambaModel",
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        TOKENS,
        kind="state space",
    ),
    "mamba2": _text(
        "Mamba2Model",
        "Mamba2Config",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
        TOKENS,
        kind="state space",
    ),
    "falcon-mamba": _text(
        "FalconMambaModel",
        "FalconMambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        TOKENS,
        kind="state space",
    ),
    "rwkv": _text(
        "RwkvModel",
        "RwkvConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "num_hidden_layers": 2,
            "context_length": 64,
        },
        TOKENS,
        kind="state space",
    ),
    "recurrent-gemma": _text(
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        {**LLAMA, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
        kind="state space",
    ),
    "jamba": _text(
        "JambaForCausalLM",
        "JambaConfig",
        {
            **LLAMA,
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
        },
        kind="state space",
    ),
    # Encoders and decoders.
    "t5": _text(
        "T5Model",
        "T5Config",
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        TRANSLATION,
        kind="encoder-decoder",
    ),
    "bart": _text("BartModel", "BartConfig", BART, TRANSLATION, kind="encoder-decoder"),
    "mbart": _text("MBartModel", "MBartConfig", BART, TRANSLATION, kind="encoder-decoder"),
    "marian": _text("MarianModel", "MarianConfig", BART, TRANSLATION, kind="encoder-decoder"),
    "pegasus": _text("PegasusModel", "PegasusConfig", BART, TRANSLATION, kind="encoder-decoder"),
    "m2m-100": _text("M2M100Model", "M2M100Config", BART, TRANSLATION, kind="encoder-decoder"),
    "blenderbot": _text("BlenderbotModel", "BlenderbotConfig", BART, TRANSLATION, kind="encoder-decoder"),
    "led": _text(
        "LEDModel",
        "LEDConfig",
        {**BART, "attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
        TRANSLATION,
        kind="encoder-decoder",
    ),
    # Audio.
    "whisper": Architecture(
        "audio",
        "WhisperModel",
        "WhisperConfig",
        {**BART, "num_mel_bins": 16, "max_source_positions": 16, "max_target_positions": 32},
        {"input_features": (2, 16, 32), "decoder_input_ids": ("tokens", 2, 8)},
    ),
    "wav2vec2": Architecture("audio", "Wav2Vec2Model", "Wav2Vec2Config", WAV2VEC2, WAVEFORM),
    "hubert": Architecture("audio", "HubertModel", "HubertConfig", WAV2VEC2, WAVEFORM),
    "wavlm": Architecture("audio", "WavLMModel", "WavLMConfig", WAV2VEC2, WAVEFORM),
    "audio-spectrogram-transformer": Architecture(
        "audio",
        "ASTModel",
        "ASTConfig",
        {
            **{k: v for k, v in VIT.items() if k != "image_size"},
            "max_length": 32,
            "num_mel_bins": 16,
            "frequency_stride": 4,
            "time_stride": 4,
        },
        {"input_values": (2, 32, 16)},
    ),
    # Vision.
    "vit": _vision("ViTModel", "ViTConfig", VIT),
    "deit": _vision("DeiTModel", "DeiTConfig", VIT),
    "beit": _vision("BeitModel", "BeitConfig", {**VIT, "use_relative_position_bias": True}),
    "dinov2": _vision("Dinov2Model", "Dinov2Config", VIT),
    "swin": _vision(
        "SwinModel",
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "swinv2": _vision(
        "Swinv2Model",
        "Swinv2Config",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "convnext": _vision(
        "ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, LARGER_IMAGES
    ),
    "resnet": _vision(
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_type": "basic"},
        LARGER_IMAGES,
    ),
    "regnet": _vision(
        "RegNetModel",
        "RegNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "groups_width": 4},
        LARGER_IMAGES,
    ),
    "efficientnet": _vision(
        "EfficientNetModel",
        "EfficientNetConfig",
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
        LARGER_IMAGES,
    ),
    "mobilenet-v2": _vision(
        "MobileNetV2Model", "MobileNetV2Config", {"image_size": 64, "depth_multiplier": 0.25}, LARGER_IMAGES
    ),
    "mobilevit": _vision(
        "MobileViTModel",
        "MobileViTConfig",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40],
            "num_attention_heads": 4,
        },
        LARGER_IMAGES,
    ),
    "segformer": _vision(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 16,
        },
        LARGER_IMAGES,
    ),
    "pvt": _vision(
        "PvtModel",
        "PvtConfig",
        {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 2, 2, 4]},
        LARGER_IMAGES,
    ),
    "poolformer": _vision(
        "PoolFormerModel", "PoolFormerConfig", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}, LARGER_IMAGES
    ),
    "vit-mae": _vision(
        "ViTMAEModel",
        "ViTMAEConfig",
        {
            **VIT,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 32,
        },
    ),
    "yolos": _vision("YolosModel", "YolosConfig", {**VIT, "image_size": [32, 32], "num_detection_tokens": 4}),
    "dpt": _vision(
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            **VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 8, 16, 16],
            "fusion_hidden_size": 16,
        },
    ),
    "detr": Architecture(
        "vision",
        "DetrModel",
        "DetrConfig",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 5,
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage4"],
            },
        },
        LARGER_IMAGES,
    ),
    # Text and images.
    "clip": Architecture(
        "multimodal",
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**BERT, "eos_token_id": 2, "bos_token_id": 0},
            "vision_config": VIT,
            "projection_dim": 16,
        },
        {**MASKED, **IMAGES},
    ),
    "siglip": Architecture(
        "multimodal",
        "SiglipModel",
        "SiglipConfig",
        {"text_config": {**BERT, "projection_size": 32}, "vision_config": VIT},
        {**MASKED, **IMAGES},
    ),
    "blip": Architecture(
        "multimodal",
        "BlipModel",
        "BlipConfig",
        {"text_config": {**BERT, "encoder_hidden_size": 32}, "vision_config": VIT, "projection_dim": 16},
        {**MASKED, **IMAGES},
    ),
    "vilt": Architecture(
        "multimodal", "ViltModel", "ViltConfig", {**VIT, **BERT, "max_image_length": -1}, {**MASKED, **IMAGES}
    ),
}
