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
    options = parser.parse_args()
    whole, broken = options.out / "whole", options.out / "broken"
    seconds = run(options.file, whole, options.jobs, None)
    shutil.rmtree(broken, ignore_errors=True)
    seconds = max(seconds, sum(record["seconds"] for record in records(whole).values()) / options.jobs)
    chance, moments = random.Random(options.seed), []
    while len(moments) < options.kills:
        before = len(records(broken))
        moment = chance.uniform(2, 2 * seconds / (options.kills + 2))
        if run(options.file, broken, options.jobs, moment) < moment:
            print(f"it was done after {len(moments)} kills", file=sys.stderr)
            return 1
        moments.append(round(moment, 2))
        print(f"killed after {moment:.1f} s: {before} → {len(records(broken))} records", flush=True)
    run(options.file, broken, options.jobs, None)
    one, other = ({name: what_repeats(record) for name, record in records(place).items()} for place in (whole, broken))
    different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    kinds = sorted({record["kind"] for record in one.values()})
    print(json.dumps({"steps": len(one), "kinds": kinds, "killed_after_seconds": moments, "different": different}))
    return 1 if different or not one else 0


def run(file: Path, out: Path, jobs: int, moment: float | None) -> float:
    """Run the study, and kill it after some seconds; how long it ran."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "tuneport", "study", str(file), "--out", str(out), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        status = process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return time.monotonic() - begun
    if status:
        raise SystemExit(f"the study ended with status {status}")
    return time.monotonic() - begun


def records(out: Path) -> dict[str, dict[str, Any]]:
    """The records of a study, by folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("steps/*/record.json"))}


def what_repeats(record: dict[str, Any]) -> dict[str, Any]:
    """All of a record but times and versions; the digests of what was written are in it."""
    return {name: value for name, value in record.items() if name not in ("seconds", "versions")}


if __name__ == "__main__":
    sys.exit(main())
