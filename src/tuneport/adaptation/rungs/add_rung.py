"""Plain addition: target + (tuned − base), as `transfer` writes it. All other rungs must beat it."""

from __future__ import annotations

from dataclasses import replace

from tuneport.adaptation.climb import Attempt, Climb, parents
from tuneport.engine.plan import plan_transfer
from tuneport.engine.run import execute


def attempt(climb: Climb) -> Attempt:
    """Transfer, and measure what was written."""
    place = climb.folder / "add"
    transfer_to(climb, scale=1.0, name="add")
    return Attempt(climb.measured("add", place), place, keep=lambda: None)


def transfer_to(climb: Climb, *, scale: float, name: str) -> None:
    """Write target + scale · Δ into the folder of a rung, with the user's own choices."""
    given = climb.given
    plan = plan_transfer(*parents(given), replace(given.choices, scale=scale))
    execute(plan, climb.folder / name, replace(given.running, overwrite=False))
