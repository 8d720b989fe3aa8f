"""Distillation: the tuned source answers the prompts, and the best so far learns its distribution over these answers.

No labels are used: only prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.climb import Attempt, Climb
from tuneport.adaptation.rungs.trained import trained
from tuneport.options import Place


def attempt(climb: Climb) -> Attempt:
    """Distil, and measure what was written."""
    prompts = climb.fit_file(answered=False)
    return trained(climb, "distil", choices(climb.given, prompts, climb.source, climb.near_file()))


def choices(given: AdaptOptions, prompts: Path, teacher: Place, near: Path | None = None) -> dict[str, Any]:
    """What `tune` is asked for."""
    fitting, longest = given.fitting, given.asking.max_new_tokens
    return {
        "data": [str(prompts)],
        "recipe": "distil",
        "teacher": teacher,
        "steps": fitting.steps,
        "learning_rate": fitting.learning_rate,
        **({} if longest is None else {"max_answer_tokens": longest}),
        **({} if near is None else {"retain": [str(near)]}),
    }
