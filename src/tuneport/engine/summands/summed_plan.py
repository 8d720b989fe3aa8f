"""Plan a sum: a target, and one difference after another, from parents or stored.

A transfer is the sum with one pair; `apply` is the sum of stored diff vectors.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.floats import working_dtype
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.checks.output_contradictions import contradictions
from tuneport.engine.choices import Choices
from tuneport.engine.parents import read_through_scales, rounded_parents, told_at_opening
from tuneport.engine.pieces import Source, Sum, Term
from tuneport.engine.plan import WRITTEN, Cast, Made, Operation, OutputTask, Plan, grown_rows, place, rows_without_room
from tuneport.engine.scaling.presets import PRESETS
from tuneport.engine.scaling.scales import Scales, added_rows, find_scales
from tuneport.engine.summands.merged_accounts import merge_accounts
from tuneport.engine.summands.sidecars_in_turn import merge_in_turn
from tuneport.engine.summands.summand import Summand, Terms, adds, check_one_vocabulary, of_one
from tuneport.engine.tokens import without_tokenizers
from tuneport.files.lazy_sequences import LazySequence
from tuneport.pairing.account import TensorPair
from tuneport.pairing.rows import with_rows_behind
from tuneport.pairing.tensors import check_patterns, main_dtype
from tuneport.pairing.vocabulary_matrices import columns_of, rows_of, with_rows
from tuneport.sidecars.merge import Decision

T = TypeVar("T")


def plan_sum(operation: Operation, summands: Sequence[Summand], target: Checkpoint, choices: Choices) -> Plan:
    """The plan of target + Σ scale·Δ. Raises where the summands do not go together."""
    check_one_vocabulary(summands)
    check_patterns(choices.patterns, itertools.chain(target.tensors, *(each.names for each in summands)))
    tuned = [each.sidecars[1] for each in summands]
    scaling = find_scales(choices, [each.matched for each in summands], tuned, target.sidecars, target.tensors)
    merged, refused = merge_accounts([each.account for each in summands], target)
    cast = Cast(main_dtype(target.tensors.values()), choices.dtype)
    written = array("Q", merged.places(*WRITTEN))
    kept: dict[int, Made] = {}  # of matrices that are taken by their rows

    def make(number: int) -> Made:
        if number in kept:
            return kept[number]
        line = merged[written[number]]
        made = line, *_recipe(line, summands, choices, scaling, cast)
        if any(term.runs is not None for term in made[1].terms):
            kept[number] = made
        return made

    layout, tasks = place(LazySequence(len(written), make), choices.shard_bytes)
    grown = grown_rows(merged, layout)
    sidecars = merge_in_turn(summands, target, choices, grown)
    against = contradictions(sidecars.files, layout.slots, target)
    inputs = (*itertools.chain.from_iterable(each.inputs for each in summands), target)
    scales = {} if operation == "transfer" and len(summands) == 1 else {"scales": [e.added.scale for e in summands]}
    return Plan(
        operation=operation,
        formula=_formula(summands, choices),
        inputs=inputs,
        choices=choices,
        account=merged,
        tasks=tasks,
        exact=_of_all(each.exact for each in summands),
        alike=_of_all(each.alike for each in summands),
        layout=layout,
        added=tuple(each.added for each in summands),
        vocabulary=tuple(without_tokenizers(each.match) for each in summands),
        files=sidecars.files,
        decisions=(
            *_preset_decisions(choices),
            *read_through_scales(inputs),
            *_of_all(of_one(each, each.decisions, summands) for each in summands),
            *scaling.decisions(merged.of(*WRITTEN)),
            *sidecars.decisions,
        ),
        differences=tuple(sidecars.differences),
        tensor_refusals=(
            *_of_all(each.matched.refusals for each in summands),
            *rows_without_room(tasks, grown),
            *_of_all(each.refusals for each in summands),
            *refused,
            *_of_all(each.hints for each in summands),
        ),
        sidecar_refusals=(*sidecars.refusals, *against.refusals),
        warnings=(
            *told_at_opening(inputs),
            *rounded_parents(inputs),
            *_of_all(each.warnings for each in summands),
            *_row_warnings(scaling, tasks),
            *sidecars.warnings,
        ),
        lost=_of_all(each.lost() for each in summands),
        dropped=_of_all(each.dropped() for each in summands),
        extra={**scales, **_lineages(summands), **sidecars.noted, **against.record()},
    )


def _of_all(found: Iterable[Iterable[T]]) -> tuple[T, ...]:
    return tuple(itertools.chain.from_iterable(found))


def _formula(summands: Sequence[Summand], choices: Choices) -> str:
    """The formula in words that a manifest shows."""
    terms = (each.words if each.added.scale == 1 else f"{each.added.scale:g} · {each.words}" for each in summands)
    rules = [f"; {rule.shown} where /{rule.pattern}/" for rule in choices.rules]
    by_row = [f"; rows of {','.join(rule.tokens)}: {rule.shown_scale}" for rule in choices.row_rules]
    return f"target + {' + '.join(terms)}{''.join([*rules, *by_row])}"


def _preset_decisions(choices: Choices) -> list[Decision]:
    """Which options a preset stood for."""
    if choices.preset is None:
        return []
    preset = PRESETS[choices.preset]
    return [Decision("preset", choices.preset, f"stands for {preset.flags}: {preset.what} ({preset.source})")]


def _lineages(summands: Sequence[Summand]) -> dict[str, list[dict[str, Any]]]:
    """What the target is to each stored diff vector, if there are any."""
    found = [each.lineage.record() for each in summands if each.lineage is not None]
    return {"lineage": found} if found else {}


def _row_warnings(scaling: Scales, tasks: Sequence[OutputTask]) -> list[str]:
    """Rules for tokens that have no effect."""
    if scaling.rows is None:
        return []
    return scaling.rows.warnings(added_rows(task.recipe for task in tasks if scaling.by_row(task.line.name)))


def _recipe(
    line: TensorPair, summands: Sequence[Summand], choices: Choices, scaling: Scales, cast: Cast
) -> tuple[Sum, tuple[int, ...], tuple[float, ...]]:
    """What is added to a tensor of the target, the shape it then has, and the scales that were used."""
    assert line.target is not None
    target, found, scales = line.target, list[Terms](), list[float]()
    by_row = scaling.by_row(line.name)
    for each in summands:
        own = line if len(summands) == 1 else each.account.find(line.name)
        if own is not None and adds(own):
            scales.append(scaling.of(line.name, each.added.scale))
            added = each.terms(own, scales[-1], by_row=by_row)
            if by_row and added.rows is not None:
                added = replace(added, terms=scaling.of_rows(added.terms, scales[-1], added.rows))
            found.append(added)
    work = working_dtype(target.dtype, *(dtype for each in found for dtype in each.dtypes))
    rows = max((each.rows for each in found if each.rows is not None), default=None)
    terms = tuple(itertools.chain.from_iterable(_beside(each, target, rows, work) for each in found))
    seed = choices.seed if choices.rounding == "stochastic" else None
    recipe = Sum(line.name, Source("target", target), terms, cast.of(target), work, seed)
    return recipe, target.shape if rows is None else with_rows(target.shape, rows), tuple(scales) or (0.0,)


def _beside(own: Terms, target: StoredTensor, rows: int | None, work: str) -> tuple[Term, ...]:
    """The terms of one summand beside others: over as many rows as the output has, and each difference in its own dtype."""
    narrow = working_dtype(target.dtype, *own.dtypes)
    terms = own.terms if narrow == work else tuple(replace(term, work=narrow) for term in own.terms)
    if rows is None or rows == own.rows:
        return terms
    there = rows_of(target) if own.rows is None else own.rows
    columns = columns_of(target)
    return tuple(replace(term, runs=with_rows_behind(term.runs, there, rows - there, columns)) for term in terms)
