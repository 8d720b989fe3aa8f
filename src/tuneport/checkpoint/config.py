"""What a config.json says, whichever version of transformers wrote it.

In comes a config as a dict, out go its fields under one spelling, with omitted defaults filled in, so that two
configs can be compared field by field; and for each field whether it is architecture or manners. The promise: two
files that transformers reads as the same model resolve to the same fields, for the model types of
``config_defaults.json``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tuneport.checkpoint.config_rope import ROPE, ROPE_KEYS, rope_of
from tuneport.checkpoint.token_names import is_token_field
from tuneport.errors import CheckpointError

# The output's own affair, never merged: which library wrote it, where its code and tokenizer class come from (both
# are the target's files). Sizes of vocabularies follow the rows that are written.
FIXED = {"transformers_version", "auto_map", "tokenizer_class"}
# What a path of somebody's machine, another model's name, or that of a weight file has no place in.
DROPPED = {"_name_or_path", "name_or_path", "_commit_hash", "transformers_weights"}
DTYPE = "dtype"

# Fields that do not change what the model computes at inference. All others are architecture, the unknown ones
# too: a field that nobody here has heard of may well be read by the forward pass.
_MANNERS = {
    # what the forward pass returns or keeps, not what it computes
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "return_dict",
    "use_return_dict",
    "return_dict_in_generate",
    "torchscript",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    # starting values of training
    "initializer_range",
    "initializer_factor",
    "init_std",
    "init_method",
    "rescale_prenorm_residual",
    # losses and noise of training only
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "router_jitter_noise",
    "input_jitter_noise",
    "aux_loss_alpha",
    "seq_aux",
    "ignore_index",
    "tf_legacy_loss",
    "loss_type",
    # slices of the same matrix product, kernels of the same attention
    "pretraining_tp",
    "ep_size",
    "slow_but_exact",
    "use_flash_attn",
    "attn_implementation",
    "use_bfloat16",
    # labels and notes; a classifier's head is told by `architectures` and by its tensors
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "prefix",
    "unsloth_version",
    "unsloth_fixed",
    "model_name",
    "license",
    "bos_token",
    "eos_token",
    "pad_token",
    DTYPE,
}  # fmt: skip  (groups with their reason)
_DROPOUT = re.compile(r"(^|_)(dropout|pdrop|dropout_prob|dropout_rate|drop_rate|drop_path_rate|layerdrop)$")
# OPT's switch is the one field with a leading underscore that the forward pass reads; the others are private notes
# of the library that wrote the file.
_UNDERSCORE_ARCHITECTURE = {"_remove_final_layer_norm"}


@dataclass(frozen=True)
class Fields:
    """A config's fields under one spelling.

    ``values`` are resolved (defaults filled in, null left out), ``keys`` say under which key the file itself has a
    field. Rope is one field, `ROPE`, with all its spellings.
    """

    values: Mapping[str, Any]
    keys: Mapping[str, str]


def resolve(config: Mapping[str, Any], model_type: str | None = None) -> Fields:
    """The fields of a config, or of one of its sub-configs.

    ``model_type`` is that of the model where the (sub-)config does not say so itself. Raises `CheckpointError`
    where a field that must be understood is malformed.
    """
    own = config.get("model_type", model_type)
    entry = defaults_of(own if isinstance(own, str) else None)
    aliases: Mapping[str, str] = {**entry.get("aliases", {}), "torch_dtype": DTYPE}
    written = {aliases.get(key, key): key for key in config if key not in ROPE_KEYS}
    # A key under its own name beats an alias of it, as it does for transformers.
    keys = {name: name if name in config else key for name, key in written.items()}
    values = dict(_table()["every_config"])
    values |= {aliases.get(name, name): value for name, value in entry.get("defaults", {}).items()}
    values |= {name: config[key] for name, key in keys.items()}
    rope = rope_of(config, entry.get("rope"))
    if rope is not None:
        values[ROPE] = rope
    _derive(values, entry, own)
    for key in ROPE_KEYS:
        if key in config:
            keys[ROPE] = key
    return Fields({name: value for name, value in values.items() if value is not None}, keys)


def is_fixed(name: str) -> bool:
    """Whether a field is the target's own, whatever the others say: it is not compared, and no choice takes it from them."""
    return name in FIXED or "vocab_size" in name


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the config says that embedding and head are one matrix; the model type's default where it is silent."""
    text = config.get("text_config")
    if isinstance(text, dict) and "tie_word_embeddings" in text and "tie_word_embeddings" not in config:
        config = text
    return bool(config) and bool(resolve(config).values.get("tie_word_embeddings", False))


def is_manner(name: str) -> bool:
    """Whether a field may come from the tuned model without changing what the target computes."""
    if name.startswith("_"):
        return name not in _UNDERSCORE_ARCHITECTURE
    return name in _MANNERS or name in generation_defaults() or is_token_field(name) or bool(_DROPOUT.search(name))


