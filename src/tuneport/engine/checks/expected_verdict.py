"""Will it work? The gates and the verdict of `comparison/`, on what a plan, a sample of it or a whole pass has shown.

Nothing is read for it: a run has the sums of its one pass, a dry run those of the sample that it takes anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tuneport.comparison.gates import Evidence, Gate, gates_of
from tuneport.comparison.measures import TensorColumns, is_in_a_layer
from tuneport.comparison.model_roles import Figures
from tuneport.comparison.transfer_verdict import Verdict, verdict_of
from tuneport.engine.checks.before_writing import RolesVerdict
from tuneport.engine.manifest import Conclusion
from tuneport.engine.plan import Plan
from tuneport.errors import spoken


def judged(
    plan: Plan,
    roles: RolesVerdict,
    figures: Figures,
    measures: Mapping[str, Any],
    lost_norm: float | None,
    nonfinite: int = 0,
) -> tuple[tuple[Gate, ...], Verdict]:
    """Gates and verdict. ``figures`` are of the roles, ``lost_norm`` is ‖Δ‖ in rows of tokens that the target lacks."""
    gates = gates_of(
        Evidence(
            roles.whole or next((sample.figures for sample in roles.samples.values()), figures),
            roles.doubts,
            measures,
            lost_tokens=sum(len(match.lost) for match in plan.vocabulary),
            lost_share=_share(lost_norm, measures["norm_diff"]),
            refusals=plan.refusals,
            warnings=plan.warnings,
            nonfinite=nonfinite,
        )
    )
    return gates, verdict_of(measures, gates, _kind(plan), several=len(plan.added) > 1)


def verdict_of_run(plan: Plan, found: Conclusion, nonfinite: int) -> Verdict | None:
    """The verdict from the figures of a run's pass; None if it is not a transfer, or changes no tensor."""
    totals = found.totals
    if plan.operation != "transfer" or not totals.figures["parameters"]:
        return None
    return judged(plan, found.verdict, totals.roles, totals.figures, totals.lost_norm, nonfinite)[1]


def verdict_of_sample(plan: Plan, seen: RolesVerdict) -> Verdict | None:
    """The verdict from the sample that was seen before a run; None where there was none."""
    if plan.operation != "transfer" or seen.rounding is None:
        return None
    columns = TensorColumns()
    for part in seen.rounding.parts:
        if part.every is not None:
            columns.put(part.every, matrix=True, inner=is_in_a_layer(part.task.slot.name))  # matrices alone are drawn
    # Ratios of the sample stand for those of all tensors; how many elements there are is known.
    measures = {**columns.whole(), "parameters": sum(slot.elements for slot in plan.slots)}
    return judged(plan, seen, Figures(0, 0), measures, None)[1]


def verdict_in_words(verdict: Mapping[str, Any]) -> str:
    """One line: the word and its first reason, from a verdict's record."""
    return f"verdict: {verdict['word']}. {' '.join(str(verdict['reasons'][0]).split())}"


def verdict_record(verdict: Verdict | None) -> dict[str, Any] | None:
    """The verdict as JSON, options as the reader writes them."""
    if verdict is None:
        return None
    return {**verdict.record(), "reasons": list(spoken(verdict.reasons))}


def _share(part: float | None, whole_norm: float | None) -> float | None:
    """The part of ‖Δ‖ that is lost; the lost and the transferred part are orthogonal."""
    if part is None or whole_norm is None:
        return None
    whole_norm = math.hypot(part, whole_norm)
    return part / whole_norm if whole_norm else None


def _kind(plan: Plan) -> str | None:
    """The target's `model_type`, which its config says."""
    kind = plan.inputs[-1].config.get("model_type")
    return kind if isinstance(kind, str) else None
