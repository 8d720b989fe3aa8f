"""What a transfer must give, the slow way: torch, float32, plain dictionaries, row after row.

In come folders, out come tensors. Nothing of tuneport is used here: token strings come from the tokenizers library,
weights from the official reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer

from support.tiny_models import VOCABULARY, Weights, read_weights


def tokens_of(folder: Path) -> dict[str, int]:
    """Ids by string in a folder's tokenizer.json."""
    return dict(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab())


def add(target: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """target + (tuned − base) in float32, rounded once to the target's dtype."""
    return (target.float() + (tuned.float() - base.float())).to(target.dtype)


def carried(
    base: Path, tuned: Path, target: Path, output: Path, renamed: Mapping[str, str], tied: tuple[bool, bool, bool]
) -> Weights:
    """Every tensor of the output; with one and the same tokenizer file, rows meet by position, padded ones too.

    ``renamed`` gives old strings by new ones; ``tied`` says it of the three models.
    """
    models = [
        {name: t for name, t in read_weights(folder).items() if not (one and name == "lm_head.weight")}
        for folder, one in zip((base, tuned, target), tied, strict=True)
    ]
    vocabularies = [tokens_of(folder) for folder in (base, tuned, target)]
    if len({(folder / "tokenizer.json").read_bytes() for folder in (base, tuned, target)}) == 1:
        return {name: add(tensor, models[1][name], models[0][name]) for name, tensor in models[2].items()}
    return {
        name: _matrix(*(model[name] for model in models), *vocabularies, tokens_of(output), renamed)
        if VOCABULARY.search(name)
        else add(tensor, models[1][name], models[0][name])
        for name, tensor in models[2].items()
    }


def _matrix(
    base: torch.Tensor,
    tuned: torch.Tensor,
    target: torch.Tensor,
    base_ids: Mapping[str, int],
    tuned_ids: Mapping[str, int],
    target_ids: Mapping[str, int],
    output_ids: Mapping[str, int],
    renamed: Mapping[str, str],
) -> torch.Tensor:
    last = max(id for token, id in output_ids.items() if token not in target_ids or id < len(target))
    matrix = torch.zeros(max(len(target), last + 1), *target.shape[1:], dtype=target.dtype)
    matrix[: len(target)] = target
    for token, id in output_ids.items():
        old = renamed.get(token, token)
        in_target = old in target_ids and target_ids[old] < len(target)
        in_base = old in base_ids and base_ids[old] < len(base)
        in_tuned = token in tuned_ids and tuned_ids[token] < len(tuned)
        if in_target and in_base and in_tuned:
            matrix[id] = add(target[target_ids[old]], tuned[tuned_ids[token]], base[base_ids[old]])
        elif not in_target and in_tuned and old not in target_ids:
            matrix[id] = tuned[tuned_ids[token]].to(target.dtype)
    return matrix


def differing(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names whose bits, dtypes or shapes are not those wanted."""
    wrong = sorted(found.keys() ^ wanted.keys())
    for name in found.keys() & wanted.keys():
        one, other = found[name].contiguous(), wanted[name].contiguous()
        if one.dtype != other.dtype or one.shape != other.shape:
            wrong.append(f"{name}: {one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}")
        elif not torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
            wrong.append(f"{name}: {int((one != other).sum())} elements")
    return wrong
