"""A rung that trains: a fine-tuning from the best so far, in the folder of the rung; an adapter is added to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.climb import Attempt, Climb, Standing
from tuneport.diffvector.run import transfer
from tuneport.tuning.run import tune


def trained(climb: Climb, name: str, start: Standing, choices: Mapping[str, Any]) -> Attempt:
    """Train from ``start`` on a file into the folder ``name``, and measure what was written."""
    lora, place = climb.given.fitting.lora, climb.folder / name
    folder = place if lora is None else climb.folder / f"{name}-adapter"
    found = tune(start.place, out=folder, **common(climb.given, len(climb.parts.fit.examples)), **choices)
    climb.warnings += found.warnings
    if lora is not None:
        transfer(start.place, folder, start.place, place, workers=climb.given.running.workers)
    outcome = found.record["outcome"]
    return Attempt(
        climb.measured(name, place),
        place,
        keep=lambda: None,
        steps=outcome["steps"],
        examples=outcome["examples"]["examples"],
        more={"from": start.rung, "final_loss": outcome["final_loss"]},
    )


def common(given: AdaptOptions, examples: int) -> dict[str, Any]:
    """What every rung that trains asks of `tune`."""
    fitting = given.fitting
    return {
        "batch_size": min(fitting.batch_size, examples),
        "max_length": fitting.max_length,
        "gradient_checkpointing": fitting.gradient_checkpointing,
        "lora": fitting.lora,
    }
