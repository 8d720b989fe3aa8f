"""A stored diff vector beside a target, as one of the differences of a sum.

It contains its parents' small files, so tokens are matched and configs merged as if base and tuned were present.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tuneport.checkpoint.adapter import UNTRAINED
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.respelled import align_vector, outline_of
from tuneport.diffvector.target_lineage import find_lineage
from tuneport.diffvector.vector import RAW, DiffVector
from tuneport.engine.choices import Choices
from tuneport.engine.pieces import DifferenceRecipe, RawRows, Source, Term
from tuneport.engine.plan import Added, LostRows
from tuneport.engine.summands.summand import Summand, Terms
from tuneport.engine.tokens import MatchedRows, lost_runs, match_rows, token_decisions
from tuneport.errors import PairingError, named
from tuneport.files.lazy_sequences import LazyMapping
from tuneport.files.printable import expression_of, quoted
from tuneport.pairing.account import Account, ParentPair, TensorPair
from tuneport.pairing.model_kinds import check_architectures
from tuneport.pairing.name_rules import lay_rules
from tuneport.pairing.rows import Ids, Runs, runs_of
from tuneport.pairing.tensors import Parents, check_readable, pair_target, ties_of
from tuneport.pairing.vocabulary_matrices import Side, columns_of, rows_of
from tuneport.pairing.vocabulary_names import Ties
from tuneport.sidecars.config import is_tied
from tuneport.sidecars.config_kinds import kind_of


@dataclass(frozen=True, kw_only=True)
class StoredSummand(Summand):
    """A stored diff vector, in the target's spelling."""

    vector: DiffVector

    @property
    def names(self) -> Iterator[str]:
        """Those of its account."""
        return iter(self.account.names)

    def terms(self, line: TensorPair, scale: float, *, by_row: bool) -> Terms:
        """The stored difference, scaled, and the rows that are kept as they stand."""
        assert line.pair is not None and line.target is not None
        vector, pair, target = self.vector, line.pair, line.target
        stored = vector.difference(pair.name)
        if target.dtype == "F64" and stored is not None and stored.dtype != "F64":
            raise PairingError(
                f"{quoted(target.name)} is float64 in the target, but the diff vector {self.label} was "
                f"computed in float32, so the result would differ from a transfer. Run `tuneport transfer` with its "
                f"parents instead."
            )
        raw, runs, rows = vector.stored.tensors.get(RAW + pair.name), None, None
        if line.by_token or by_row or vector.ids(pair.name) is not None:
            runs, rows = self._runs(pair, target)
        source = RawRows(Source(vector.role, raw), None, raw.dtype) if raw is not None else None
        plus = Source(vector.role, stored) if stored is not None else None
        dtypes = (stored.dtype,) if stored is not None else (pair.base.dtype, pair.tuned.dtype)
        return Terms((Term(plus, None, scale, runs, source),), rows, dtypes)

    def lost(self) -> Iterator[LostRows]:
        """What the vector holds for rows of tokens that the target lacks."""
        for line in self.account.by_token():
            stored = self._difference_of(line)
            if stored is None or line.pair is None:
                continue
            rows = self.match.lost_rows(rows_of(line.pair.base), rows_of(line.pair.tuned))
            if len(rows):
                places = self._places(line.pair, rows[:, 0])
                term = Term(Source(self.vector.role, stored), None, 1.0, lost_runs(places, places, columns_of(stored)))
                yield LostRows(DifferenceRecipe(line.name, (term,), stored.dtype), len(rows) * columns_of(stored))

    def dropped(self) -> Iterator[LostRows]:
        """What the vector holds for tensors that have no place in the target."""
        for line in self.account.of("dropped"):
            stored = self._difference_of(line)
            if stored is not None:
                term = Term(Source(self.vector.role, stored), None, 1.0)
                yield LostRows(DifferenceRecipe(line.name, (term,), stored.dtype), stored.elements)

    def _difference_of(self, line: TensorPair) -> StoredTensor | None:
        """What the vector stores for a line of its account."""
        return None if line.pair is None else self.vector.difference(line.pair.name)

    def _places(self, pair: ParentPair, rows: Ids) -> Ids:
        """For each of the base's ``rows`` (-1: none) its place among those that are stored, or -1."""
        ids = self.vector.ids(pair.name)
        if ids is None:
            return rows
        places = np.full(rows_of(pair.base) + 1, -1, np.int64)  # row -1 finds the last entry, which is none
        places[list(ids)] = np.arange(len(ids))
        return places[rows]

    def _runs(self, pair: ParentPair, target: StoredTensor) -> tuple[Runs, int]:
        """Rows of the target, of the stored difference (by the base's id), and of the raw rows (by their order)."""
        rows = self.match.rows(rows_of(pair.base), rows_of(pair.tuned), rows_of(target))
        plus = self._places(pair, np.where((rows.target >= 0) & (rows.tuned >= 0), rows.base, -1))
        raw = np.full(rows.rows, -1, np.int64)
        position = {id: index for index, id in enumerate(self.vector.raw_ids(pair.name))}
        for row in np.flatnonzero((rows.target < 0) & (rows.tuned >= 0)):
            tuned_id = int(rows.tuned[row])
            if tuned_id not in position:
                raise PairingError(
                    f"{quoted(pair.name)}: the diff vector has no row for the tuned model's token {tuned_id}; it stores "
                    f"full rows only for tokens its base lacks. Run `tuneport transfer` with the parents instead."
                )
            raw[row] = position[tuned_id]
        return runs_of(rows.target, plus, plus, raw, columns_of(target)), rows.rows


