"""Score with OLMES, which the paper used for OLMo and Tülu: call its command line and read its metrics file.

Values have no examples and so no intervals. Never run against OLMES itself here: the call and the file follow its
documentation and its users' scripts.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, ScoringError, UsageError, named
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_text
from tuneport.results.example_outcomes import TaskResult
from tuneport.scoring.models import Loading, Seat

# What OLMES calls the rows of Table 10. The others are in no suite of OLMES that we know of.
TULU3: Mapping[str, str] = {
    "GSM8K": "gsm8k::tulu",
    "MATH": "minerva_math::tulu",
    "ARC-C": "arc_challenge:mc::olmes",
    "GPQA": "gpqa:0shot_cot::tulu3",
    "MMLU": "mmlu:0shot_cot::tulu3",
    "IFEval": "ifeval::tulu",
}


def find_program() -> str:
    """Where OLMES' command is. Raises `UsageError` where it is not installed."""
    found = shutil.which("olmes")
    if found is None:
        remedy = (
            "Install OLMES in a separate environment (see its README) and put it on the PATH, or use the backend hf"
        )
        raise UsageError(Fault("backend", "olmes", "the command `olmes` is not installed", remedy))
    return found


def names_of(suite: str | None, tasks: Sequence[str]) -> dict[str, str]:
    """OLMES' task names by the names in the record. Raises `UsageError` for a suite that OLMES does not have."""
    if suite not in (None, "tulu3"):
        raise UsageError(Fault("suite", suite, f"with {named('backend')} olmes must be tulu3"))
    return {**(TULU3 if suite else {}), **{task: task for task in tasks}}


def ask(program: str, seat: Seat, tasks: Mapping[str, str], loading: Loading, folder: Path) -> list[TaskResult]:
    """Score one model on all tasks. Raises `ScoringError` with the end of OLMES' own words where it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [program, "--model", seat.source, "--task", *tasks.values(), "--output-dir", str(folder)]
    if seat.revision is not None:
        command += ["--revision", seat.revision]
    if str(loading.batch_size).isdigit():
        command += ["--batch-size", str(loading.batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        last = " ".join(done.stderr.split())[-300:] or "it printed nothing"
        raise ScoringError(f"model {seat.name}: OLMES ended with status {done.returncode}: …{last}")
    try:
        told = read_json(read_text(folder / "metrics.json", folder))
        by_alias = {str(task["alias"]): task for task in told["tasks"]}
        return [_result(name, by_alias[alias]) for name, alias in tasks.items()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoringError(
            f"model {seat.name}: OLMES wrote no readable metrics.json ({type(error).__name__}: {error})."
        ) from error


def _result(name: str, task: Mapping[str, Any]) -> TaskResult:
    config = task.get("task_config") or {}
    summary = {"value": float(task["metrics"]["primary_score"]), "stderr": None, "n": task.get("num_instances")}
    metric = str(config.get("primary_metric", "primary_score"))
    return TaskResult(name, metric, True, (), {}, summary, config.get("num_shots"), None, None)
