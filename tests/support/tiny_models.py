"""Tiny models made by transformers' own classes, and their kin made by perturbing what lies on disk.

In comes a config, out comes a folder as `save_pretrained` writes it; in come its tensors, out come a tuned model's or a
later version's, with rows moved to where another tokenizer has their tokens. Weights are plain dicts of torch tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig

Weights = dict[str, torch.Tensor]

VOCABULARY = re.compile(r"(embed_tokens|wte|embed_in|lm_head|embed_out)\.weight$")
INDEX = "model.safetensors.index.json"


def pretrained(config: PreTrainedConfig, folder: Path, *, seed: int = 0, shard: str = "60KB") -> Weights:
    """A randomly started bf16 model, saved by transformers in shards; its tensors as they lie on disk."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing is left at its zero or one
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder, max_shard_size=shard)
    return read_weights(folder)


def read_weights(folder: Path) -> Weights:
    """Every tensor that counts in a folder, by name, through the official reader."""
    index = folder / INDEX
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    return {name: tensor for file in sorted(files) for name, tensor in load_file(folder / file).items()}


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Tensors in so many files, dealt out in turn, with an index where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    if shards == 1:
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    weight_map = {tensor: names[place % shards] for place, tensor in enumerate(sorted(whole))}
    for name in names:
        part = {tensor: whole[tensor] for tensor, file in weight_map.items() if file == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in whole.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))


def perturbed(weights: Mapping[str, torch.Tensor], seed: int, size: float, untouched: str = r"$^") -> Weights:
    """Each float tensor plus noise, in its own dtype; those that ``untouched`` finds stay."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor
        if re.search(untouched, name) or not tensor.is_floating_point()
        else (tensor.float() + size * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in weights.items()
    }


def with_vocabulary(
    weights: Mapping[str, torch.Tensor],
    old: Mapping[str, int],
    new: Mapping[str, int],
    rows: int,
    *,
    seed: int,
    names: Mapping[str, str] | None = None,
) -> Weights:
    """Matrices laid out for another tokenizer: rows go with their tokens, other rows are random.

    ``names`` says under which string of ``old`` a token of ``new`` was known.
    """
    generator = torch.Generator().manual_seed(seed)
    moved: Weights = {}
    for name, tensor in weights.items():
        if not VOCABULARY.search(name):
            moved[name] = tensor
            continue
        matrix = 0.1 * torch.randn(rows, *tensor.shape[1:], generator=generator)
        for token, id in new.items():
            was = old.get((names or {}).get(token, token))
            if was is not None and id < rows and was < len(tensor):
                matrix[id] = tensor[was].float()
        moved[name] = matrix.to(tensor.dtype)
    return moved


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A sidecar as its maker writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A sidecar as an object."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def edit_json(path: Path, changes: Mapping[str, Any], without: Iterable[str] = ()) -> None:
    """A sidecar with fields changed, added or taken away."""
    content = read_json(path) | dict(changes)
    write_json(path, {key: value for key, value in content.items() if key not in set(without)})
