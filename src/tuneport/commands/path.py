"""`tuneport path`: prints the curve as a table, then the barrier in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told, measured, table
from tuneport.diagnosis.path_options import PathOptions

if TYPE_CHECKING:
    from tuneport.diagnosis.loss_path import LossPath

RECORDS = (PathOptions,)


def call(options: argparse.Namespace) -> Told:
    """Measure the line."""
    from tuneport.diagnosis.loss_path import path

    found = path(**given_for(PathOptions, options))
    return measured(options, in_words(found), found)


def in_words(found: LossPath) -> str:
    """The curve as a table, then the barrier in a sentence."""
    return f"{table(found.table())}\n{_barrier_in_words(found)}"


def _barrier_in_words(record: Mapping[str, Any]) -> str:
    from tuneport.diagnosis.bend import verdict

    if record["barrier"] is None:
        return "No point between the two models was measured, so the barrier is unknown."
    low, high = record["interval"]
    words = (
        f"barrier {record['barrier']:.4f} nats per token at α = {record['at']:g} (95 % {low:.4f} to {high:.4f}; "
        f"{record['halves']['measuring']['n']:,} of {record['n']:,} examples; the others chose α)"
    )
    return f"{words}\n{verdict(record['connected'], record['threshold'])}".rstrip()
