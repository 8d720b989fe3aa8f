"""`tuneport path`: the curve as a table, then the barrier in a sentence."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told
from tuneport.diagnosis.path_options import PathOptions

if TYPE_CHECKING:
    from tuneport.diagnosis.loss_path import LossPath

RECORDS = (PathOptions,)


def call(options: argparse.Namespace) -> Told:
    """Measure the line."""
    from tuneport.diagnosis.loss_path import path

    found = path(**given_for(PathOptions, options))
    words = in_words(found)
    if "out" in options:
        words += f"\n{options.out}: {'already done' if found['already_done'] else 'done'}"
    return Told(words, {name: value for name, value in found.items() if name != "plan"})


def in_words(found: LossPath) -> str:
    """The curve as a table, then the barrier in a sentence."""
    rows = found.table()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return f"{table}\n{_barrier_in_words(found)}"


def _barrier_in_words(record: Mapping[str, Any]) -> str:
    from tuneport.diagnosis.bend import verdict

    if record["barrier"] is None:
        return "No point between the two models was measured, so no barrier can be told."
    low, high = record["interval"]
    words = (
        f"barrier {record['barrier']:.4f} nats a token at α = {record['at']:g} (95 % {low:.4f} to {high:.4f}; "
        f"{record['halves']['measuring']['n']:,} of {record['n']:,} examples, the others chose α)"
    )
    return f"{words}\n{verdict(record['connected'], record['threshold'])}".rstrip()
