"""Run families one after another, and leave a record of each in docs/results/ladder; goes on where it stopped.

    python -m experiments.ladder.run_ladder --out DIR --families 21 22 23 [--dry-run]

Families 21 to 32 are those that the claims are about; nobody looks at one before its record is written. `--dry-run` says which
are recorded, and how many hours the others need, from the seconds in the records.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.pages.markdown_cells import figures_in
from tuneport.files.writing import write_whole

RECORDS = Path(__file__).resolve().parents[2] / "docs" / "results" / "ladder"
CLAIMED = range(21, 33)
_TRIED = 0.6  # hours, before a record says better: on one thread of a machine that others used too


def place_of(family: int) -> Path:
    """Where a family's record is."""
    return RECORDS / f"family-{family}.json"


def hours_each() -> float:
    """What a family takes, as the recorded ones did."""
    seconds = [figures_in(file)["seconds"] for file in RECORDS.glob("family-*.json")]
    return sum(seconds) / len(seconds) / 3600 if seconds else _TRIED


def plan(families: Sequence[int]) -> str:
    """What a run would do, and for how long."""
    left = [family for family in families if not place_of(family).exists()]
    lines = [f"family {family}: {'to run' if family in left else 'recorded'}" for family in families]
    each = hours_each()
    return "\n".join(
        [*lines, f"{len(left)} families, about {each:.2f} hours each on one thread: {each * len(left):.1f} hours"]
    )


def rounded(value: Any) -> Any:
    """Numbers with four digits; warnings and plans are left out: a record is small."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items() if key != "warnings"}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: Sequence[str]) -> int:
    """Plan, or run."""
    parser = argparse.ArgumentParser(description="Run families of tiny models through the ladder.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the families")
    parser.add_argument("--families", type=int, nargs="+", default=list(CLAIMED), help="seeds")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and for how long")
    parser.add_argument("--trial", action="store_true", help="print the record and keep it out of docs/results")
    options = parser.parse_args(arguments)
    if options.dry_run:
        print(plan(options.families))
        return 0
    from experiments.ladder import ladder_trials

    for family in options.families:
        if options.trial:
            print(json.dumps(rounded(ladder_trials.run(options.out / f"family-{family}", family)), indent=1))
        elif not place_of(family).exists():
            record = rounded(ladder_trials.run(options.out / f"family-{family}", family))
            RECORDS.mkdir(exist_ok=True)
            write_whole(place_of(family), json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
