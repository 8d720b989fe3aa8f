"""A study of real models, killed ten times on its way, against an unbroken run of the same: their records must be equal.

    python -m bench.study_kills [--file STUDY.toml] [--out DIR] [--kills 10] [--jobs 2] [--seed 0]

In comes a study (by default kills.toml beside this file: a family of the lab is pretrained, fine-tuned, carried over, fine-tuned
from there, scored and laid on lines), out come two folders and, if they agree, one line with the figures; else exit status 1 and the
records that differ. The unbroken run is kept and not made again; the killed one begins anew.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=HERE / "kills.toml")
    parser.add_argument("--out", type=Path, default=Path("study-kills-out"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the run is killed")
    parser.add_argument("--within", type=float, default=2, help="most seconds from the mark to the kill")
    options = parser.parse_args()
    whole, broken = options.out / "whole", options.out / "broken"
    run(options.file, whole, options.jobs)
    shutil.rmtree(broken, ignore_errors=True)
    chance, moments = random.Random(options.seed), []
    # Spread over the steps, not over time: one long step would take all the kills. The first comes within the first step.
    for mark in [0, *sorted(chance.choices(range(1, len(records(whole)) - 1), k=options.kills - 1))]:
        moment = chance.uniform(0, options.within)
        if not run(options.file, broken, options.jobs, (mark, moment)):
            print(f"it was done after {len(moments)} kills", file=sys.stderr)
            return 1
        moments.append([len(records(broken)), round(moment, 2)])
        print(f"killed {moment:.2f} s after there were {mark} records; now there are {moments[-1][0]}", flush=True)
    run(options.file, broken, options.jobs)
    one, other = ({name: what_repeats(record) for name, record in records(place).items()} for place in (whole, broken))
    different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    kinds = sorted({record["kind"] for record in one.values()})
    told = {"steps": len(one), "kinds": kinds, "kills": len(moments), "records_at_each": [n for n, _ in moments]}
    print(json.dumps({**told, "different": different}))
    return 1 if different or not one else 0


def run(file: Path, out: Path, jobs: int, kill: tuple[int, float] | None = None) -> bool:
    """Run the study; kill it some seconds after it has so many records. Whether it was killed."""
    command = [sys.executable, "-m", "tuneport", "study", str(file), "--out", str(out), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if kill is not None:
        mark, moment = kill
        while process.poll() is None and len(list(out.glob("steps/*/record.json"))) < mark:
            time.sleep(0.01)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    if process.wait():
        raise SystemExit(f"the study ended with status {process.returncode}")
    return False


def records(out: Path) -> dict[str, dict[str, Any]]:
    """The records of a study, by folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("steps/*/record.json"))}


def what_repeats(record: dict[str, Any]) -> dict[str, Any]:
    """All of a record but times and versions; the digests of what was written are in it."""
    return {name: value for name, value in record.items() if name not in ("seconds", "versions")}


if __name__ == "__main__":
    sys.exit(main())
