"""Measures how much each command computes before its first word, on tiny models, and writes ``docs/results/first-words.json``.

    python -m experiments.trials.first_words

Each command runs in a process of its own, its output read as it comes: what it prints first, and the CPU seconds until then and in
all, which on a machine with nothing else to do are the seconds on the clock. Imports are what is measured, not the work: the
models are those of the tests, of a few thousand parameters. Linux only.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "first-words.json"
sys.path.insert(0, str(ROOT / "tests"))

from support import tiny_checkpoints, tiny_scored, tiny_tuning  # noqa: E402  (found by the line above)
from support.made_up_results import MadeUp  # noqa: E402
from support.tiny_study import write_study  # noqa: E402

LONGEST = 160  # letters kept of a first line


def commands(folder: Path) -> dict[str, list[str]]:
    """Each command, with models and data of its own in ``folder``."""
    trio = tiny_checkpoints.trio(folder / "trio")
    parents = ["--base", str(trio.base), "--tuned", str(trio.tuned)]
    onto = ["--onto", str(trio.target)]
    scored = tiny_scored.make_model(folder / "scored", known=4)
    questions = tiny_scored.write_rows(folder / "test.jsonl", tiny_scored.rows())
    start = tiny_tuning.base_model(folder / "start")
    sums = tiny_tuning.write_rows(folder / "sums.jsonl", tiny_tuning.sums())
    made_up = MadeUp(folder / "made-up", families=(0,)).write()
    return {
        "--help": ["--help"],
        "inspect": ["inspect", str(trio.tuned)],
        "transfer --dry-run": ["transfer", *parents, *onto, "--out", str(folder / "t"), "--dry-run"],
        "transfer": ["transfer", *parents, *onto, "--out", str(folder / "t")],
        "diff": ["diff", *parents, "--out", str(folder / "d")],
        "apply": ["apply", str(folder / "d"), *onto, "--out", str(folder / "a")],
        "verify": ["verify", str(folder / "t")],
        "evaluate": [
            "evaluate",
            str(scored),
            "--tasks",
            str(questions),
            "--max-new-tokens",
            "8",
            "--out",
            str(folder / "e.json"),
        ],
        "tune": ["tune", str(start), "--data", str(sums), "--steps", "2", "--out", str(folder / "tuned")],
        "study --dry-run": [
            "study",
            str(write_study(folder / "study-models")),
            "--out",
            str(folder / "s"),
            "--dry-run",
        ],
        "report": ["report", str(made_up)],
    }


def measured(arguments: list[str]) -> dict[str, Any]:
    """The first line on either stream, the CPU seconds until it began and in all, and the status."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-m", "tuneport", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        said, first, streams = b"", None, [process.stdout, process.stderr]
        while streams:
            for stream in select.select(streams, [], [])[0]:
                content = os.read(stream.fileno(), 65536)
                if not content:
                    streams.remove(stream)
                elif not said.strip():
                    said += content
                    first = _computed(process.pid) if said.strip() else None
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    line = next((line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()), "")
    shown = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    seconds = round(used.ru_utime + used.ru_stime, 2)
    return {"first": shown, "to_first": first, "seconds": seconds, "status": process.returncode}


def _computed(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


def main() -> int:
    """Measure, write, and say where it lies."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        found = {}
        for name, arguments in commands(folder).items():
            told = measured(arguments)
            found[name] = {**told, "first": told["first"].replace(f"{folder}/", "")}
            print(f"{name}: {found[name]}", flush=True)
    told = {"commands": found}
    RESULTS.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(RESULTS)
    return 1 if any(each["status"] for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