def defaults_of(model_type: str | None) -> Mapping[str, Any]:
    """The table's entry of a model type; empty for one it does not know."""
    entry: Mapping[str, Any] = _table()["models"].get(model_type, {})
    return entry


def generation_defaults() -> Mapping[str, Any]:
    """What generation_config.json means by leaving a field out."""
    entry: Mapping[str, Any] = _table()["generation"]
    return entry


def checked(config: Mapping[str, Any] | None, what: str, most: int = 64) -> Mapping[str, Any]:
    """``config`` as it is, or an error: nested deeper than any config is."""
    level: list[Any] = [config]
    for _ in range(most):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return config or {}
    raise CheckpointError(f"{what} is nested more than {most} levels deep; that is no config.")


@functools.cache
def _table() -> Mapping[str, Any]:
    text = resources.files("tuneport.checkpoint").joinpath("config_defaults.json").read_text(encoding="utf-8")
    table: Mapping[str, Any] = json.loads(text)
    return table


def _derive(values: dict[str, Any], entry: Mapping[str, Any], model_type: object) -> None:
    """Fill in what a config class computes from its other fields; version 5 writes it, version 4 did not."""
    hidden = values.get("hidden_size", values.get("n_embed"))
    heads = values.get("num_attention_heads")
    if model_type in ("falcon", "bloom") and (old := values.pop("n_embed", None)) is not None:
        values["hidden_size"] = hidden = old
    if model_type in ("deepseek_v2", "deepseek_v3"):
        rope, nope = values.get("qk_rope_head_dim"), values.get("qk_nope_head_dim")
        values["head_dim"] = rope
        if isinstance(rope, int) and isinstance(nope, int):
            values["qk_head_dim"] = rope + nope
    elif values.get("head_dim") is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        values["head_dim"] = hidden // heads
    for name, default in (
        ("num_kv_heads" if model_type == "falcon" else "num_key_value_heads", heads),
        ("ffn_hidden_size", 4 * hidden if model_type == "falcon" and isinstance(hidden, int) else None),
        ("word_embed_proj_dim", hidden if model_type == "opt" else None),
    ):
        if values.get(name) is None:
            values[name] = default
    if values.get("mlp_only_layers") == []:
        values["mlp_only_layers"] = None
    if model_type == "gemma" and values.get("hidden_act") == "gelu":
        values["hidden_act"] = "gelu_pytorch_tanh"  # a slip of the first release, which transformers corrects
    if values.get("use_sliding_window") is False:
        # A window that is not used is written as it was by version 4, as null or 0 by version 5.
        values["sliding_window"] = None
    interval: Any
    count: Any
    interval, count = values.get("no_rope_layer_interval"), values.get("num_hidden_layers")
    if values.get("no_rope_layers") is None and _is_count(interval, least=1) and _is_count(count):
        values["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in range(count)]
    if values.get("layer_types") is None:
        values["layer_types"] = _layer_types(values, entry.get("layer_types"))
    # What fed `layer_types` says nothing beyond it (Cohere 2, Exaone 4 and Gemma 3 differ in keeping it).
    if values.get("layer_types") is not None:
        for name in ("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers"):
            values.pop(name, None)
    architectures = values.get("architectures")
    if isinstance(architectures, list):
        # Sharded training has saved the name of its wrapper around the class: FSDPLlamaForCausalLM.
        values["architectures"] = [str(name).removeprefix("FSDP") for name in architectures]
    for name in DROPPED:
        values.pop(name, None)


def _is_count(value: Any, least: int = 0) -> bool:
    # No model has ten thousand layers; a list of a hostile length would take the memory with it.
    return isinstance(value, int) and least <= value < 10_000


def _layer_types(values: Mapping[str, Any], rule: str | int | None) -> list[str] | None:
    count: Any = values.get("num_hidden_layers")
    if rule is None or not _is_count(count):
        return None
    layers = range(count)
    if isinstance(rule, int):
        pattern = values.get("sliding_window_pattern", values.get("_sliding_window_pattern"))
        every = pattern if isinstance(pattern, int) and pattern > 0 else rule
        slides = [(layer + 1) % every != 0 for layer in layers]
    else:
        window = bool(values.get("use_sliding_window", True)) and values.get("sliding_window") is not None
        start, ropes = values.get("max_window_layers"), values.get("no_rope_layers")
        start = start if isinstance(start, int) else count
        if rule == "after max_window_layers":
            slides = [window and layer >= start for layer in layers]
        elif rule == "odd before max_window_layers":
            slides = [window and layer % 2 == 0 and layer < start for layer in layers]
        elif rule == "without rope":
            slides = [window and not rope for rope in ropes] if isinstance(ropes, list) else []
        else:
            assert rule == "all in a window", rule
            slides = [window for _ in layers]
    return ["sliding_attention" if slide else "full_attention" for slide in slides]
