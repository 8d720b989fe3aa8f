"""Writes ``src/tuneport/checkpoint/config_defaults.json``: what a config.json means by leaving a field out.

In come transformers' own config classes, out goes one entry per model type: plain defaults, other names of a
field, the rope parameters a bare config has. Run it after an upgrade of transformers
(``python docs/make_config_defaults.py``); a test compares the committed table with the installed classes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "src" / "tuneport" / "checkpoint" / "config_defaults.json"

MODEL_TYPES = (
    "apertus",
    "arcee",
    "bloom",
    "cohere",
    "cohere2",
    "codegen",
    "deepseek_v2",
    "deepseek_v3",
    "ernie4_5",
    "exaone4",
    "falcon",
    "flex_olmo",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granitemoe",
    "helium",
    "hunyuan_v1_dense",
    "llama",
    "ministral",
    "mistral",
    "mixtral",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
)  # fmt: skip  (a list of names reads better in lines)

# Every `transformers.PretrainedConfig` of version 4 had these, and wrote them only where they differed.
OF_EVERY_CONFIG = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "tie_encoder_decoder": False,
    "torchscript": False,
    "use_bfloat16": False,
}

# How a class fills in `layer_types`, read from its `__post_init__` and proved by tests/checkpoint/test_config.py:
# a number n is a full-attention layer after every n-1 sliding ones.
LAYER_TYPES: dict[str, str | int] = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3_text": 6,
    "gpt_oss": 2,
    "ministral": "all in a window",
    "olmo3": 4,
    "qwen2": "after max_window_layers",
    "qwen2_moe": "odd before max_window_layers",
    "qwen3": "after max_window_layers",
    "smollm3": "without rope",
}


def table() -> dict[str, Any]:
    """The table as the installed transformers has it."""
    from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig

    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    models: dict[str, Any] = {}
    for model_type in MODEL_TYPES:
        config_class = CONFIG_MAPPING[model_type]
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(config_class)
            if field.name not in common and _plain(field.default)
        }
        bare = config_class()
        if isinstance(getattr(bare, "eos_token_id", None), list):
            defaults["eos_token_id"] = bare.eos_token_id  # GLM has several end tokens by default
        entry: dict[str, Any] = {"defaults": dict(sorted(defaults.items()))}
        if config_class.attribute_map:
            entry["aliases"] = dict(sorted(config_class.attribute_map.items()))
        if rope := getattr(bare, "rope_parameters", None):
            entry["rope"] = rope
        if model_type in LAYER_TYPES:
            entry["layer_types"] = LAYER_TYPES[model_type]
        models[model_type] = entry
    generation = GenerationConfig._get_default_generation_params()
    return {
        "every_config": OF_EVERY_CONFIG,
        "generation": {name: value for name, value in sorted(generation.items()) if value is not None},
        "models": models,
    }


def render(entries: dict[str, Any]) -> str:
    """The table as text, one model type a line, so that a change of one model is a change of one line."""
    models = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries["models"].items())
    head = "".join(f"  {json.dumps(name)}: {json.dumps(entries[name])},\n" for name in ("every_config", "generation"))
    return f'{{\n{head}  "models": {{\n{models}\n  }}\n}}\n'


def _plain(default: object) -> bool:
    # None is left out: a field that is omitted and a field that is null are the same without a default.
    return default is not dataclasses.MISSING and isinstance(default, bool | int | float | str | list)


if __name__ == "__main__":
    TABLE.write_text(render(table()), encoding="utf-8")
    sys.stdout.write(f"{TABLE.name}: {len(MODEL_TYPES)} model types\n")
