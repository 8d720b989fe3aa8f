"""How a plan treats tokens: whether rows are matched, where each row comes from, and which warnings this needs.

Makes the row maps of matrices, as runs of neighbours, and decisions for the manifest. `pairing/vocabulary.py` matches
the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.choices import Choices
from tuneport.errors import named
from tuneport.files.printable import printable_line
from tuneport.pairing.rows import Ids, Runs, runs_of
from tuneport.pairing.vocabulary import (
    Folders,
    RowMap,
    Vocabularies,
    VocabularyMatch,
    is_placeholder,
    match_vocabulary,
    read_vocabularies,
    with_tokens_behind,
)
from tuneport.pairing.vocabulary_matrices import Side, VocabularyTensors, columns_of, find_vocabulary_tensors, rows_of
from tuneport.sidecars.merge import Decision


@dataclass(frozen=True)
class MatchedRows:
    """How the vocabularies of the models belong together, and which tensors have rows to be matched by token.

    ``by_token`` are names of tensors as they are stored in any of the models; every other tensor must have one shape.
    ``vocabulary`` are all tensors with one row per token, matched by token or not.
    """

    match: VocabularyMatch
    by_token: frozenset[str]
    refusals: tuple[str, ...]
    vocabulary: frozenset[str] = frozenset()


def match_rows(folders: Folders, sides: Sequence[Side], choices: Choices) -> MatchedRows:
    """Match the rows of base, tuned and target. The sides are those whose tensors are at hand, in this order."""
    vocabularies = read_vocabularies(folders, choices.vocabulary)
    sides, found, rows = _found(vocabularies, sides, choices)
    behind = with_tokens_behind(vocabularies, rows)
    if behind is not vocabularies:
        vocabularies = behind
        sides, found, rows = _found(vocabularies, sides, choices)
    match = match_vocabulary(vocabularies, rows, choices.new_tokens)
    by_token = found.names if match.how == "strings" else _of_several_lengths(found, sides)
    return MatchedRows(match, by_token, found.undecided, found.names)


def _found(
    vocabularies: Vocabularies, sides: Sequence[Side], choices: Choices
) -> tuple[Sequence[Side], VocabularyTensors, tuple[int, int, int]]:
    """The sides with the sizes of their tokenizers, the vocabulary matrices, and the rows of the main one in each model."""
    sides = [replace(side, tokens=tokens) for side, tokens in zip(sides, vocabularies.sizes, strict=False)]
    found = find_vocabulary_tensors(sides, choices.how_to_match)
    base, tuned, target = (*found.rows, found.rows[0])[:3]  # a diff vector has no target: base stands for it
    return sides, found, (base, tuned, target)


def without_tokenizers(match: VocabularyMatch) -> VocabularyMatch:
    """The match without the parsed tokenizers, which take tens of megabytes and are needed by the plan alone."""
    return replace(match, tokenizers=None)


def _of_several_lengths(found: VocabularyTensors, sides: Sequence[Side]) -> frozenset[str]:
    """Of the vocabulary matrices those whose rows differ in number: equal ones meet row by row, as every tensor does."""
    names: set[str] = set()
    for weight in dict.fromkeys(weight for side in sides for weight in side.tensors):
        stored = [side.tensors[weight] for side in sides if weight in side.tensors]
        if stored[0].name in found.names and len({rows_of(tensor) for tensor in stored}) > 1:
            names.update(tensor.name for tensor in stored)
    return frozenset(names)


class Matrices:
    """Row maps of vocabulary matrices, made once for each combination of shapes."""

    def __init__(self, match: VocabularyMatch) -> None:
        """Row maps by this match."""
        self._match = match
        self._maps: dict[tuple[int, int, int], RowMap] = {}
        self._runs: dict[tuple[int, int, int, int], Runs] = {}

    def map(self, base: int, tuned: int, target: int) -> RowMap:
        """Where each row of the output comes from."""
        key = (base, tuned, target)
        if key not in self._maps:
            self._maps[key] = self._match.rows(base, tuned, target)
        return self._maps[key]

    def runs(self, base: StoredTensor, tuned: StoredTensor, target: StoredTensor) -> Runs:
        """The same as runs of neighbours, for a transfer: raw rows come from the tuned model."""
        columns = columns_of(target)
        key = (rows_of(base), rows_of(tuned), rows_of(target), columns)
        if key not in self._runs:
            rows = self.map(*key[:3])
            raw = rows.tuned.copy()
            raw[rows.target >= 0] = -1
            plus = rows.tuned.copy()
            plus[(rows.target < 0) | (rows.base < 0)] = -1
            self._runs[key] = runs_of(rows.target, rows.base, plus, raw, columns)
        return self._runs[key]


def lost_runs(base: Ids, tuned: Ids, columns: int) -> Runs:
    """Runs of rows that have a difference and no place: those of base, and those of tuned (or of a stored difference)."""
    none = np.full(len(base), -1, np.int64)
    return runs_of(np.arange(len(base), dtype=np.int64), base, tuned, none, columns)


def token_decisions(match: VocabularyMatch) -> list[Decision]:
    """What was decided about tokens, each kind in one line that names the first few."""
    how = "rows match by string" if match.how == "strings" else "rows match by position"
    found = [Decision("tokens", how, match.why)]
    if match.added:
        shown = _few([f"{token.token} → {token.id}" for token in match.added])
        found.append(Decision("tokens.added", shown, "only the tuned model has them; their rows are the tuned model's"))
    if match.renamed:
        shown = _few([f"{rename.old} → {rename.new}" for rename in match.renamed])
        found.append(Decision("tokens.renamed", shown, "the tuned model renamed them in place"))
    why = "--new-tokens drop" if match.how == "strings" else how
    for subject, names, reason in (
        ("tokens.dropped", match.dropped, f"only the tuned model has them ({why})"),
        ("tokens.without_row", match.without_row, "the tuned model's matrix has no row for them"),
        ("tokens.kept", match.kept, "base or tuned lack them; the target's rows are kept"),
        (
            "tokens.without_base",
            match.without_base,
            "base has no row for them, so no difference is known; the target's rows are kept",
        ),
        ("tokens.lost", match.lost, "the target lacks them; their difference is lost"),
        ("tokens.placeholders", match.placeholders, "reserved placeholders, paired by string at other ids"),
    ):
        if names:
            found.append(Decision(subject, _few(list(names)), reason))
    return found


@dataclass(frozen=True)
class LostDifference:
    """The part of the fine-tuning in the rows of lost tokens: ‖Δ‖ there, its share of the whole, and whether it stands
    out. ``stands_out``: an element of these rows changed over three times as much as one of the transferred rows.
    """

    norm: float
    share: float
    stands_out: bool


_OF_MODELS = (
    f"Pass {named('new_tokens', 'all')} to append them with the tuned model's rows; or, if the vocabulary was "
    f"extended before the fine-tuning, give the model without the added tokens as {named('base')}."
)
_OF_VECTOR = (
    "The diff vector does not store their full rows: run `tuneport transfer --new-tokens all` with its parents to "
    "append them; or, if the vocabulary was extended before the fine-tuning, compute the vector again with the model "
    f"without the added tokens as {named('base')}."
)

# `--new-tokens all` needs tokens that are known by name in all three, so it does nothing here.
_BY_POSITION = (
    f"Rows match by position, so none can be appended: to keep them, run without {named('vocabulary', 'positions')}."
)


def token_warnings(
    match: VocabularyMatch, measured: LostDifference | None = None, *, of_vector: bool = False
) -> list[str]:
    """Warnings about tokens that have no row in the output or in the base, with the size of the loss once it is
    ``measured``. A reserved slot is not a loss, unless the fine-tuning used it. A vector (``of_vector``) has only the
    differences of tokens that base and tuned share, so the advice is to use its parents.
    """
    found = []
    used = measured is not None and measured.stands_out
    lost = [token for token in match.lost if used or not is_placeholder(token)]
    if lost:
        advice = _OF_VECTOR if of_vector else _OF_MODELS
        share = f" ({measured.share:.1%} of ‖Δ‖)" if measured is not None and math.isfinite(measured.share) else ""
        found.append(
            f"{len(lost)} token(s) of base and tuned are not in the target's vocabulary, so what the fine-tuning "
            f"changed in their rows{share} is lost: {_few(lost)}. "
            f"{_BY_POSITION if match.how == 'positions' else advice}"
        )
    kept = [token for token in match.without_base if not is_placeholder(token)]
    if kept:
        remedy = f"{'compute the vector again with' if of_vector else 'give'} that one as {named('base')}"
        found.append(
            f"{len(kept)} token(s) have a row in the tuned model and in the target, but none in the base, so their "
            f"difference is unknown: {_few(kept)}. The output keeps the target's rows, without what the fine-tuning "
            f"changed in them. If the fine-tuning began from a model that has these tokens, {remedy}."
        )
    if match.how == "positions" and (match.dropped or match.unnamed):
        told = f"{len(match.dropped)} token(s) that only the tuned model has ({_few(list(match.dropped))})"
        more = f"{match.unnamed} row(s) of the tuned model whose tokens are in no file"
        found.append(
            "Rows match by position, so these are lost: "
            f"{' and '.join([told] * bool(match.dropped) + [more] * bool(match.unnamed))}. To keep them, run without "
            f"{named('vocabulary', 'positions')}; if tuneport cannot read a tokenizer, first put the model's "
            "tokenizer.json into its folder (AutoTokenizer's save_pretrained writes one)."
        )
    if match.without_row:
        found.append(
            f"{len(match.without_row)} token(s) of the tuned tokenizer have no row in the tuned model and are left out: "
            f"{_few(list(match.without_row))}."
        )
    return found


def _few(names: list[str], most: int = 8) -> str:
    shown = ", ".join(map(printable_line, names[:most]))
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
