"""OLMES is called where it is installed, and missed in words where it is not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import tuneport
from tuneport.errors import ScoringError, UsageError
from tuneport.scoring import olmes
from tuneport.scoring.suites import TULU3

# A program in OLMES' place: it keeps what it was called with, and leaves the file that OLMES leaves.
PROGRAM = """#!{python}
import json, pathlib, sys
arguments = sys.argv[1:]
tasks = arguments[arguments.index("--task") + 1 : arguments.index("--output-dir")]
out = pathlib.Path(arguments[arguments.index("--output-dir") + 1])
if "broken" in arguments[1]:
    print("CUDA out of memory", file=sys.stderr)
    sys.exit(3)
out.mkdir(parents=True)
found = [
    {{"alias": task, "metrics": {{"primary_score": 0.5}}, "num_instances": 7, "task_config": {{"primary_metric": "em"}}}}
    for task in tasks
]
(out / "metrics.json").write_text(json.dumps({{"all_primary_scores": [], "tasks": found}}))
pathlib.Path({log!r}).write_text(json.dumps(arguments))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The call's arguments are written here."""
    log = tmp_path / "called.json"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "olmes"
    program.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return log


def test_without_olmes_there_are_words(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="`olmes` is not installed"):
        tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="tulu3", backend="olmes")


def test_olmes_values_stand_in_the_record_without_intervals_and_comparisons(
    models: Path, tmp_path: Path, installed: Path
) -> None:
    both = [models / "half", models / "all"]
    record = tuneport.evaluate(both, [], tmp_path / "o.json", suite="tulu3", backend="olmes", batch_size=4)
    called = json.loads(installed.read_text())
    assert called[:2] == ["--model", str(models / "all")]
    assert called[called.index("--task") + 1 : called.index("--output-dir")] == list(olmes.TULU3.values())
    assert set(olmes.TULU3) <= {task.title for task in TULU3.tasks}
    found = record["models"][1]["tasks"]["GSM8K"]
    assert (found["value"], found["n"], found["interval"], found["metric"]) == (0.5, 7, None, "em")
    assert record["comparisons"] == []
    assert not list(tmp_path.glob("*.partial"))


def test_a_failure_of_olmes_is_told_with_its_last_words(models: Path, tmp_path: Path, installed: Path) -> None:
    broken = tmp_path / "broken"
    broken.symlink_to(models / "all")
    with pytest.raises(ScoringError, match=r"status 3: .*CUDA out of memory"):
        tuneport.evaluate([broken], ["gsm8k::tulu"], tmp_path / "o.json", backend="olmes")
    assert not installed.exists()
    with pytest.raises(UsageError, match="must be tulu3"):
        tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="llama3", backend="olmes")
