"""`make fuzz`: ten thousand damaged inputs through whole commands; what was found is told, and figures are kept.

    python -m bench.mutations [--runs 10000] [--out FILE] [--only NAME,…] [--from SEED]

A fault is told with its seed: the same seed damages the same file in the same way again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the commands and what must be true of them are the tests' own
from support.attacked_commands import ATTACKS, fault, make_inputs  # noqa: E402 (needs the line above)
from support.broken_disks import Server  # noqa: E402

MOST_TOLD = 20


def main() -> int:
    """Damage, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="over all commands")
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--only", default=",".join(ATTACKS), help="names of commands, with commas")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="seeds begin there")
    options = parser.parse_args()
    names = options.only.split(",")
    figures: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        place = Path(scratch)
        drive = Server(place)
        (place / "inputs").mkdir()
        inputs = make_inputs(place / "inputs", drive)
        for name in names:
            runs = -(-options.runs // len(names))
            found = 0
            for seed in range(options.first, options.first + runs):
                told = fault(name, seed, inputs, drive, place)
                if told is not None:
                    found += 1
                    if found <= MOST_TOLD:
                        print(told, flush=True)
            figures[name] = {"runs": runs, "faults": found}
            print(f"{name}: {figures[name]}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if any(told["faults"] for told in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
