"""What generated answers look like, whatever they say: how long they are, whether they end by themselves, and whether they
repeat themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_RUN = 4  # tokens


@dataclass(frozen=True)
class AnswerShape:
    """One answer: its length in tokens, whether it ended before the most that it may have, and the share repeated."""

    tokens: int
    ended: bool
    repeated: float


def shape_of(tokens: Sequence[int], ends: Iterable[int]) -> AnswerShape:
    """The shape of a generated sequence, with whatever follows its end.

    ``repeated`` is the share of runs of four tokens that occurred before in the same answer (Welleck et al., 2020:
    seq-rep-4).
    """
    stops = set(ends)
    stop = next((place for place, token in enumerate(tokens) if token in stops), None)
    own = tokens if stop is None else tokens[:stop]
    runs = [tuple(own[start : start + _RUN]) for start in range(len(own) - _RUN + 1)]
    return AnswerShape(len(own), stop is not None, 1 - len(set(runs)) / len(runs) if runs else 0.0)
