"""Killed runs, second runs at the same place, and what is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tiny_scored

import tuneport
from tuneport.errors import OutputError
from tuneport.results.example_outcomes import Outcome, TaskResult
from tuneport.results.schema import EVALUATION_FORMAT
from tuneport.scoring import run
from tuneport.scoring.keeping import already_done, examples_file, keeping

RESULT = TaskResult("t", "exact_match", True, (Outcome("1", 1.0), Outcome("2", 0.0)))
SLOWLY = """
import sys, time
from tuneport.scoring import keeping, run
put = keeping.Kept.put
def slowly(self, *arguments):
    put(self, *arguments)
    print("kept", flush=True)
    time.sleep(60)
keeping.Kept.put = slowly
sys.__stdout__.flush()
import contextlib
run.quietly = contextlib.nullcontext
run.evaluate(sys.argv[1:3], [sys.argv[3]], sys.argv[4], max_new_tokens=4, device="cpu")
"""


def test_a_killed_run_leaves_nothing_that_looks_whole_and_goes_on_where_it_stopped(
    models: Path, towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.json"
    both = [str(models / "half"), str(models / "all")]
    with subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *both, str(towns), str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and b"kept" not in line:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.json.partial", "towns.jsonl"]
    loaded: list[str] = []
    load = run.load

    def counting(seat: run.Seat, *arguments: object) -> object:
        loaded.append(seat.name)
        return load(seat, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "load", counting)
    record = tuneport.evaluate(both, [towns], out, max_new_tokens=4, device="cpu")
    assert loaded == ["all"]
    whole = tuneport.evaluate(both, [towns], tmp_path / "unbroken.json", max_new_tokens=4, device="cpu")
    assert {k: v for k, v in record.items() if k != "examples"} == {k: v for k, v in whole.items() if k != "examples"}
    assert (tmp_path / "o.examples.jsonl").read_bytes() == (tmp_path / "unbroken.examples.jsonl").read_bytes()


def test_what_is_kept_of_another_plan_is_refused_with_the_field_or_thrown_away_when_overwriting(
    tmp_path: Path,
) -> None:
    out, plan = tmp_path / "o.json", {"format": EVALUATION_FORMAT}
    with keeping(out, plan | {"limit": 1}, overwrite=False) as kept:
        kept.put(0, 0, RESULT, ["warned"])
    with keeping(out, plan | {"limit": 1}, overwrite=False) as kept:
        assert kept.get(0, 0) == (RESULT, ["warned"])
        assert kept.get(0, 1) is None
    other = plan | {"limit": 2}
    with pytest.raises(OutputError, match=r"limit \(then 1, now 2\)"), keeping(out, other, overwrite=False):
        pass
    with keeping(out, other, overwrite=True) as kept:
        assert kept.get(0, 0) is None


@pytest.mark.parametrize(
    "plan", [None, {"format": EVALUATION_FORMAT, "limit": 1}, {"mine": 1}, {"format": EVALUATION_FORMAT}]
)
def test_what_lies_in_the_folder_and_is_of_no_run_stays(tmp_path: Path, plan: object) -> None:
    out, folder = tmp_path / "o.json", tmp_path / "o.json.partial"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "mine.txt").write_text("mine")
    if plan is not None:
        (folder / "plan.json").write_text(json.dumps(plan))
    with (
        pytest.raises(OutputError, match=r"Move them away|a different plan"),
        keeping(out, {"format": EVALUATION_FORMAT}, overwrite=True) as kept,
    ):
        kept.finish({}, iter([]))
    assert (folder / "notes" / "mine.txt").read_text() == "mine" and not out.exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    out, mine, plan = tmp_path / "o.json", tmp_path / "mine.txt", {"format": EVALUATION_FORMAT}
    mine.write_text("mine")
    with keeping(out, plan, overwrite=False) as kept:
        for name in ("examples.jsonl", "record.json.new", "000-000.json.new", "record.json"):
            (kept.folder / name).symlink_to(mine)
        kept.put(0, 0, RESULT, [])
        kept.finish({}, iter([{"a": 1}]))
    assert mine.read_text() == "mine" and json.loads(out.read_text())["plan"] == plan
    assert examples_file(out).read_text() == '{"a": 1}\n' and not examples_file(out).is_symlink()


def test_a_second_run_at_the_same_place_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    with keeping(out, {}, overwrite=False):
        lock = os.open(tmp_path / "o.json.partial", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        with pytest.raises(OutputError, match="in use by another run"), keeping(out, {}, overwrite=False):
            pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_no_record_is_never_touched_by_no_flag(tmp_path: Path, overwrite: bool) -> None:
    out, record = tmp_path / "o.json", json.dumps({"plan": {"format": EVALUATION_FORMAT}})
    for content in ("my notes", json.dumps([1]), json.dumps({"no": "plan"}), json.dumps({"plan": {"format": "x"}})):
        out.write_text(content)
        with pytest.raises(OutputError, match="is not a record of an evaluation"):
            already_done(out, {}, overwrite)
        assert out.read_text() == content
    with pytest.raises(OutputError, match="is a folder"):
        already_done(tmp_path, {}, overwrite)
    out.unlink()
    (tmp_path / "record").write_text(record)
    out.symlink_to(tmp_path / "record")
    with pytest.raises(OutputError, match="is not a record of an evaluation"):
        already_done(out, {}, overwrite)
    out.unlink()
    os.mkfifo(out)
    with pytest.raises(OutputError, match="is not a record of an evaluation"):
        already_done(out, {}, overwrite)
    out.unlink()
    examples_file(out).write_text("my own lines")
    with pytest.raises(OutputError, match=r"o\.examples\.jsonl exists"):
        already_done(out, {}, overwrite)


def test_a_kill_between_the_two_renames_is_made_good(tmp_path: Path) -> None:
    out, plan = tmp_path / "o.json", {"format": EVALUATION_FORMAT}
    with keeping(out, plan, overwrite=False) as kept:
        (kept.folder / "record.json").write_text(json.dumps({"plan": plan}))
        examples_file(out).write_text("{}\n")
    assert already_done(out, plan, overwrite=False) is None
    with keeping(out, plan, overwrite=False) as kept:
        kept.finish({}, iter([{"a": 1}]))
    assert json.loads(examples_file(out).read_text()) == {"a": 1}
    assert already_done(out, plan, overwrite=True) is None


@pytest.mark.parametrize("left", [{}, {"000-000.json": "{}"}, {"plan.json": json.dumps({"format": EVALUATION_FORMAT})}])
def test_what_a_kill_at_the_very_end_left_goes_when_the_run_is_done(left: dict[str, str], tmp_path: Path) -> None:
    out, plan = tmp_path / "o.json", {"format": EVALUATION_FORMAT}
    with keeping(out, plan, overwrite=False) as kept:
        kept.finish({}, iter([]))
    folder = tmp_path / "o.json.partial"
    folder.mkdir()
    for name, content in left.items():
        (folder / name).write_text(content)
    assert already_done(out, plan, overwrite=False) is not None and not folder.exists()
    for name, content in {"mine.txt": "x", "plan.json": json.dumps({"format": EVALUATION_FORMAT, "limit": 1})}.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        assert already_done(out, plan, overwrite=False) is not None and (folder / name).exists()
        (folder / "mine.txt").unlink(missing_ok=True)


def test_records_whose_names_differ_after_a_point_do_not_share_their_examples(tmp_path: Path) -> None:
    names = {
        "o.json": "o.examples.jsonl",
        "o": "o.examples.jsonl",
        "o.txt": "o.txt.examples.jsonl",
        "line-0.4": "line-0.4.examples.jsonl",
        "line-0.3": "line-0.3.examples.jsonl",
        "line-0.3.json": "line-0.3.examples.jsonl",
    }
    assert {name: examples_file(tmp_path / name).name for name in names} == names
    for alpha in ("0.3", "0.4"):
        with keeping(tmp_path / f"line-{alpha}", {}, overwrite=False) as kept:
            kept.finish({}, iter([{"alpha": alpha}]))
    assert json.loads((tmp_path / "line-0.3.examples.jsonl").read_text()) == {"alpha": "0.3"}
    assert json.loads((tmp_path / "line-0.4.examples.jsonl").read_text()) == {"alpha": "0.4"}


def test_a_model_that_was_trained_on_is_another_model(models: Path, towns: Path, tmp_path: Path) -> None:
    mine = tiny_scored.copy_model(models / "half", tmp_path / "mine")
    out = tmp_path / "o.json"
    tuneport.evaluate([mine], [towns], out, max_new_tokens=4, device="cpu")
    time.sleep(0.01)
    (mine / "model.safetensors").write_bytes((models / "all" / "model.safetensors").read_bytes())
    with pytest.raises(OutputError, match="model"):
        tuneport.evaluate([mine], [towns], out, max_new_tokens=4, device="cpu")
