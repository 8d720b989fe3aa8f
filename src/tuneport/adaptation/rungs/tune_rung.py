"""Fine-tuning on labelled examples, from the best so far (the paper's transferring-then-finetuning, section 5).

The rate is reduced, so that what was transferred is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.climb import Attempt, Climb
from tuneport.adaptation.rungs.trained import trained


def attempt(climb: Climb) -> Attempt:
    """Fine-tune, and measure what was written."""
    return trained(climb, "tune", climb.standing, choices(climb.given, climb.fit_file(answered=True)))


def choices(given: AdaptOptions, examples: Path) -> dict[str, Any]:
    """What `tune` is asked for."""
    fitting = given.fitting
    return {
        "data": [str(examples)],
        "recipe": "sft",
        "epochs": fitting.tune_epochs,
        "learning_rate": fitting.tune_learning_rate,
    }
