"""What `adapt` says in the end: adapt.json, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import spoken
from tuneport.output.adapted_card import rows_of
from tuneport.results.schema import ADAPT_FORMAT
from tuneport.shown import Shown


@dataclass(frozen=True, repr=False)
class Adaptation(Shown):
    """A finished ladder: its folder, its record, and whether it was there before."""

    out: Path
    record: dict[str, Any]
    already_done: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the run."""
        return spoken(self.record["warnings"])

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"out": str(self.out), "already_done": self.already_done, **self.record, "warnings": list(self.warnings)}

    def heading(self) -> str:
        """One line: what was chosen, and the figures of the test part."""
        chosen = chosen_of(self.record)
        words = f"{self.out}: {'already done' if self.already_done else 'done'}, {self.record['chosen']}"
        return words + (f", {_change(chosen)}" if chosen["test"] and chosen["test"]["difference"] else "")

    def table(self) -> list[list[str]]:
        """A row for each rung."""
        return rows_of(self.record)


def record_of(
    rungs: Sequence[Mapping[str, Any]], chosen: str, measure: Mapping[str, str], references: Mapping[str, Any]
) -> dict[str, Any]:
    """adapt.json, without its plan."""
    return {
        "format": ADAPT_FORMAT,
        "rungs": [dict(rung) for rung in rungs],
        "chosen": chosen,
        "measure": dict(measure),
        "references": dict(references),
    }


def chosen_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the rung that was chosen."""
    found: Mapping[str, Any] = next(rung for rung in record["rungs"] if rung["name"] == record["chosen"])
    return found


def _change(rung: Mapping[str, Any]) -> str:
    change = rung["test"]["difference"]
    low, high = change["interval"]
    return (
        f"{rung['test']['value']:.1%} of {rung['test']['n']:,} test prompts, {100 * change['value']:+.1f} points against "
        f"plain addition (95 % {100 * low:+.1f} to {100 * high:+.1f})"
    )
