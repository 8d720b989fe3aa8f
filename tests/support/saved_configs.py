"""Kinds of configs, and each config as transformers reads and writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tuneport.sidecars.config import resolve
from tuneport.sidecars.three_way import same

# Kinds with every sort of rule: plain and composite, decoders and encoder-decoders, rope by layer, layers of several sorts.
PLAIN = (
    "apertus",
    "bamba",
    "bloom",
    "cohere",
    "cohere2",
    "codegen",
    "deepseek_v2",
    "deepseek_v3",
    "ernie4_5",
    "exaone4",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "gemma4_text",
    "glm4",
    "glm4_moe",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granitemoe",
    "granitemoehybrid",
    "helium",
    "jamba",
    "lfm2",
    "llama",
    "longcat_flash",
    "mamba2",
    "minimax",
    "ministral3",
    "mistral",
    "mixtral",
    "modernbert-decoder",
    "mpt",
    "nemotron",
    "nemotron_h",
    "olmo3",
    "opt",
    "persimmon",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "smollm3",
    "stablelm",
    "starcoder2",
    "t5",
    "xlnet",
    "zamba2",
)  # fmt: skip  (one list)


COMPOSITE = (
    "blip-2",
    "dbrx",
    "gemma3",
    "gemma3n",
    "gemma4",
    "glm4v",
    "idefics3",
    "internvl",
    "lfm2_vl",
    "llama4",
    "llava",
    "mistral3",
    "mllama",
    "paligemma",
    "qwen2_5_vl",
    "qwen2_audio",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_vl",
    "smolvlm",
    "t5gemma",
    "voxtral",
)  # fmt: skip  (one list)


def saved_by_transformers(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the installed transformers writes after reading ``config``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    AutoConfig.from_pretrained(folder).save_pretrained(folder / "saved")
    return dict(json.loads((folder / "saved" / "config.json").read_text()))


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    first, second = resolve(one).values, resolve(other).values
    return sorted(name for name in {*first, *second} if not same(first.get(name), second.get(name)))
