"""Plan to add saved diff vectors to a target: target + Σ scale·Δ.

The result is the same kind of `Plan` as for a transfer. Each vector contains its parents' small files, so tokens are
matched and configs merged as if base and tuned were present.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tuneport.checkpoint.adapter import UNTRAINED
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import working_dtype
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.respelled import align_vector, outline_of
from tuneport.diffvector.vector import RAW, DiffVector
from tuneport.engine.checks.output_contradictions import contradictions
from tuneport.engine.choices import Choices
from tuneport.engine.parents import read_through_scales, told_at_opening
from tuneport.engine.pieces import DifferenceRecipe, RawRows, Recipe, Source, Sum, Term
from tuneport.engine.plan import (
    WRITTEN,
    Cast,
    LostRows,
    Made,
    Plan,
    files_chosen,
    grown_rows,
    place,
    preset_decisions,
    row_warnings,
    rows_without_room,
    rules_in_words,
)
from tuneport.engine.scaling.scales import Scales, find_scales
from tuneport.engine.tokens import MatchedRows, lost_runs, match_rows, token_decisions, without_tokenizers
from tuneport.errors import PairingError, named
from tuneport.files.lazy_sequences import LazyMapping, LazySequence
from tuneport.files.opening import contents
from tuneport.files.printable import expression_of, quoted
from tuneport.files.writing import write_new
from tuneport.pairing.account import Account, ParentPair, TensorPair
from tuneport.pairing.model_kinds import check_architectures
from tuneport.pairing.rows import Ids, Runs, runs_of
from tuneport.pairing.tensors import Parents, check_patterns, check_readable, main_dtype, pair_target, ties_of
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.pairing.vocabulary_matrices import Side, columns_of, rows_of, vocabulary_axis, with_rows
from tuneport.pairing.vocabulary_names import Ties
from tuneport.sidecars.config import is_tied
from tuneport.sidecars.config_kinds import kind_of
from tuneport.sidecars.merge import Decision, Sidecars, merge_sidecars
from tuneport.sidecars.three_way import Three


def plan_apply(vectors: Sequence[DiffVector], scales: Sequence[float], target: Checkpoint, choices: Choices) -> Plan:
    """The plan of target + Σ scale·Δ. Raises an error if a vector and the target do not belong together."""
    check_readable(target)
    inputs = (*(vector.stored for vector in vectors), target)
    for vector in vectors:
        check_architectures(outline_of(vector), target, renames=choices.renames)
    vectors, aligned = zip(*(align_vector(vector, target, choices) for vector in vectors), strict=True)
    ties_target = ties_of(target)
    matched = [_match(vector, target, ties_target, choices) for vector in vectors]
    matches = [each.match for each in matched]
    _check_one_vocabulary(vectors, matches)
    tuned = [vector.tuned for vector in vectors]
    scaling = find_scales(choices, matched, tuned, target.sidecars, target.tensors)
    accounts = [
        _account(vector, rows, target, ties_target, choices, scaling, own.outside)
        for vector, rows, own in zip(vectors, matched, aligned, strict=True)
    ]
    applied = list(map(_Applied, vectors, scales, matched, accounts))
    check_patterns(choices.patterns, itertools.chain(target.tensors, *(account.names for account in accounts)))
    merged, refusals = _merge_accounts(accounts, target)
    refusals = [*(line for rows in matched for line in rows.refusals), *refusals]
    if any(True for account in accounts for _ in account.places("refused")):
        refusals += [hint for each in aligned for hint in each.hints()]
    refusals += [line for one in applied for line in _misread(one)]
    cast = Cast(main_dtype(target.tensors.values()), choices.dtype)
    written = array("Q", merged.places(*WRITTEN))
    kept: dict[int, Made] = {}  # of matrices that are taken by their rows

    def make(number: int) -> Made:
        if number in kept:
            return kept[number]
        line = merged[written[number]]
        own = [line] if len(accounts) == 1 else [account.find(line.name) for account in accounts]
        made = line, *_recipe(line, own, applied, choices, scaling, cast)
        if isinstance(made[1], Sum) and any(term.runs is not None for term in made[1].terms):
            kept[number] = made
        return made

    layout, tasks = place(LazySequence(len(written), make), choices.shard_bytes)
    grown = grown_rows(merged, layout)
    refusals += rows_without_room(tasks, grown)
    sidecars, decisions = _merge_sidecars(applied, target, choices, grown)
    against = contradictions(sidecars.files, layout.slots, target)
    return Plan(
        operation="apply",
        formula=f"target + {' + '.join(_in_words(one, len(applied)) for one in applied)}{rules_in_words(choices)}",
        inputs=inputs,
        choices=choices,
        account=merged,
        tasks=tasks,
        layout=layout,
        vocabulary=tuple(map(without_tokenizers, matches)),
        files=sidecars.files,
        decisions=(
            *preset_decisions(choices),
            *read_through_scales(inputs),
            *(decision for each in aligned for decision in each.decisions),
            *scaling.decisions(merged.of(*WRITTEN)),
            *decisions,
        ),
        differences=tuple(sidecars.differences),
        tensor_refusals=tuple(refusals),
        sidecar_refusals=(*sidecars.refusals, *against.refusals),
        warnings=(*told_at_opening(inputs), *row_warnings(scaling, tasks), *sidecars.warnings),
        lost=tuple(recipe for one in applied for recipe in _lost(one)),
        dropped=tuple(recipe for one in applied for recipe in _dropped(one)),
        extra={"scales": list(scales), **sidecars.noted, **against.record()},
        base_samples={vector.role: vector.manifest.get("base_sample", {}) for vector in vectors},
    )


@dataclass(frozen=True)
class _Applied:
    """One of the vectors, in the target's spelling: its scale, how its rows are matched, and where its tensors go."""

    vector: DiffVector
    scale: float
    matched: MatchedRows
    account: Account

    def places(self, pair: ParentPair, rows: Ids) -> Ids:
        """For each of the base's ``rows`` (-1: none) its place among those that are stored, or -1."""
        ids = self.vector.ids(pair.name)
        if ids is None:
            return rows
        places = np.full(rows_of(pair.base) + 1, -1, np.int64)  # row -1 finds the last entry, which is none
        places[list(ids)] = np.arange(len(ids))
        return places[rows]

    def difference_of(self, line: TensorPair) -> StoredTensor | None:
        """What the vector stores for a line of its account."""
        return None if line.pair is None else self.vector.difference(line.pair.name)


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


