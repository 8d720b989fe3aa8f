"""Tables and the numbers in them, as docs/results.md shows them: per cent and shares with their intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneport.reporting.tables.wording import minus


def figures_in(file: Path) -> Any:
    """The figures that a run left."""
    return json.loads(file.read_text(encoding="utf-8"))


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
    return minus(f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]")


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
    return minus(f"{scores['recovered_gain']:z.2f} [{low:z.2f}, {high:z.2f}]")


def control(scores: dict[str, Any]) -> str:
    """A control: its accuracy, and what share of the real gain it gained."""
    of_real = scores["share_of_real_gain"]
    gained = "–" if of_real is None else minus(f"{100 * of_real:z.1f} %")
    return f"{share(scores, 'accuracy')}; {gained}"
