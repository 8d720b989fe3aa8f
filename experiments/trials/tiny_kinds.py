"""Tiny models of every kind that transformers has for language: a config small enough to be made on any machine in a second.

A bare config of a kind is made small field by field, by the names that sizes have in transformers; what a class needs
besides stands in `SETTINGS`. What cannot be made so is reported by whoever asks, never left out without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

MAPPINGS = {
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "sequence to sequence": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
}
HIDDEN, INNER, LAYERS, HEADS, EXPERTS = 32, 48, 2, 4, 4
SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size", "width"), HIDDEN
    ),
    **dict.fromkeys(("word_embed_proj_dim", "lru_width", "attention_hidden_size", "backbone_hidden_size"), HIDDEN),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "dff", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"), INNER
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size", "dim_ff"), INNER),
    **dict.fromkeys(("expert_ffn_hidden_size", "expert_intermediate_size", "intermediate_size_mlp", "d_inner"), INNER),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), LAYERS
    ),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "num_key_value_heads", "num_encoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_decoder_attention_heads", "linear_num_key_heads", "linear_num_value_heads"), HEADS),
    **dict.fromkeys(
        ("head_dim", "d_kv", "kv_channels", "dim_head", "attention_head_dim", "v_head_dim"), HIDDEN // HEADS
    ),
    **dict.fromkeys(
        ("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim"), HIDDEN // HEADS
    ),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), HIDDEN // HEADS),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "laurel_rank", "o_lora_rank"), 8),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"), EXPERTS
    ),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "n_group", "topk_group"), 1),
    **dict.fromkeys(("num_nextn_predict_layers", "num_mtp_layers", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions"), 128),
    **dict.fromkeys(("seq_length", "max_seq_len", "context_length", "n_ctx"), 128),
    **dict.fromkeys(("sliding_window", "attention_window_size", "local_window_size"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 4),
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    "rotary_dim": 8,
    "mamba_expand": 2,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_n_groups": 1,
    "n_groups": 1,
}  # fmt: skip  (a size a line)
# What a class needs besides, or otherwise.
SETTINGS: dict[str, dict[str, Any]] = {
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds": False,
        "feed_forward_size": INNER,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "mimo_v2_flash": {"head_dim": 16, "v_head_dim": 8, "swa_head_dim": 16, "partial_rotary_factor": 0.5},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": LAYERS},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "nemotron": {"num_key_value_heads": HEADS},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_dt_rank": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"hidden_size": HIDDEN, "ffn_hidden_size": INNER, "moe_num_experts": EXPERTS, "moe_top_k": 2},
    },
    "qwen4_exp_text": {
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "indexer_head_dim": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
    "dots3_note_audio_encoder": {"adapter_input_size": HIDDEN, "adapter_output_size": HIDDEN},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["full_attention"] * LAYERS,
    },
    # Sizes that count other things than tokens: how characters sound and look.
    "roc_bert": {"pronunciation_vocab_size": 90, "shape_vocab_size": 110},
    "zaya": {"num_experts_per_tok": 1},
    "gptj": {"rotary_dim": 4},
}


class NotMadeError(Exception):
    """No tiny model of this kind: ``str(error)`` says why."""


def kinds() -> Iterator[tuple[str, str, str]]:
    """Every kind (its ``model_type``), with what it is and the automatic class that builds it."""
    from transformers.models.auto import modeling_auto

    for what, (auto, mapping) in MAPPINGS.items():
        for kind in getattr(modeling_auto, mapping):
            yield kind, what, auto


def tiny_config(kind: str, rows: int, **more: Any) -> Any:
    """A small config of a kind with so many rows in its vocabulary. Raises `NotMadeError`."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    try:
        bare = transformers.CONFIG_MAPPING[kind]()
        config = transformers.CONFIG_MAPPING[kind](**{**_small(bare, rows), **SETTINGS.get(kind, {}), **more})
    except Exception as error:  # whatever a class raises over a config that it was not made for
        raise NotMadeError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return config


def tiny_model(kind: str, auto: str, config: Any, seed: int = 0, device: str = "cpu") -> Any:
    """A model of random weights. Raises `NotMadeError`."""
    import torch
    import transformers

    torch.manual_seed(seed)
    try:
        with torch.device(device):
            return getattr(transformers, auto).from_config(config)
    except Exception as error:  # as above
        raise NotMadeError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _small(config: Any, rows: int) -> dict[str, Any]:
    """Keyword arguments that make a config like this one, but small; its parts are made small as well."""
    given: dict[str, Any] = {}
    for name, value in list(vars(config).items()):
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            given[name] = type(value)(**{**_small(value, rows), **SETTINGS.get(value.model_type, {})})
        elif isinstance(value, bool) or name.startswith("_"):
            continue
        elif "vocab_size" in name and isinstance(value, int) and value > 200:
            given[name] = rows
        elif name in SIZES and (isinstance(value, int) or (value is None and name in ("n_inner", "head_dim"))):
            given[name] = SIZES[name]
        elif name in SIZES and isinstance(value, list):
            given[name] = [SIZES[name]] * LAYERS
        elif name in ("layer_types", "mlp_layer_types", "layers_block_type", "block_types") and isinstance(value, list):
            given[name] = list(dict.fromkeys(value))[:LAYERS] * (1 if len(set(value)) > 1 else LAYERS)
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int) and value >= rows:
            given[name] = 0
    return given
