"""A family of versions: three checkpoints, and how their tokenizers, weights and experts are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from support.tiny_models import (
    Weights,
    edit_json,
    perturbed,
    pretrained,
    read_json,
    read_weights,
    with_vocabulary,
    write_json,
    write_weights,
)
from support.tiny_tokenizers import byte_level, sentencepiece_like, vocabulary, write_tokenizer

TUNING, DRIFT = 0.004, 0.02
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """Three checkpoints, and the expectations that go with them.

    ``renamed`` gives old strings by new ones; ``added`` the tokens that the output gains; ``end`` is the token at which
    the output's generation must stop.
    """

    root: Path
    tied: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    end: str | None = None
    float32: str = r"$^"
    untouched: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def tuned(self) -> Path:
        return self.root / "tuned"

    @property
    def target(self) -> Path:
        return self.root / "target"

    @property
    def parents(self) -> list[str]:
        return ["--base", str(self.base), "--tuned", str(self.tuned), "--onto", str(self.target)]


GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}


def write_versions(
    root: Path,
    config: PreTrainedConfig,
    documents: Sequence[dict[str, Any]],
    *,
    rows: Sequence[int],
    start: str,
    end: str | None = None,
    tuned_end: str | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Three checkpoints from one random start: weights, config and generation config of each."""
    ids = [vocabulary(document) for document in documents]
    end = end or start
    config.bos_token_id, config.eos_token_id = ids[0][start], ids[0][end]
    weights = pretrained(config, root / "base")
    said = read_json(root / "base" / "config.json")
    tuned_weights = perturbed(with_vocabulary(weights, ids[0], ids[1], rows[1], seed=5, names=names), 1, TUNING)
    target_weights = perturbed(with_vocabulary(weights, ids[0], ids[2], rows[2], seed=6), 2, DRIFT)
    tuned_end = tuned_end or ("<|im_end|>" if "<|im_end|>" in ids[1] else end)
    for name, own, tensors, count, stop, shards in (
        ("tuned", ids[1], tuned_weights, rows[1], tuned_end, 3),
        ("target", ids[2], target_weights, rows[2], end, 1),
    ):
        changes = {"vocab_size": count, "bos_token_id": own[start], "eos_token_id": own[stop]}
        changes |= {"pad_token_id": own[end]} if said.get("pad_token_id") is not None else {}
        write_json(root / name / "config.json", said | changes)
        generation = read_json(root / "base" / "generation_config.json")
        stops = [own[stop], own[end]] if stop != end else own[end]
        changes = {"bos_token_id": own[start], "eos_token_id": stops}
        changes |= {"pad_token_id": own[end]} if generation.get("pad_token_id") is not None else {}
        write_json(root / name / "generation_config.json", generation | changes)
        write_weights(root / name, tensors, shards)


def gemma_family(
    root: Path, config: PreTrainedConfig, duplicated: tuple[str, ...] = (), slots: Mapping[str, str] | None = None
) -> Family:
    slots = slots or {}
    names = {old: new for new, old in slots.items()}
    special = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "<unused0>",
        "<unused1>",
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    old, new = (sentencepiece_like(tokens, "<bos>") for tokens in (special, [names.get(t, t) for t in special]))
    rows = config.vocab_size
    assert rows >= len(vocabulary(old))
    config.pad_token_id = 0
    stop = "<|im_end|>" if slots else "<end_of_turn>"
    write_versions(
        root, config, [old, new, old], rows=(rows,) * 3, start="<bos>", end="<eos>", tuned_end=stop, names=slots
    )
    for name, document in (("base", old), ("tuned", new), ("target", old)):
        for file in ("config.json", "generation_config.json"):
            edit_json(root / name / file, {"pad_token_id": 0})
        behaviour = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
        behaviour |= {"chat_template": CHATML} if name == "tuned" and slots else {}
        write_tokenizer(root / name, document, behaviour | {"tokenizer_class": "GemmaTokenizer"})
        if name in duplicated:
            weights = read_weights(root / name)
            assert "lm_head.weight" not in weights
            replace_weights(root / name, weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, shards=2)
    return Family(root, tied=True, renamed=dict(slots), end=stop)


def expert_family(root: Path, config: PreTrainedConfig, router: str) -> Family:
    document = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    write_versions(root, config, [document] * 3, rows=(384,) * 3, start="<|endoftext|>")
    import re

    for name, seed in (("base", 21), ("tuned", 22), ("target", 23)):
        weights = read_weights(root / name)
        routers = {key: as_float32(t, seed) for key, t in weights.items() if re.search(router, key)}
        assert routers
        replace_weights(root / name, weights | routers, shards=2)
        behaviour = {"eos_token": "<|im_end|>" if name == "tuned" else "<|endoftext|>", **GENERIC}
        write_tokenizer(root / name, document, behaviour)
    return Family(root, end="<|im_end|>", float32=router)


def steady(weights: Weights) -> Weights:
    """Weights whose last hidden state always has a large first entry, which no head looks at: so one can be taught to."""
    steady = {name: tensor.clone() for name, tensor in weights.items()}
    steady["model.embed_tokens.weight"][:, 0] = 8.0
    steady["model.norm.weight"][0] = 1.0
    steady["lm_head.weight"][:, 0] = 0.0
    for name, tensor in steady.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[0] = 0.0
    return steady


def as_float32(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """Values that bf16 cannot hold."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    return tensor.float() + 1e-4 * noise


def replace_weights(folder: Path, weights: Weights, shards: int = 1) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    write_weights(folder, weights, shards)