def add_vector(vector: DiffVector, target: Checkpoint, scale: float, choices: Choices, words: str) -> StoredSummand:
    """The summand of a stored diff vector, which the formula calls ``words``. Raises where it does not fit the target."""
    check_readable(target)
    check_architectures(outline_of(vector), target, renames=choices.renames)
    lineage = find_lineage(vector, target)
    vector, aligned = align_vector(vector, target, choices)
    ties = ties_of(target)
    matched = _match(vector, target, ties, choices)
    account = _account(vector, matched, target, ties, choices, aligned.outside)
    refused = any(True for _ in account.places("refused"))
    return StoredSummand(
        added=Added(vector.role, account, scale, base_sample=vector.manifest.get("base_sample", {})),
        inputs=(vector.stored,),
        words=words,
        sidecars=(vector.base, vector.tuned),
        matched=matched,
        account=account,
        decisions=(*aligned.decisions, *token_decisions(matched.match)),
        refusals=tuple(_misread(vector, matched)),
        hints=tuple(aligned.hints()) if refused else (),
        lineage=lineage,
        vector=vector,
    )


def _match(vector: DiffVector, target: Checkpoint, ties_target: Ties, choices: Choices) -> MatchedRows:
    if vector.manifest.get("rows") == "positions" and choices.vocabulary is None:
        choices = replace(choices, vocabulary="positions")
    parents = [_side(vector, parent) for parent in ("base", "tuned")]
    return match_rows((vector.base, vector.tuned, target.sidecars), [*parents, Side.of(target, ties_target)], choices)


def _side(vector: DiffVector, parent: Literal["base", "tuned"]) -> Side:
    """One of the parents, as the manifest and the kept sidecars remember it."""
    config = vector.base_config if parent == "base" else vector.tuned.json("config.json") or vector.base_config
    ties = _ties(vector)
    names = _names(ties, vector)
    return Side(
        LazyMapping(names, lambda weight: _remembered(names[weight], vector.entries[names[weight]][parent])), config
    )


def _names(ties: Ties, vector: DiffVector) -> Mapping[str, str]:
    """The vector's names by weight: of several that hold one weight the last one."""
    return LazyMapping(vector.entries, str) if not ties.tied else {ties.weight(name): name for name in vector.entries}


def _ties(vector: DiffVector) -> Ties:
    return Ties(is_tied(vector.base_config), kind_of(vector.base_config), vector.entries)


def _misread(vector: DiffVector, matched: MatchedRows) -> list[str]:
    """Matrices whose rows the vector was taken by token, or by position, and that the target would have otherwise."""
    by_token = matched.by_token
    if vector.manifest.get("rows") != "strings":
        return []
    return [
        f"{quoted(name)}: its rows {'were' if entry.get('by_token') else 'were not'} matched by token when the diff "
        f"vector {vector.stored.label} was computed; with this target it is the opposite. Run `tuneport transfer` "
        f"with the parents, or choose in both runs with "
        f"{named('vocabulary', f'^{expression_of(name)}$=strings|positions')}."
        for name, entry in vector.entries.items()
        if _is_float(entry) and bool(entry.get("by_token")) != (name in by_token)
    ]


def _account(
    vector: DiffVector, matched: MatchedRows, target: Checkpoint, ties: Ties, choices: Choices, outside: Set[str]
) -> Account:
    own = _ties(vector)
    names = _names(own, vector)
    pairs = LazyMapping(names, lambda weight: _as_pair(names[weight], vector.entries[names[weight]]))
    parents = Parents(pairs, own, matched.by_token, choices.drop, outside)
    return pair_target(parents, target, ties, lay_rules(choices.rules, target.tensors), bool(matched.match.added))


def _as_pair(name: str, entry: Mapping[str, Any]) -> ParentPair:
    """Base and tuned as the manifest remembers them: shapes and dtypes, no bytes. What is not stored was not trained."""
    change = UNTRAINED if _is_float(entry) and not entry["stored"] else None
    return ParentPair(name, _remembered(name, entry["base"]), _remembered(name, entry["tuned"]), change)


def _is_float(entry: Mapping[str, Any]) -> bool:
    return DTYPES[entry["base"]["dtype"]].kind == "float"


def _remembered(name: str, entry: Mapping[str, Any]) -> StoredTensor:
    shape = tuple(entry["shape"])
    nbytes = math.prod(shape) * DTYPES[entry["dtype"]].itemsize
    return StoredTensor(name, entry["dtype"], shape, "", 0, nbytes)
