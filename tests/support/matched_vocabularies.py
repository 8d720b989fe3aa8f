"""Vocabularies of three models, given as lists of tokens, and the rows that they match."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.pairing.vocabulary import (
    NewTokens,
    RowMap,
    VocabularyMatch,
    match_vocabulary,
    read_vocabularies,
)

ROLES = ("base", "tuned", "target")


WORDS = [f"w{index}" for index in range(20)]


def folder(path: Path, role: str, tokens: Sequence[str], added: Sequence[str] = ()) -> SidecarFolder:
    """A folder whose tokenizer.json has these tokens at ids 0, 1, 2 …, then these added tokens."""
    path.mkdir(parents=True, exist_ok=True)
    entries = [{"id": len(tokens) + place, "content": token, "special": True} for place, token in enumerate(added)]
    model = {"type": "WordLevel", "vocab": {token: id for id, token in enumerate(tokens)}, "unk_token": "w0"}
    (path / "tokenizer.json").write_text(json.dumps({"added_tokens": entries, "model": model}), encoding="utf-8")
    return SidecarFolder(role, f"lab/{role}", path)


def matched(
    folders: Sequence[SidecarFolder],
    rows: tuple[int, int, int],
    new_tokens: NewTokens = "append",
    vocabulary: Literal["strings", "positions"] | None = None,
) -> VocabularyMatch:
    base, tuned, target = folders
    return match_vocabulary(read_vocabularies((base, tuned, target), vocabulary), rows, new_tokens)


def match(
    path: Path,
    base: Sequence[str],
    tuned: Sequence[str],
    target: Sequence[str],
    rows: tuple[int, int, int] | None = None,
    added: tuple[Sequence[str], Sequence[str], Sequence[str]] = ((), (), ()),
    **options: Any,
) -> VocabularyMatch:
    """Match three vocabularies; matrices have a row for each token unless `rows` says otherwise."""
    three = [
        folder(path / role, role, tokens, more)
        for role, tokens, more in zip(ROLES, (base, tuned, target), added, strict=True)
    ]
    sizes = [len(tokens) + len(more) for tokens, more in zip((base, tuned, target), added, strict=True)]
    return matched(three, rows or (sizes[0], sizes[1], sizes[2]), **options)


def table(rows: RowMap) -> list[tuple[int, int, int]]:
    """(target, base, tuned) for each row."""
    assert rows.target.shape == rows.base.shape == rows.tuned.shape == (rows.rows,)
    assert rows.target.dtype == rows.base.dtype == rows.tuned.dtype == np.int64
    return list(zip(rows.target.tolist(), rows.base.tolist(), rows.tuned.tolist(), strict=True))
