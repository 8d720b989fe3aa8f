"""A study from its file to its results: done once, taken up after kills, gone on with after failures."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.broken_disks import Drive
from support.command_results import Cli
from support.tiny_study import what_repeats, write_study

import tuneport
from tuneport.errors import OutputError, UsageError
from tuneport.studies.run.describe import rehearse
from tuneport.studies.run.run import StudyOutcome
from tuneport.studies.run.store_at import open_store

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    told = tuneport.study(file, out)
    assert (told["steps"], told["done_now"], told["failed"]) == (30, 30, [])
    return out


def record_of(out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    for path in out.glob("steps/*/record.json"):
        record = json.loads(path.read_text())
        if record["name"] == name:
            return path, record
    raise AssertionError(f"no record of {name}")


def test_every_step_leaves_a_record_and_the_results_know_it(file: Path, whole: Path) -> None:
    results = json.loads((whole / "results.json").read_text())
    assert {step["outcome"] for step in results["steps"]} == {"done"}
    assert [len(results["distances"]), len(results["steps"])] == [6, 30]
    assert (whole / "study.toml").read_text() == file.read_text()
    for step in results["steps"]:
        record = json.loads((whole / "steps" / step["folder"] / "record.json").read_text())
        assert (record["format"], record["identity"]) == ("tuneport.record/1", step["identity"])
        assert str(whole) not in json.dumps(record)
        assert str(file.parent) not in json.dumps(record)


def test_what_is_done_is_not_done_again(file: Path, whole: Path, cli: Cli) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("steps/**/*")}
    ran = cli("study", file, "--out", whole, "--json")
    assert (ran.status, ran.json()["already_done"], ran.json()["done_now"]) == (0, True, 0)
    assert {path: path.stat().st_mtime_ns for path in whole.glob("steps/**/*")} == before


def test_the_command_in_a_record_does_the_same_by_hand(file: Path, whole: Path, tmp_path: Path, forked: Cli) -> None:
    path, record = record_of(whole, "transfer M3 + 0.5·Δ(M1)")
    for model in ("M1", "FT1", "M3"):
        shutil.copytree(file.parent / model, tmp_path / model)
    (tmp_path / path.parent.relative_to(whole)).mkdir(parents=True)
    program, *arguments = __import__("shlex").split(record["command"])
    assert program == "tuneport"
    assert forked(*arguments, cwd=tmp_path).status == 0
    made = tmp_path / path.parent.relative_to(whole) / "model" / "model.safetensors"
    assert made.read_bytes() == (path.parent / "model" / "model.safetensors").read_bytes()


def argv(file: Path, out: Path, jobs: int = 1) -> list[str]:
    return ["study", str(file), "--out", str(out), "--jobs", str(jobs)]


def test_killed_ten_times_a_study_ends_with_the_records_of_an_unbroken_run(
    file: Path, whole: Path, tmp_path: Path, drive: Drive
) -> None:
    out, counts, chance = tmp_path / "out", tmp_path / "counts.json", random.Random(0)
    far = []  # changes of files in an unbroken run's first process, by one job and by two
    for jobs in (1, 2):
        place = tmp_path / f"by-{jobs}"
        assert drive(argv(file, place, jobs), under=str(place), counts=str(counts)).status == 0
        far.append(json.loads(counts.read_text())["change"])
    kept = []
    for number in range(10):
        at = chance.randint(1, far[number % 2] // 11)  # ten of them do not reach the end
        fault = {"under": str(out), "call": "change", "at": at, "do": "kill"}
        assert drive(argv(file, out, 1 + number % 2), **fault).status == KILLED
        kept.append(len(list(out.glob("steps/*/record.json"))))
    assert kept == sorted(kept) and 0 < kept[-1] < 30, kept
    told = tuneport.study(file, out)
    assert (told["already_done"], told["done_now"], told["failed"]) == (False, 30 - kept[-1], [])
    assert what_repeats(out) == what_repeats(whole)
    left = [path.name for path in out.rglob("*") if path.name.endswith((".partial", ".new", ".old"))]
    assert left == []


@pytest.mark.parametrize(("jobs", "at"), [(1, 100), (2, 15)])  # with two, others do most changes of files
def test_a_scheduler_that_ends_a_study_is_told_that_it_goes_on(
    file: Path, whole: Path, tmp_path: Path, drive: Drive, jobs: int, at: int
) -> None:
    out = tmp_path / "out"
    ended = drive(argv(file, out, jobs), under=str(out), call="change", at=at, do="terminate")
    assert ended.status == 1
    assert ended.err == "tuneport: Stopped. Run the same command again to resume.\n"
    assert len(list(out.glob("steps/*/record.json"))) < 30
    assert tuneport.study(file, out)["failed"] == []
    assert what_repeats(out) == what_repeats(whole)


@pytest.mark.parametrize("at", [1, 10, 200, 400, 800])
def test_a_full_disk_ends_in_words_and_the_study_goes_on_when_there_is_room(
    file: Path, whole: Path, tmpfs: Path, drive: Drive, at: int
) -> None:
    out, filler = tmpfs / "out", tmpfs / "filler"
    ended = drive(argv(file, out), under=str(out), call="change", at=at, do="fill", path=str(filler))
    assert ended.status == 1
    assert "No space left on device" in ended.out + ended.err
    assert "Traceback" not in ended.err
    filler.unlink()
    assert tuneport.study(file, out)["failed"] == []
    assert what_repeats(out) == what_repeats(whole)


def test_a_failed_step_leaves_its_error_and_what_does_not_depend_on_it_goes_on(
    file: Path, whole: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(file.parent, folder)
    config = json.loads((folder / "M2" / "config.json").read_text())
    (folder / "M2" / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    ran = cli("study", folder / "study.toml", "--out", tmp_path / "out")
    assert ran.status == 1
    assert "failed: transfer M2 + Δ(M1)" in ran.out
    assert "Fix the problem and run the command again" in ran.out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    outcomes = {step["name"]: step["outcome"] for step in results["steps"]}
    assert all(outcomes[name] == "failed" for name in outcomes if "M2" in name and name.startswith("transfer"))
    assert all(outcomes[name] == "done" for name in outcomes if "M2" not in name)
    _, record = record_of(tmp_path / "out", "transfer M2 + Δ(M1)")
    assert "llama" in record["error"] and "gpt2" in record["error"]
    shutil.copyfile(file.parent / "M2" / "config.json", folder / "M2" / "config.json")
    again = tuneport.study(folder / "study.toml", tmp_path / "out")
    assert again["failed"] == []
    found, wanted = what_repeats(tmp_path / "out"), what_repeats(whole)
    assert {name: found[name] for name in wanted} == wanted, "with M2 as it was; what failed with the other one stays"


def test_a_step_whose_inputs_changed_is_done_again_and_no_other(file: Path, whole: Path, tmp_path: Path) -> None:
    from support.tiny_study import _write_model

    folder, out = tmp_path / "models", tmp_path / "out"
    shutil.copytree(file.parent, folder)
    shutil.copytree(whole, out)
    _write_model(folder / "FT4", 99, None)
    told = tuneport.study(folder / "study.toml", out)
    assert told["done_now"] == 6 + 3, "Δ4 on three versions at two scales, and three distances"


def test_a_second_run_says_who_holds_the_folder(file: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    with store.locked(), pytest.raises(OutputError, match=rf"in use by process {os.getpid()} on .*, since "):
        tuneport.study(file, tmp_path / "out")
    assert tuneport.study(file, tmp_path / "out")["failed"] == []


def test_only_what_is_asked_for_is_done_with_what_it_stands_on(file: Path, tmp_path: Path) -> None:
    told = tuneport.study(file, tmp_path / "out", only=["distance M1 – M2", "M2 + Δ(M1)"])
    assert told["done_now"] == 2
    assert tuneport.study(file, tmp_path / "out")["done_now"] == 28


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"engine": "slurm"}, "engine='slurm'"),
        ({"jobs": 0}, "jobs=0"),
        ({"jobs": True}, "jobs=True"),
        ({"ray_address": "head:6379"}, "ray_address='head:6379': engine local does not use a cluster"),
    ],
)
def test_wrong_usage_is_told(file: Path, tmp_path: Path, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tuneport.study(file, tmp_path / "out", **choices)
    assert not (tmp_path / "out").exists()


def test_another_studys_folder_is_not_taken_over(tmp_path: Path) -> None:
    file = write_study(tmp_path / "models")
    out = tmp_path / "out"
    tuneport.study(file, out)
    before = (out / "results.json").read_bytes()
    file.write_text(file.read_text().replace('name = "', 'name = "other ', 1))
    for go in (tuneport.study, rehearse):
        with pytest.raises(OutputError, match=r"out contains the study .*, but this file declares 'other "):
            go(file, out)
    assert (out / "results.json").read_bytes() == before
    (out / "study.toml").unlink()
    assert tuneport.study(file, out)["already_done"], "the same study under another name"


def test_an_outcome_in_one_line_says_why_the_first_step_failed() -> None:
    failed = [{"name": "evaluate M1", "error": "no such task\nand more"}]
    shown = repr(StudyOutcome({"study": "three", "done": 19, "steps": 20, "failed": failed}))
    assert shown == "<three: 19 of 20 steps done, 1 failed (evaluate M1: no such task)>"
