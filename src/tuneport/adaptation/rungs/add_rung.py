"""Plain addition: target + (tuned − base), as `transfer` writes it, which the run has done before it asks anything.

All other rungs must beat it.
"""

from __future__ import annotations

from tuneport.adaptation.climb import Attempt, Climb


def attempt(climb: Climb) -> Attempt:
    """Measure what was written."""
    place = climb.folder / "add"
    return Attempt(climb.measured("add", place), place, keep=lambda: None)