def _misread(one: _Applied) -> list[str]:
    """Matrices whose rows the vector was taken by token, or by position, and that the target would have otherwise."""
    vector, by_token = one.vector, one.matched.by_token
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


def _check_one_vocabulary(vectors: Sequence[DiffVector], matches: Sequence[VocabularyMatch]) -> None:
    changing = [vector.stored.label for vector, match in zip(vectors, matches, strict=True) if match.changes]
    if len(changing) > 1:
        raise PairingError(
            f"{' and '.join(changing)} each add or rename tokens, so the new ids would depend on their order. Apply "
            f"them in separate runs, one after another."
        )


def _account(
    vector: DiffVector,
    matched: MatchedRows,
    target: Checkpoint,
    ties: Ties,
    choices: Choices,
    scaling: Scales,
    outside: Set[str],
) -> Account:
    own = _ties(vector)
    names = _names(own, vector)
    pairs = LazyMapping(names, lambda weight: _as_pair(names[weight], vector.entries[names[weight]]))
    parents = Parents(pairs, own, matched.by_token, choices.drop, outside)
    return pair_target(parents, target, ties, scaling.rules, bool(matched.match.added))


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


def _merge_accounts(accounts: Sequence[Account], target: Checkpoint) -> tuple[Account, list[str]]:
    """One account of several vectors: a target's tensor is transferred if any vector has a difference for it."""
    refusals = list(dict.fromkeys(line.reason for account in accounts for line in account.of("refused")))
    if len(accounts) == 1:
        return accounts[0], refusals
    order = {"refused": 0, "resized": 1, "transferred": 2, "copied": 3, "dropped": 4}
    chosen: dict[str, tuple[Account, int]] = {}
    for account in accounts:
        for number, line in enumerate(account):
            held = chosen.get(line.name)
            if held is None or order[line.fate] < order[held[0][held[1]].fate]:
                chosen[line.name] = account, number

    def pair(name: str) -> ParentPair:
        account, number = chosen[name]
        found = account[number].pair
        assert found is not None, "only lines with a pair ask for this"
        return found

    merged = Account(LazyMapping(chosen, pair), Ties(False, None, ()), target.tensors)
    for account, number in chosen.values():
        merged.append(account[number])
    return merged, refusals


def _recipe(
    line: TensorPair,
    lines: Sequence[TensorPair | None],
    applied: Sequence[_Applied],
    choices: Choices,
    scaling: Scales,
    cast: Cast,
) -> tuple[Recipe, tuple[int, ...], tuple[float, ...]]:
    assert line.target is not None
    target, shape = line.target, line.target.shape
    terms: list[Term] = []
    used: list[float] = []
    work = [target.dtype]
    for one, own in zip(applied, lines, strict=True):
        if own is None or own.fate not in ("transferred", "resized") or own.pair is None:
            continue
        vector, scale, by_row = one.vector, scaling.of(line.name, one.scale), scaling.by_row(line.name)
        stored = vector.difference(own.pair.name)
        if target.dtype == "F64" and stored is not None and stored.dtype != "F64":
            raise PairingError(
                f"{quoted(target.name)} is float64 in the target, but the diff vector {vector.stored.label} was "
                f"computed in float32, so the result would differ from a transfer. Run `tuneport transfer` with its "
                f"parents instead."
            )
        raw, runs = vector.stored.tensors.get(RAW + own.pair.name), None
        if own.by_token or by_row or vector.ids(own.pair.name) is not None:
            runs, rows = _runs(one, own.pair, target)
            shape = with_rows(target.shape, max(rows, shape[vocabulary_axis(shape)]))
        source = RawRows(Source(vector.role, raw), None, raw.dtype) if raw is not None else None
        plus = Source(vector.role, stored) if stored is not None else None
        term = Term(plus, None, scale, runs, source)
        terms += [term] if runs is None or not by_row else scaling.of_rows((term,), scale, runs.rows)
        used.append(scale)
        work += [stored.dtype] if stored is not None else [own.pair.base.dtype, own.pair.tuned.dtype]
    seed = choices.seed if choices.rounding == "stochastic" else None
    recipe = Sum(line.name, Source("target", target), tuple(terms), cast.of(target), working_dtype(*work), seed)
    return recipe, shape, tuple(used) or (0.0,)


