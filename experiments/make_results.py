"""Run everything whose figures docs/results.md shows, one after another: `make results`.

    python -m experiments.make_results [--only NAME,…] [--out DIR]

Each run leaves its folder in DIR (`results-out`) and its figures in docs/results/. A run that is done is not done again,
one that was stopped goes on; to repeat one, remove its folder. Alone on two cores: about four minutes a seed, a quarter of an hour for the published LLM, half an hour for the
families on which roles are tried, half an hour and 50 GB of disk for the
benchmark. The studies of many families (studies/lab-*.toml, one run a family) take longest, each run up to 25 minutes; what they
say of the paper's claims is judged when all that were asked for have ended, from all that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.claims.judge_studies import FAMILIES, write_figures
from experiments.pages.results_page import FIGURES, FRESH_SEEDS, SEEDS, TWINS

ROOT = Path(__file__).resolve().parent.parent


def runs(out: Path) -> dict[str, tuple[list[str], Path | None]]:
    """Each run by name: its command, and the file with its figures; None where several runs make them together."""
    module = [sys.executable, "-m"]
    found: dict[str, tuple[list[str], Path | None]] = {}
    for seed in (*SEEDS, *FRESH_SEEDS):
        folder = out / f"demo-seed-{seed}"
        command = [*module, "tuneport", "demo", "--out", str(folder), "--seed", str(seed)]
        found[folder.name] = (command, folder / "summary.json")
    published = [*module, "experiments.published.run", "--out", str(out / "published")]
    found["published"] = (published, out / "published" / "summary.json")
    found["bench"] = ([*module, "bench.run", "--out", str(out / "bench")], out / "bench" / "bench.json")
    trials = [*module, "experiments.trials.role_trials", "--out", str(out / "roles")]
    found["roles"] = (trials, out / "roles" / "roles.json")
    for study, seeds in FAMILIES.items():
        for seed in seeds:
            folder = out / f"{study}-family-{seed}"
            file = ROOT / "studies" / f"{study}.toml"
            command = [
                *module,
                "tuneport",
                "study",
                str(file),
                "--out",
                str(folder),
                "--family",
                str(seed),
                "--jobs",
                "2",
            ]
            found[folder.name] = (command, None)
    return found


def note_seconds(folder: Path, seconds: float) -> None:
    """How long a family of a study took from nothing to its end: the last one that was run counts."""
    study, _, family = folder.name.rpartition("-family-")
    known: dict[str, Any] = json.loads(TWINS.read_text()) if TWINS.exists() else {}
    steps = len(json.loads((folder / "results.json").read_text())["steps"])
    known[study] = {"family": int(family), "steps": steps, "seconds": round(seconds)}
    TWINS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run what docs/results.md shows.")
    parser.add_argument("--out", type=Path, default=ROOT / "results-out", help="folder of the runs")
    parser.add_argument("--only", metavar="NAME,…", help="only some of the runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    known = runs(options.out.resolve())
    wanted = options.only.split(",") if options.only else list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no such run: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in wanted:
        command, figures = known[name]
        if figures is None or not figures.exists():
            print(f"{name} …", file=sys.stderr, flush=True)
            unbroken, began = not (options.out / name).exists(), time.monotonic()
            ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            if ended.returncode:
                return ended.returncode
            if figures is None and unbroken:
                note_seconds(options.out / name, time.monotonic() - began)
        if figures is not None:
            shutil.copyfile(figures, FIGURES / f"{name}.json")
    if any(figures is None for _, figures in (known[name] for name in wanted)):
        write_figures(options.out.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
