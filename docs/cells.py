"""Tables and the numbers in them, as docs/results.md shows them: per cent and shares with their intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def figures_in(file: Path) -> dict[str, Any]:
    """The figures that a run left."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its head first."""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def share(scores: dict[str, Any], name: str) -> str:
    """A share in per cent, with its interval."""
    return percent(scores[name], scores["intervals"][name])


def percent(share: float, interval: Sequence[float]) -> str:
    """The same from numbers."""
    low, high = interval
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def or_never(steps: int | None) -> str:
    """How many steps something took, if it came."""
    return "not reached" if steps is None else str(steps)


def loss(scores: dict[str, Any], name: str) -> str:
    """A loss with its interval."""
    low, high = scores["intervals"][name]
    return f"{scores[name]:.3f} [{low:.3f}, {high:.3f}]"


def recovered(scores: dict[str, Any]) -> str:
    """A recovered gain with its interval, where it is defined."""
    if scores["recovered_gain"] is None:
        return "not defined"
    low, high = scores["intervals"]["recovered_gain"]
    return f"{scores['recovered_gain']:.2f} [{low:.2f}, {high:.2f}]"


def difference(row: dict[str, Any]) -> str:
    """A difference in points, with its interval."""
    low, high = row["interval"]
    return f"{100 * row['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def recovered_share(row: dict[str, Any]) -> str:
    """A recovered gain whose interval stands beside it."""
    return recovered(row | {"intervals": {"recovered_gain": row["interval"]}})


def control(scores: dict[str, Any]) -> str:
    """A control: its accuracy, and what share of the real gain it gained."""
    of_real = scores["share_of_real_gain"]
    return f"{share(scores, 'accuracy')}; {'-' if of_real is None else f'{100 * of_real:.1f} %'}"
