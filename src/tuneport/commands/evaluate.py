"""`tuneport evaluate`: scores with their intervals, and which differences are significant."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told, measured, table
from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.options import Options, option
from tuneport.scoring.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    from tuneport.scoring.run import Scores


@dataclass(frozen=True, kw_only=True)
class ShowSuite(Options):
    """Ask what a suite is."""

    show: bool = option(
        False, group="the paper's evaluations", help="print the suite's tasks, settings and published scores"
    )


RECORDS = (EvaluateOptions, ShowSuite)


def call(options: argparse.Namespace) -> Told:
    """Score, or print a suite."""
    if "show" in options:
        from tuneport.scoring import suites

        if "suite" not in options:
            raise UsageError(Fault("show", ABSENT, "prints a suite", f"Name it with {named('suite')}"))
        suite = suites.find_suite(options.suite)
        return Told(suites.in_words(suite), suites.as_record(suite))
    from tuneport.scoring.run import evaluate

    scores = evaluate(**given_for(EvaluateOptions, options))
    return measured(options, in_words(scores), scores)


def in_words(record: Scores) -> str:
    """Scores with their intervals, then which differences are significant."""
    words = table(record.table())
    if record["comparisons"]:
        rows = [["task", "difference", "", "95 % interval", "p", "significant", "test"]]
        for row in record["comparisons"]:
            rows.append(
                [
                    row["task"],
                    f"{row['models'][1]} − {row['models'][0]}",
                    f"{row['difference']:+.3f}",
                    " to ".join(f"{end:+.3f}" for end in row["interval"]),
                    f"{row['p_adjusted']:.2g}",
                    ("yes" if row["significant"] else "no") + (" (other tasks)" if "across_variants" in row else ""),
                    row["method"],
                ]
            )
        words += "\n\n" + table(rows) + "\n(p by Holm's method for all rows; significant: p below 0.05)"
        compared = {tuple(row["models"]) for row in record["comparisons"]}
        if len(compared) < math.comb(len(record["models"]), 2) and not record["plan"]["against"]:
            words += "\n(each model against the first; --against MODEL chooses others)"
    if record["recovered_gain"]:
        rows = [["task", "recovered gain of", "share", "95 % interval", "gain"]]
        for row in record["recovered_gain"]:
            share = row["recovered_gain"]
            rows.append(
                [
                    row["task"],
                    row["transferred"],
                    "–" if share is None else f"{share:.2f}",
                    "the tuned target's gain may be zero"
                    if share is None
                    else " to ".join(f"{end:.2f}" for end in row["interval"]),
                    f"{row['gain']:+.3f}",
                ]
            )
        words += "\n\n" + table(rows)
    return words
