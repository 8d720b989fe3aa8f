"""Tiny models with real tokenizers, and small data, for fine-tuning in a second or two.

Nothing here imports tuneport: what the tests compare with must not come from what they test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from support.tiny_tokenizers import byte_level, write_tokenizer

torch.set_num_threads(1)

SPECIAL = ("<|begin|>", "<|end|>", "<|pad|>")
START, END, PAD = SPECIAL
PADDED_ROWS = 8


def base_model(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    start: bool = True,
    pad: bool = True,
    tied: bool = False,
    template: str | None = None,
    **config: Any,
) -> Path:
    """A Llama of one layer, randomly started, with a byte-level tokenizer and a few padded rows."""
    document = byte_level(SPECIAL, START if start else None)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": START, "eos_token": END}
    if pad:
        settings["pad_token"] = PAD
    if template is not None:
        settings["chat_template"] = template
    write_tokenizer(folder, document, settings)
    size = len(document["model"]["vocab"]) + len(SPECIAL)
    ids = {entry["content"]: entry["id"] for entry in document["added_tokens"]}
    fields: dict[str, Any] = {
        "vocab_size": size + PADDED_ROWS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "bos_token_id": ids[START],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD] if pad else None,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**fields, **config})).to(dtype)
    model.save_pretrained(folder, max_shard_size="30KB")
    return folder


def base_of(folder: Path, config: Callable[..., PreTrainedConfig], *, auto: Any = AutoModelForCausalLM) -> Path:
    """A base of any kind, with the same tokenizer and no padded rows; ``config`` is given its size and special ids."""
    document = byte_level(SPECIAL, START)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": START, "eos_token": END, "pad_token": PAD}
    write_tokenizer(folder, document, settings)
    ids = {entry["content"]: entry["id"] for entry in document["added_tokens"]}
    size = len(document["model"]["vocab"]) + len(SPECIAL)
    torch.manual_seed(0)
    made = config(vocab_size=size, bos_token_id=ids[START], eos_token_id=ids[END], pad_token_id=ids[PAD])
    auto.from_config(made).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(count: int = 40) -> list[dict[str, str]]:
    """Prompts and completions."""
    return [{"prompt": f"{n % 7} + {n % 5} =", "completion": f" {n % 7 + n % 5}"} for n in range(count)]


def chats(count: int = 24) -> list[dict[str, Any]]:
    """Conversations of two turns."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"the fox {n}"},
                {"role": "assistant", "content": f"jumps {n} times"},
                {"role": "user", "content": "over what"},
                {"role": "assistant", "content": "the lazy dog"},
            ]
        }
        for n in range(count)
    ]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models have the same tensors, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
