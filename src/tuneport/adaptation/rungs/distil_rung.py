"""Distillation: the tuned source answers the prompts, and the best so far learns its distribution over these answers.

No labels are used: only prompts. Where a scale was kept, plain addition is a second start: a smaller Δ may answer better at
first and still learn less (docs/adapt.md has the figures). The better of the two on the select part goes to the gate.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.climb import Attempt, Climb
from tuneport.adaptation.rung_measures import share
from tuneport.adaptation.rungs.trained import trained
from tuneport.options import Place


def attempt(climb: Climb) -> Attempt:
    """Distil, and measure what was written."""
    assert climb.added is not None, "add is the first rung"
    chosen = choices(climb.given, climb.fit_file(answered=False), climb.teacher, climb.near_file())
    starts = {standing.rung: standing for standing in (climb.added, climb.standing)}
    made = [
        trained(climb, "distil" if rung == "add" else f"distil-from-{rung}", standing, chosen)
        for rung, standing in starts.items()
    ]
    best = max(made, key=lambda attempt: share(attempt.measured.select).value)
    if len(made) == 1:
        return best
    tried = {each.more["from"]: share(each.measured.select).value for each in made}
    return replace(best, more={**best.more, "tried": tried})


def choices(given: AdaptOptions, prompts: Path, teacher: Place, near: Path | None = None) -> dict[str, Any]:
    """What `tune` is asked for."""
    fitting, longest = given.fitting, given.asking.max_new_tokens
    return {
        "data": [str(prompts)],
        "recipe": "distil",
        "teacher": teacher,
        "steps": fitting.steps,
        "learning_rate": fitting.learning_rate,
        **({} if longest is None else {"max_completion_length": longest}),
        **({} if near is None else {"retain": [str(near)], "retain_from": given.onto}),
    }