def _runs(one: _Applied, pair: ParentPair, target: StoredTensor) -> tuple[Runs, int]:
    """Rows of the target, of the stored difference (by the base's id), and of the raw rows (by their order)."""
    rows = one.matched.match.rows(rows_of(pair.base), rows_of(pair.tuned), rows_of(target))
    plus = one.places(pair, np.where((rows.target >= 0) & (rows.tuned >= 0), rows.base, -1))
    raw = np.full(rows.rows, -1, np.int64)
    position = {id: index for index, id in enumerate(one.vector.raw_ids(pair.name))}
    for row in np.flatnonzero((rows.target < 0) & (rows.tuned >= 0)):
        tuned_id = int(rows.tuned[row])
        if tuned_id not in position:
            raise PairingError(
                f"{quoted(pair.name)}: the diff vector has no row for the tuned model's token {tuned_id}; it stores "
                f"full rows only for tokens its base lacks. Run `tuneport transfer` with the parents instead."
            )
        raw[row] = position[tuned_id]
    return runs_of(rows.target, plus, plus, raw, columns_of(target)), rows.rows


def _lost(one: _Applied) -> Iterator[LostRows]:
    """What the vector holds for rows of tokens that the target lacks, matrix by matrix."""
    for line in one.account.by_token():
        stored = one.difference_of(line)
        if stored is None or line.pair is None:
            continue
        rows = one.matched.match.lost_rows(rows_of(line.pair.base), rows_of(line.pair.tuned))
        if len(rows):
            places = one.places(line.pair, rows[:, 0])
            term = Term(Source(one.vector.role, stored), None, 1.0, lost_runs(places, places, columns_of(stored)))
            yield LostRows(DifferenceRecipe(line.name, (term,), stored.dtype), len(rows) * columns_of(stored))


def _dropped(one: _Applied) -> Iterator[LostRows]:
    """What the vector holds for tensors that have no place in the target."""
    for line in one.account.of("dropped"):
        stored = one.difference_of(line)
        if stored is not None:
            term = Term(Source(one.vector.role, stored), None, 1.0)
            yield LostRows(DifferenceRecipe(line.name, (term,), stored.dtype), stored.elements)


def _merge_sidecars(
    applied: Sequence[_Applied], target: Checkpoint, choices: Choices, grown: Mapping[int, int]
) -> tuple[Sidecars, list[Decision]]:
    """The merge of each vector in turn; the next one meets what the one before made of the target's sidecars."""
    folder = target.sidecars
    decisions: list[Decision] = []
    refusals: list[str] = []
    warnings: list[str] = []
    owners: list[str] = ["target"]  # whose template the target of this merge has
    with tempfile.TemporaryDirectory() as scratch:
        for number, one in enumerate(applied):
            match = one.matched.match
            folders = Three(one.vector.base, one.vector.tuned, folder)
            merged = merge_sidecars(
                folders, match.names, choices.config, files_chosen(choices, folders), choices.dtype, grown
            )
            decisions += [*token_decisions(match), *merged.decisions]
            refusals += merged.refusals
            warnings += merged.warnings
            sides = merged.noted["behaviour"]["template"]
            owners = list(dict.fromkeys(own for side in sides for own in (owners if side == "target" else [side])))
            if one is not applied[-1]:
                folder = _written(merged, Path(scratch) / str(number), folder)
        files = {name: _kept(content, Path(scratch)) for name, content in merged.files.items()}
    noted = {**merged.noted, "behaviour": {**merged.noted["behaviour"], "template": owners}}
    return replace(merged, files=files, refusals=refusals, warnings=warnings, noted=noted), decisions


def _written(merged: Sidecars, place: Path, like: SidecarFolder) -> SidecarFolder:
    place.mkdir()
    for name, content in merged.files.items():
        (place / name).parent.mkdir(exist_ok=True)
        write_new(place / name, content)
    return SidecarFolder("target", like.label, place)


def _kept(content: bytes | Path, scratch: Path) -> bytes | Path:
    """A path into the scratch folder would vanish with it."""
    return contents(content) if isinstance(content, Path) and scratch in content.parents else content


def _in_words(one: _Applied, count: int) -> str:
    name = "Δ" if count == 1 else f"Δ({one.vector.stored.label})"
    return name if one.scale == 1 else f"{one.scale:g} · {name}"
