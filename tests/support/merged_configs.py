"""Configs of three models that differ in what a test says, and their merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.sidecars.config_merge import ConfigChoices, merge_config
from tuneport.sidecars.three_way import MergeFindings, Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.token_changes import TokenChanges
from tuneport.tokenizer.tokenizer import Tokenizer

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "vocab_size": 32,
}


def merge(
    base: dict[str, Any],
    tuned: dict[str, Any],
    target: dict[str, Any],
    names: TokenNames | None = None,
    dtype: str | None = None,
    vocab_rows: Mapping[int, int] | None = None,
    sides: dict[str, str] | None = None,
) -> tuple[dict[str, Any], MergeFindings]:
    findings = MergeFindings()
    choices = ConfigChoices(sides or {}, dtype, vocab_rows or {})
    names = names or TokenNames(None, TokenChanges())
    return merge_config(Three(base, tuned, target), choices, names, findings), findings


def tokenizer(*tokens: str) -> Tokenizer:
    return Tokenizer({token: id for id, token in enumerate(tokens)}, {})
