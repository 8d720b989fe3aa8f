"""The conclusion of a run when all leaves are done: measures, the verdict on the roles, warnings and the manifest.

A run uses it to write its manifest, and `verify --full` to compare one with it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tuneport.checkpoint.reading import Workspace
from tuneport.engine import arithmetic
from tuneport.engine.budget import PIECE
from tuneport.engine.checks.before_writing import RolesVerdict, settle
from tuneport.engine.leaf_results import LeafResults
from tuneport.engine.manifest import Conclusion, measures, rounding_loss
from tuneport.engine.pieces import DifferenceRecipe, Readers
from tuneport.engine.plan import Plan
from tuneport.engine.tokens import LostDifference


def conclude(plan: Plan, seen: RolesVerdict, results: LeafResults, lost: LostDifference | None) -> Conclusion:
    """What all leaves together say, beside what was ``seen`` of a sample."""
    totals = replace(measures(results, several=len(plan.added) > 1), lost_norm=None if lost is None else lost.norm)
    verdict = settle(seen, totals.roles, totals.shift_norm)
    losses = rounding_loss(plan, results, totals.rounding)
    return Conclusion(totals, verdict, (*plan.token_losses(lost), *plan.warnings, *verdict.warnings, *losses), losses)


def measure_dropped(plan: Plan, readers: Readers) -> dict[str, float | None]:
    """‖Δ‖ of what has no place in the output, so that the manifest says what was lost."""
    norms: dict[str, float | None] = dict.fromkeys(line.name for line in plan.account.of("dropped"))
    for left in plan.dropped:
        # Of several diff vectors each has its own part.
        norms[left.recipe.name] = math.hypot(
            norms[left.recipe.name] or 0.0, math.sqrt(_square(left.recipe, left.elements, readers))
        )
    return norms


def lost_difference(plan: Plan, results: LeafResults, readers: Readers) -> LostDifference | None:
    """Δ in rows whose tokens have no place in the output; None where an adapter made them, and nothing was read."""
    if not plan.lost:
        return LostDifference(0.0, 0.0, False)
    lost = lost_norm(plan, readers)
    names = {rows.recipe.name for rows in plan.lost}
    beside = [result for result in results if result.has_diff and result.task.slot.name in names]
    mean = sum(result.sums[0] for result in beside) / max(sum(result.task.slot.elements for result in beside), 1)
    own = lost * lost / sum(rows.elements for rows in plan.lost)
    whole = math.hypot(lost, math.sqrt(sum(result.sums[0] for result in results if result.has_diff)))
    return LostDifference(lost, lost / whole if whole > 0 else 0.0, own > 9 * mean)


def lost_norm(plan: Plan, readers: Readers) -> float:
    """‖Δ‖ in rows whose tokens have no place in the output."""
    return math.sqrt(sum(_square(rows.recipe, rows.elements, readers) for rows in plan.lost))


def _square(recipe: DifferenceRecipe, elements: int, readers: Readers) -> float:
    """‖Δ‖² of a recipe's elements."""
    space, sums = Workspace(), np.zeros(arithmetic.SUMS)
    for start in range(0, elements, PIECE):
        recipe.piece(start, min(start + PIECE, elements), start, readers, space, sums)
    return float(sums[0])
