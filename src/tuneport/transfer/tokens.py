"""What a plan makes of tokens: whether rows are matched, where each row comes from, and what is said about it.

In come checkpoints and how their vocabularies belong together, out come row maps of matrices, as runs of neighbours, and
decisions for the manifest. How tokens are matched is `pairing/vocabulary.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.matrices import EMBEDDING, is_vocabulary
from tuneport.checkpoint.sidecars import Decision
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.rows import Runs, runs_of
from tuneport.pairing.tensors import written_tensors
from tuneport.pairing.vocabulary import RowMap, VocabularyMatch, match_vocabulary
from tuneport.transfer.choices import Choices


def match_rows(
    base: Checkpoint, tuned: Checkpoint, target: Checkpoint, ties: Mapping[str, bool], choices: Choices
) -> VocabularyMatch:
    """How the vocabularies of the three belong together; by position where there is no vocabulary matrix at all."""
    rows = [vocabulary_rows(checkpoint, ties[checkpoint.role]) for checkpoint in (base, tuned, target)]
    if any(count is None for count in rows):
        return VocabularyMatch("identical", 0)
    return match_vocabulary(
        base.sidecars,
        tuned.sidecars,
        target.sidecars,
        new_tokens=choices.new_tokens,
        vocabulary=choices.vocabulary,
        matrix_rows=(rows[0] or 0, rows[1] or 0, rows[2] or 0),
    )


def without_tokenizers(match: VocabularyMatch) -> VocabularyMatch:
    """The match without the parsed tokenizers, which take tens of megabytes and are needed by the plan alone."""
    return replace(match, tokenizers=None)


def vocabulary_rows(checkpoint: Checkpoint, tied: bool) -> int | None:
    """Rows of the embedding (or of the head, where no embedding is stored)."""
    names = [name for name in written_tensors(checkpoint, tied) if is_vocabulary(name)]
    names.sort(key=lambda name: not EMBEDDING.search(name))
    return checkpoint.tensors[names[0]].shape[0] if names and checkpoint.tensors[names[0]].shape else None


def rows_matter(match: VocabularyMatch, *checkpoints: Checkpoint) -> bool:
    """Whether rows of vocabulary matrices need matching at all: other tokens, or another number of rows."""
    if match.how == "strings":
        return True
    shapes = [
        {tensor.shape[:1] for name, tensor in checkpoint.tensors.items() if is_vocabulary(name)}
        for checkpoint in checkpoints
    ]
    return any(shape != shapes[0] for shape in shapes)


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
        key = (base.shape[0], tuned.shape[0], target.shape[0], columns)
        if key not in self._runs:
            rows = self.map(*key[:3])
            raw = rows.tuned.copy()
            raw[rows.target >= 0] = -1
            plus = rows.tuned.copy()
            plus[(rows.target < 0) | (rows.base < 0)] = -1
            self._runs[key] = runs_of(rows.target, rows.base, plus, raw, columns)
        return self._runs[key]


def columns_of(tensor: StoredTensor) -> int:
    """Elements in one row."""
    return math.prod(tensor.shape[1:])


def token_decisions(match: VocabularyMatch) -> list[Decision]:
    """What was decided about tokens, each kind in one line that names the first few."""
    reasons = {
        "identical": "the tokenizer files are byte-identical",
        "strings": "the tokenizer files differ",
        "positions": "no tokenizer files, or --vocabulary positions",
    }
    found = [
        Decision("tokens", f"rows match by {'string' if match.how == 'strings' else 'position'}", reasons[match.how])
    ]
    if match.added:
        shown = _few([f"{token.token} → {token.id}" for token in match.added])
        found.append(Decision("tokens.added", shown, "only the tuned model has them; their rows are the tuned model's"))
    if match.renamed:
        shown = _few([f"{rename.old} → {rename.new}" for rename in match.renamed])
        found.append(Decision("tokens.renamed", shown, "the tuned model renamed them in place"))
    for subject, names, reason in (
        ("tokens.dropped", match.dropped, "only the tuned model has them (--new-tokens drop)"),
        ("tokens.rowless", match.rowless, "the tuned model's matrix has no row for them"),
        ("tokens.kept", match.kept, "base or tuned lack them; the rows stay as the target has them"),
        ("tokens.lost", match.lost, "the target lacks them; their difference has no place"),
        ("tokens.placeholders", match.placeholders, "reserved placeholders, paired by string at other ids"),
    ):
        if names:
            found.append(Decision(subject, _few(list(names)), reason))
    return found


def _few(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
