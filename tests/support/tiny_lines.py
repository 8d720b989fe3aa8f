"""Models that are the same function written in other ways, and weights between two of them, computed the slow way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from support import tiny_checkpoints as tiny


def rewrite(source: Path, folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """The model of `source` with other weights."""
    if source != folder:
        shutil.copytree(source, folder)
    tiny.write_weights(folder, tensors)
    return folder


def mirror(source: Path, folder: Path) -> Path:
    """The same function: every number of the residual stream has the other sign.

    Halfway to it all matrices are zero, so every token is as likely as any other: the loss there is known.
    """
    weights = tiny.read_weights(source)
    return rewrite(source, folder, {name: -tensor if tensor.ndim > 1 else tensor for name, tensor in weights.items()})


def renumber(source: Path, folder: Path, seed: int, *, inserted: int = 0) -> Path:
    """The same function: tokens have other ids, and so many tokens that nobody uses stand among them."""
    shutil.copytree(source, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = sorted([*vocabulary, *(f"unheard{place}" for place in range(inserted))])
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed)).tolist()
    ids = dict(zip(words, order, strict=True))
    tokenizer["model"]["vocab"] = dict(sorted(ids.items(), key=lambda item: item[1]))
    for token in tokenizer["added_tokens"]:
        token["id"] = ids[token["content"]]
    tokenizer["added_tokens"].sort(key=lambda token: token["id"])
    path.write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    weights = tiny.read_weights(source)
    made = torch.Generator().manual_seed(seed)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = 0.05 * torch.randn(len(ids), weights[name].shape[1], generator=made)
        for word, old in vocabulary.items():
            rows[ids[word]] = weights[name][old]
        weights[name] = rows
    _set_ids(folder, {old: ids[word] for word, old in vocabulary.items()}, len(ids))
    return rewrite(folder, folder, weights)


def between(a: Path, b: Path, folder: Path, alpha: float) -> Path:
    """The model at `alpha`, by torch, in float32, in a folder of its own."""
    first, second = tiny.read_weights(a), tiny.read_weights(b)
    one, step = {n: t.float() for n, t in first.items()}, torch.tensor(alpha, dtype=torch.float32)
    return rewrite(b, folder, {name: one[name] + step * (second[name].float() - one[name]) for name in first})


def _set_ids(folder: Path, new: Mapping[int, int], rows: int) -> None:
    for name in ("config.json", "generation_config.json"):
        fields: dict[str, Any] = json.loads((folder / name).read_text())
        for key, value in fields.items():
            if key.endswith("_token_id") and value is not None:
                fields[key] = [new[id] for id in value] if isinstance(value, list) else new[value]
        if name == "config.json":
            fields["vocab_size"] = rows
        (folder / name).write_text(json.dumps(fields))
