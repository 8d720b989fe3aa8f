"""Plan to compute a diff vector: tuned − base, stored in the working dtype.

The `Plan` has differences as tensors, and the small files of both parents in separate folders, so that the vector can
later be added to any target without its parents.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.floats import working_dtype
from tuneport.checkpoint.small_files import BEHAVIOUR_FILES, SidecarFolder
from tuneport.diffvector.vector import RAW, STEM
from tuneport.engine.adapted_terms import Stored, stored
from tuneport.engine.choices import Choices
from tuneport.engine.parents import equal_pairs, pair_models, read_through_scales, rounded_parents, told_at_opening
from tuneport.engine.pieces import DifferenceRecipe, RawRows, Recipe, Rows, Source, Term
from tuneport.engine.plan import Added, Made, Plan, place
from tuneport.engine.summands.pair_summand import dropped
from tuneport.engine.tokens import without_tokenizers
from tuneport.files.lazy_sequences import LazySequence
from tuneport.pairing.account import Account, ParentPair, TensorPair
from tuneport.pairing.buffers import is_computed_buffer
from tuneport.pairing.rows import runs_of
from tuneport.pairing.tensors import COMPUTED, check_patterns
from tuneport.pairing.vocabulary import RowMap
from tuneport.pairing.vocabulary_matrices import columns_of, rows_of, with_rows
from tuneport.sidecars.chat_template import lost_template
from tuneport.sidecars.merge import Decision


def plan_diff(base: Checkpoint, tuned: Checkpoint, choices: Choices) -> Plan:
    """The plan of tuned − base. Raises where the two do not belong together at all."""
    paired = pair_models(base, tuned, None, choices)
    match, parents = paired.matched.match, paired.parents
    check_patterns(choices.patterns, chain((pair.name for pair in parents.pairs.values()), parents.alone))
    account = Account(parents.pairs, paired.ties[0], {})
    entries: dict[str, dict[str, Any]] = {}
    same: dict[str, dict[str, Any]] = {}  # what the manifest says of most tensors is said of many others
    written, parts = array("Q"), array("B")
    kept: dict[str, list[_Part]] = {}  # of matrices that are taken by their rows

    def parts_of(pair: ParentPair) -> list[_Part]:
        if pair.name in kept:
            return kept[pair.name]
        entry = _entry(pair, pair.name in paired.matched.by_token)
        # Rows that an adapter trained are always kept separately.
        apart = entry["by_token"] or (pair.change is not None and pair.change.rows is not None)
        base_rows = rows_of(pair.base)
        rows = match.rows(base_rows, rows_of(pair.tuned), base_rows) if apart else None
        found = [] if pair.exact else _recipes(pair, rows, entry)
        if apart:
            kept[pair.name] = found
        if pair.name not in entries:
            entries[pair.name] = same.setdefault(repr(entry), entry)
        return found

    for pair in parents.pairs.values():
        if is_computed_buffer(pair.base):
            account.append(TensorPair(pair.name, "dropped", COMPUTED))
            continue
        told = str(pair.change) if pair.change is not None else ""
        account.append(TensorPair(pair.name, "copied" if pair.exact or pair.untrained else "transferred", told, pair))
        for number, _ in enumerate(parts_of(pair)):
            written.append(len(account) - 1)
            parts.append(number)
    for line in parents.alone.values():
        account.append(line)

    def make(number: int) -> Made:
        line = account[written[number]]
        assert line.pair is not None
        recipe, shape = parts_of(line.pair)[parts[number]]
        return line, recipe, shape, (1.0,)

    layout, tasks = place(LazySequence(len(written), make), choices.shard_bytes, STEM)
    sidecars = tuned.sidecars if tuned.adapter is None else paired.tuned.sidecars
    lost = lost_template(base.sidecars, sidecars)
    return Plan(
        operation="diff",
        formula="tuned − base",
        inputs=paired.inputs,
        choices=choices,
        account=account,
        tasks=tasks,
        exact=equal_pairs(account),
        alike=tuple((tuned.role, alike) for alike in paired.adapted.alike),
        layout=layout,
        added=(Added(tuned.role, account, base=base.role),),
        vocabulary=(without_tokenizers(match),),
        # As they are: `apply` sees each in the words of the target's class.
        files={**_kept(base.sidecars), **_kept(sidecars)},
        decisions=(
            *read_through_scales(paired.inputs),
            *paired.decisions,
            Decision("sidecars", "both parents'", "needed later to merge them with a target's"),
        ),
        tensor_refusals=paired.refusals(account),
        warnings=(
            *told_at_opening(paired.inputs),
            *rounded_parents(paired.inputs),
            *paired.adapted.warnings,
            *([] if lost is None else [lost]),
        ),
        dropped=tuple(dropped(account)),
        extra={"diff": entries, "rows": match.how},
    )


def as_encoded(plan: Plan) -> Plan:
    """The plan of a diff vector, with its tensors stored as chunks."""
    return replace(plan, layout=replace(plan.layout, encoded=True), extra={**plan.extra, "encoding": "exact"})


_Part = tuple[Recipe, tuple[int, ...]]


def _recipes(pair: ParentPair, rows: RowMap | None, entry: dict[str, Any]) -> list[_Part]:
    kept = _stored(pair, rows) if pair.change is None else stored(pair, rows, columns_of(pair.base))
    found: list[_Part] = []
    entry["stored"] = kept.difference is not None
    if kept.difference is not None:
        found.append((kept.difference, kept.shape))
    if kept.ids is not None:
        entry["ids"] = list(kept.ids)
    if kept.raw:
        entry["raw_ids"] = list(kept.raw_ids)
        raw = Rows(RAW + pair.name, kept.raw, columns_of(pair.tuned), pair.tuned.dtype)
        found.append((raw, with_rows(pair.tuned.shape, len(kept.raw))))
    return found


def _stored(pair: ParentPair, rows: RowMap | None) -> Stored:
    """What is kept of a tensor of a full model: all its rows, those without partner as zero."""
    base, tuned = Source("base", pair.base), Source("tuned", pair.tuned)
    work = working_dtype(pair.base.dtype, pair.tuned.dtype)
    if rows is None:
        return Stored(DifferenceRecipe(pair.name, (Term(tuned, base, 1.0),), work), pair.base.shape, None, (), ())
    count = rows_of(pair.base)
    paired = rows.tuned[:count].copy()
    paired[rows.base[:count] < 0] = -1
    here = rows.base[:count]
    term = Term(tuned, base, 1.0, runs_of(here, here, paired, here, columns_of(pair.base)))
    raw_ids = tuple(int(id) for id in rows.tuned[(rows.target < 0) & (rows.tuned >= 0)])
    raw = RawRows(tuned, None, pair.tuned.dtype)
    difference = DifferenceRecipe(pair.name, (term,), work)
    return Stored(difference, pair.base.shape, None, tuple((raw, id) for id in raw_ids), raw_ids)


def _entry(pair: ParentPair, by_token: bool) -> dict[str, Any]:
    """What the manifest keeps of a pair: enough to pair it with a target without its parents."""
    return {
        "stored": not pair.exact,
        "by_token": by_token,
        "base": {"dtype": pair.base.dtype, "shape": list(pair.base.shape)},
        "tuned": {"dtype": pair.tuned.dtype, "shape": list(pair.tuned.shape)},
    }


def _kept(folder: SidecarFolder) -> Mapping[str, bytes | Path]:
    """A parent's small files, whose settings can be read: damage is reported now, not when the vector is applied."""
    for name in BEHAVIOUR_FILES:
        if name.endswith(".json"):
            folder.json(name)
    return {f"{folder.role}/{name}": folder.content(name) for name in folder.names() if not name.endswith(".py")}
