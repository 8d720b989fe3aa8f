"""What carrying Δ in a dtype of fewer bits would have lost, beside the dtype in which the study did carry it.

In comes what was read, out come rows and a sentence; the page and the markdown both print them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.reporting.tables.lenient import whole
from tuneport.reporting.tables.wording import PER_CENT


@dataclass(frozen=True)
class Rounded:
    """One diff vector kept in a dtype: which share of its length, and of its elements, is lost; None: not measured."""

    tuned: str
    family: int | None
    seed: int | None
    dtype: str
    lost: float | None
    vanished: float | None


def rounded(rows: Iterable[Mapping[str, Any]]) -> list[Rounded]:
    """Every diff vector that was measured so, as results.json or the records of steps have it."""
    found = []
    for row in rows:
        lost, gone, changed = row.get("share_lost"), whole(row.get("vanished")), whole(row.get("changed"))
        found.append(
            Rounded(
                tuned=str(row.get("tuned") or row.get("name") or "?"),
                family=whole(row.get("family")),
                seed=whole(row.get("seed")),
                dtype=str(row.get("dtype", "?")),
                lost=float(lost) if isinstance(lost, int | float) else None,
                vanished=gone / changed if gone is not None and changed else None,
            )
        )
    return found


def in_words(rows: Iterable[Rounded], carried: str | None) -> str:
    """What the rows are, and in which dtype the study carried Δ, where that is known."""
    told = "What is lost where a fine-tuned model is kept in another dtype and its Δ taken from that"
    if carried is None:
        return f"{told}."
    if any(row.dtype == carried for row in rows):
        return f"{told}. The study itself carried Δ in {carried}: what it lost by that is not in these numbers."
    return f"{told}. The study itself carried Δ in {carried}."


def per_cent(share: float) -> str:
    """A share with two decimals: such losses are small."""
    return f"{100 * share:.2f}{PER_CENT}"
