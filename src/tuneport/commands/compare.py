"""`tuneport compare`: the verdict, its gates and the measures; for several targets a ranking."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told, table
from tuneport.diagnosis.compare_options import CompareOptions

if TYPE_CHECKING:
    from tuneport.diagnosis.pair_comparison import PairComparison, Ranking

RECORDS = (CompareOptions,)


def call(options: argparse.Namespace) -> Told:
    """Compare."""
    from tuneport.diagnosis.pair_comparison import Ranking, compare

    found = compare(**given_for(CompareOptions, options))
    words = ranked_in_words(found) if isinstance(found, Ranking) else in_words(found)
    if "out" in options:
        words += f"\n{options.out}: done"
    return Told(words, found.to_dict())


def in_words(found: PairComparison) -> str:
    """The figures, the gates and the verdict of one comparison."""
    verdict = found["verdict"]
    gates = [[gate["status"], gate["name"], gate["reason"]] for gate in found["gates"]]
    asked = found.probe_table()
    lines = [found.name, "", table(found.table()), "", *([table(asked), ""] if asked else []), table(gates), ""]
    if asked and found["probe"]["answers"] is not None:
        lines += [found["probe"]["answers"]["condition"], ""]
    lines.append(f"verdict: {verdict['word']}")
    lines += [f"  {reason}" for reason in verdict["reasons"]]
    if verdict["remedy"]:
        lines.append(f"  next: {verdict['remedy']}")
    return "\n".join(lines)


def ranked_in_words(found: Ranking) -> str:
    """All of them, the best first, and the first one in full."""
    return f"{table(found.table())}\n\n{in_words(found[0])}"
