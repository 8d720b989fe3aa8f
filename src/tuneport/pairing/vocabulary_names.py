"""Names of tensors with one row per token: the embedding, the head that may be tied to it, and what a few models have
besides.

Names are evidence, not the rule: `tuneport.pairing.vocabulary_matrices` decides by a tensor's rows, and uses names if
rows alone cannot decide (an intermediate size equal to the vocabulary's, for example), and to know which names share
one weight in a tied model. The table ``vocabulary_tensors.json`` is made from transformers' own classes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|tok_embeddings|word_embeddings)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.(weight|bias)$|^output\.weight$|(^|\.)final_logits_bias$")


def is_commonly_named(name: str) -> bool:
    """Whether a tensor has a name that embeddings and heads have in most models. Position embeddings (wpe) have not."""
    return bool(EMBEDDING.search(name) or _HEAD.search(name))


def is_head_weight(name: str) -> bool:
    """Whether a tensor is named as the output matrix, which may be tied to the embedding."""
    return bool(_HEAD.search(name)) and name.endswith(".weight")


def is_named_vocabulary(name: str, kinds: Iterable[str]) -> bool:
    """Whether a tensor of a model of one of these kinds (``model_type``) has one row per token, by its name."""
    kinds = tuple(kinds)
    if is_commonly_named(name):
        return not any(_counts_others(name, kind) for kind in kinds)
    return any(name in _table()["vocabulary"].get(kind, ()) for kind in kinds)


def is_known_kind(kind: str) -> bool:
    """Whether all tensors of this kind of model with one row per token are known by name."""
    return kind in _table()["kinds"]


def _counts_others(name: str, kind: object) -> bool:
    """Whether a tensor with the name of an embedding has rows for tokens of its own: a Q-Former's, say, or those of speech."""
    return name in _table()["others"].get(kind, ())


class Ties:
    """Which names of a checkpoint hold one weight: none, unless its config ties head and embedding."""

    def __init__(self, tied: bool, kind: object, names: Iterable[str]) -> None:
        """The ties of a model of this ``kind`` (its ``model_type``) with these stored tensors."""
        self.tied = tied
        self._of_kind: Mapping[str, str] = _table()["tied"].get(kind, {}) if tied else {}
        self._others: frozenset[str] = frozenset(_table()["others"].get(kind, ())) if tied else frozenset()
        embeddings = sorted(name for name in names if EMBEDDING.search(name) and name not in self._others)
        # Where several embeddings stand side by side, a head is the first one's; what the others are is not known.
        self._alone = len(embeddings) <= 1
        self._embedding = embeddings[0] if embeddings else ""

    def weight(self, name: str) -> str:
        """What the weight behind ``name`` is called: the same for all names that hold it, in every checkpoint."""
        if not self.tied or name in self._others:
            return name
        if self._of_kind:
            return self._of_kind.get(name, name)
        if is_head_weight(name):
            return "" if self._alone else self._embedding
        return "" if self._alone and EMBEDDING.search(name) else name

    def is_shared(self, name: str) -> bool:
        """Whether the weight behind ``name`` has several names in a tied model, as head and embedding."""
        if not self.tied or name in self._others:
            return False
        if self._of_kind:
            return name in self._of_kind or name in self._of_kind.values()
        return is_head_weight(name) or EMBEDDING.search(name) is not None

    def is_source(self, name: str) -> bool:
        """Whether the others of its group are copies of this one; a head is the copy, an embedding the source."""
        return self.weight(name) == name if self._of_kind else not is_head_weight(name)


@functools.cache
def _table() -> Mapping[str, Any]:
    text = resources.files("tuneport.pairing").joinpath("vocabulary_tensors.json").read_text(encoding="utf-8")
    table: Mapping[str, Any] = json.loads(text)
    return {**table, "kinds": frozenset(table["kinds"])}
