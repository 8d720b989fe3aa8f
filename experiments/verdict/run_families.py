"""Run families of the verdict's study one after another, and leave a record of each: goes on where it stopped.

    python -m experiments.verdict.run_families --out DIR --families 1 2 3 [--lab large] [--dry-run]

`--dry-run` says which are recorded, and how many hours the others need, from the seconds in the records. A family from 9 on, or a
large one, is run only when what was chosen is written down (docs/results/verdict/choice.json): it is to confirm that, and nobody
looks at it before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.pages.markdown_cells import figures_in
from experiments.verdict.choose import CHOICE, FOR_CHOOSING
from experiments.verdict.family_record import RECORDS, place_of, write_record

STUDIES = Path(__file__).resolve().parents[2] / "studies"
FILES = {"small": STUDIES / "lab-verdict.toml", "large": STUDIES / "lab-verdict-large.toml"}
_TRIED = {
    "small": 0.5,
    "large": 0.9,
}  # hours, before a record says better: on one thread of a machine that others used too


def hours_of(lab: str) -> float:
    """What a family of this size takes, as the recorded ones did."""
    seconds = [record["seconds"] for record in map(figures_in, RECORDS.glob("family-*.json")) if record["lab"] == lab]
    return sum(seconds) / len(seconds) / 3600 if seconds else _TRIED[lab]


def plan(lab: str, families: Sequence[int]) -> str:
    """What a run would do, and for how long."""
    left = [family for family in families if not place_of(lab, family).exists()]
    each = hours_of(lab)
    lines = [f"family {family} ({lab}): {'to run' if family in left else 'recorded'}" for family in families]
    return "\n".join(
        [*lines, f"{len(left)} families, about {each:.2f} hours each on one thread: {each * len(left):.1f} hours"]
    )


def run(lab: str, family: int, out: Path) -> int:
    """One family with the product's own command, on one thread; its record when it is done. Returns the exit status."""
    folder = out / place_of(lab, family).stem
    command = [
        sys.executable,
        "-m",
        "tuneport",
        "study",
        str(FILES[lab]),
        "--out",
        str(folder),
        "--family",
        str(family),
    ]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    if ended.returncode == 0:
        write_record(folder)
    return ended.returncode


def main(arguments: Sequence[str]) -> int:
    """Plan, or run."""
    parser = argparse.ArgumentParser(description="Run families of studies/lab-verdict.toml.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the studies")
    parser.add_argument("--families", type=int, nargs="+", required=True, help="seeds")
    parser.add_argument("--lab", choices=tuple(FILES), default="small", help="size of the models")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and for how long")
    options = parser.parse_args(arguments)
    if options.dry_run:
        print(plan(options.lab, options.families))
        return 0
    confirming = [family for family in options.families if options.lab == "large" or family not in FOR_CHOOSING]
    if confirming and not CHOICE.exists():
        parser.error(
            f"families {confirming} are for confirming: write down what was chosen first (experiments.verdict.choose)"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for family in options.families:
        if not place_of(options.lab, family).exists() and (status := run(options.lab, family, options.out)):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
