"""The points on a line that are measured first, and how many there are in all.

Pure functions of numbers, also used by study files and their estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuneport.errors import ABSENT, Fault, UsageError, named

POINTS = 5
REFINE = 4
THRESHOLD = (
    0.05  # nats per token; the bound that the lab's studies state, below which two models count as linearly connected
)
MOST = 1_000  # on one line, each a pass of the model over all of the data


@dataclass(frozen=True)
class Points:
    """Where losses are measured: `alphas` to begin with (0 and 1 always), then `refine` more where they bend."""

    alphas: tuple[float, ...]
    refine: int


def points_of(points: int | None, refine: int | None, alphas: Sequence[float] | None, beyond: float | None) -> Points:
    """The points that `path` was asked for. Raises `UsageError` for invalid options, and for more than `MOST`."""
    if alphas is not None and (points is not None or beyond is not None):
        told = f"already sets the points; leave out {named('points')} and {named('beyond')}"
        raise UsageError(Fault("alphas", ABSENT, told))
    if alphas is not None:
        return _given(alphas, 0 if refine is None else refine)
    count, more = POINTS if points is None else points, REFINE if refine is None else refine
    if how_many(count, more, beyond) > MOST:
        asked = f"{count}, {named('refine')} {more}" + ("" if beyond is None else f", {named('beyond')} {beyond:g}")
        raise UsageError(Fault("points", ABSENT, f"{asked}: {_TOO_MANY}", "Give fewer"))
    chosen = {place / (count - 1) for place in range(count)}
    if beyond is not None:
        further = (place / (count - 1) for place in range(count, math.ceil(beyond * (count - 1))))
        chosen |= {*further, float(beyond)}
    return Points(tuple(sorted(chosen)), more)


def how_many(points: int | None, refine: int | None, beyond: float | None) -> int:
    """How many points that makes, all those counted that bends may ask for; of too many, some number above `MOST`.

    >>> how_many(5, 4, 1.5)  # 0, 0.25 … 1, then 1.25 and 1.5, then four more
    11
    """
    steps = min((POINTS if points is None else points) - 1, MOST)
    last = steps if beyond is None else math.ceil(min(beyond, MOST) * steps)
    return last + 1 + (REFINE if refine is None else refine)


_TOO_MANY = f"more than {MOST:,} points on one line; each needs a pass over all data"


def _given(alphas: Sequence[float], refine: int) -> Points:
    chosen = {float(alpha) for alpha in alphas} | {0.0, 1.0}
    if len(chosen) + refine > MOST:
        told = f"with 0 and 1 {len(chosen):,} numbers, {named('refine')} {refine}: {_TOO_MANY}"
        raise UsageError(Fault("alphas", ABSENT, told, "Give fewer"))
    return Points(tuple(sorted(chosen)), refine)
