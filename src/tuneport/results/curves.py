"""Curves of fine-tuning: the peak, whether there is a gain, and after how many steps a level is reached."""

from __future__ import annotations

from collections.abc import Sequence

Points = Sequence[tuple[int, float]]  # steps and values, in the order of steps


def peak(points: Points, higher_is_better: bool) -> int | None:
    """The place of the best value, the first of equals; None where there is no point."""
    values = [value if higher_is_better else -value for _, value in points]
    return values.index(max(values)) if values else None


def gains(points: Points, higher_is_better: bool) -> bool:
    """Whether the end is better than the start: where it is not, there is nothing to match."""
    if not points:
        return False
    start, end = points[0][1], points[-1][1]
    return end > start if higher_is_better else end < start


def steps_to_match(points: Points, level: float, higher_is_better: bool) -> int | None:
    """The first point from which on all are as good as `level`, 0 where the start already is and stays; None where none is.

    A curve that touches the level and falls below it again has not matched it there.
    """
    matched: int | None = None
    for step, value in reversed(points):
        if (value < level) if higher_is_better else (value > level):
            break
        matched = step
    return matched
