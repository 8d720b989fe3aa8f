"""The folder of a run: unfinished until it ends well, continued by the same plan, never at others' cost."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tuneport.errors import OutputError
from tuneport.output.workdir import workplace

PLAN = {"format": "test", "seed": 0, "sizes": (1, 2)}


def finish(out: Path) -> None:
    with workplace(out, PLAN) as folder:
        assert folder is not None
        (folder / "result").write_text("done")


class KilledError(Exception):
    """The run was killed at a counted call."""


def counted(real: Any, left: list[int]) -> Any:
    """The function, until there are no calls left: then the run is killed."""

    def call(*arguments: Any, **choices: Any) -> Any:
        if not left[0]:
            raise KilledError
        left[0] -= 1
        return real(*arguments, **choices)

    return call


def test_a_run_that_ends_well_leaves_its_folder_under_its_name(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    assert (tmp_path / "run" / "result").read_text() == "done"
    assert not (tmp_path / "run.partial").exists()


def test_a_run_that_was_done_before_is_not_done_again(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    with workplace(tmp_path / "run", PLAN) as folder:
        assert folder is None


def test_a_run_that_fails_looks_unfinished_and_the_same_plan_goes_on_from_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workplace(tmp_path / "run", PLAN) as folder:
        assert folder is not None
        (folder / "first").write_text("made")
        raise KeyboardInterrupt
    assert not (tmp_path / "run").exists()
    with workplace(tmp_path / "run", PLAN) as folder:
        assert folder is not None
        assert (folder / "first").read_text() == "made"


@pytest.mark.parametrize("name", ["run", "run.partial"])
def test_a_folder_with_other_content_is_refused_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="contains something else"), workplace(tmp_path / "run", PLAN):
        pass
    assert [path.name for path in (tmp_path / name).iterdir()] == ["thesis.txt"]


def test_another_plan_is_refused_and_the_field_that_differs_is_named(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    with (
        pytest.raises(OutputError, match=r"a different plan; differences:\n  - seed \(then 0, now 1\)"),
        workplace(tmp_path / "run", PLAN | {"seed": 1}),
    ):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_folder_without_a_name_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="not a valid name"), workplace(Path(name), PLAN):
        pass


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    finish(tmp_path / "run")
    assert (tmp_path / "run" / "result").exists()


def test_two_runs_at_once_into_the_same_place_are_one_too_many(tmp_path: Path) -> None:
    with (
        workplace(tmp_path / "run", PLAN),
        pytest.raises(OutputError, match=rf"in use by another run( \(process {os.getpid()}\))?\."),
        workplace(tmp_path / "run", PLAN),
    ):
        pass
    assert (tmp_path / "run").exists()


TUNED = {"format": "tuneport.tune/1", "seed": 0}
RECORD = "tune.json"


def tuned(out: Path, plan: dict[str, Any] = TUNED, result: str = "old") -> None:
    with workplace(out, plan, RECORD, overwrite=True) as folder:
        assert folder is not None
        (folder / "log.jsonl").write_text(result)
        (folder / RECORD).write_text(json.dumps({"plan": plan}))


def test_another_plans_folder_is_replaced_when_that_is_asked_for_and_the_new_one_is_whole(tmp_path: Path) -> None:
    out, other = tmp_path / "run", TUNED | {"seed": 1}
    tuned(out)
    with pytest.raises(KeyboardInterrupt), workplace(out, other, RECORD, overwrite=True) as folder:
        assert folder is not None
        raise KeyboardInterrupt
    assert (out / "log.jsonl").read_text() == "old"
    tuned(out, other, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name: path.read_text() for path in out.iterdir()}["log.jsonl"] == "new"
    with workplace(out, other, RECORD, overwrite=True) as folder:
        assert folder is None, "the same plan is done, and is not done again"


@pytest.mark.parametrize("what", ["another's folder", "a file", "a link to a folder of ours", "a stray in ours"])
def test_what_is_not_ours_is_replaced_by_no_flag(tmp_path: Path, what: str) -> None:
    out, mine = tmp_path / "run", tmp_path / "run" / "thesis.txt"
    match what:
        case "another's folder":
            out.mkdir()
            mine.write_text("mine")
        case "a file":
            out.write_text("mine")
        case "a link to a folder of ours":
            tuned(tmp_path / "elsewhere")
            out.symlink_to(tmp_path / "elsewhere")
        case _:
            tuned(out)
            mine.write_text("mine")
    before = {path.name: path.lstat().st_ino for path in tmp_path.rglob("*")}
    with (
        pytest.raises(OutputError, match="overwrite does not replace it"),
        workplace(out, TUNED | {"seed": 1}, RECORD, overwrite=True),
    ):
        pass
    assert {path.name: path.lstat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "mark", ["", "{}", "null", "[1]", '{"device": 1, "inode": 2}', '{"device": 1e999, "inode": 2}']
)
def test_a_mark_that_does_not_hold_the_folder_beside_it_proves_nothing(tmp_path: Path, mark: str) -> None:
    out, old = tmp_path / "run", tmp_path / "run.old"
    tuned(out)
    (out / ".replaces").write_text(mark)
    tuned(old)
    with workplace(out, TUNED, RECORD) as folder:
        assert folder is None
    assert (old / RECORD).exists()


def test_a_mark_that_holds_a_folder_of_somebody_else_removes_nothing(tmp_path: Path) -> None:
    out, old = tmp_path / "run", tmp_path / "run.old"
    tuned(out)
    old.mkdir()
    (old / "thesis.txt").write_text("mine")
    (out / ".replaces").write_text(json.dumps({"device": old.stat().st_dev, "inode": old.stat().st_ino}))
    with workplace(out, TUNED, RECORD) as folder:
        assert folder is None
    assert (old / "thesis.txt").exists()


def test_a_run_that_is_refused_removes_nothing(tmp_path: Path) -> None:
    out, old = tmp_path / "run", tmp_path / "run.old"
    tuned(out)
    tuned(old)
    (out / ".replaces").write_text(json.dumps({"device": old.stat().st_dev, "inode": old.stat().st_ino}))
    with pytest.raises(OutputError, match="a different plan"), workplace(out, TUNED | {"seed": 1}, RECORD):
        pass
    assert (old / RECORD).exists()
    with workplace(out, TUNED, RECORD) as folder:
        assert folder is None
    assert not old.exists() and not (out / ".replaces").exists()


@pytest.mark.parametrize("at", range(24))
def test_a_kill_between_the_renames_is_made_good_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    out, other = tmp_path / "run", TUNED | {"seed": 1}
    tuned(out)
    left = [at]

    with (
        monkeypatch.context() as patched,
        contextlib.suppress(KilledError),
        workplace(out, other, RECORD, overwrite=True) as folder,
    ):
        assert folder is not None
        (folder / RECORD).write_text(json.dumps({"plan": other}))
        (folder / "log.jsonl").write_text("new")
        for owner, name in ((Path, "rename"), (Path, "unlink"), (os, "open"), (os, "unlink"), (os, "rmdir")):
            patched.setattr(owner, name, counted(getattr(owner, name), left))
    assert any(
        (place / "log.jsonl").read_text() == "new" for place in tmp_path.iterdir() if (place / "log.jsonl").exists()
    )
    with workplace(out, other, RECORD, overwrite=True) as folder:
        if folder is not None:
            assert at < 2, "the plan was still there: the run itself goes on"
            (folder / RECORD).write_text(json.dumps({"plan": other}))
    assert (out / "log.jsonl").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in out.iterdir()} == {RECORD, "log.jsonl"}


# The plan, four files and three folders of checkpoints, and the name.
@pytest.mark.parametrize("at", range(9))
def test_what_only_an_unfinished_run_needs_is_all_there_until_the_result_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    out, left = tmp_path / "run", [at]
    needed = {"2/model", "2/whole", "4/model", "4/whole"}

    with (
        monkeypatch.context() as patched,
        pytest.raises(KilledError),
        workplace(out, TUNED, RECORD, on_the_way=["checkpoints"]) as folder,
    ):
        assert folder is not None
        for name in needed:
            (folder / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints" / name).touch()
        (folder / RECORD).write_text(json.dumps({"plan": TUNED}))
        for name in ("rename", "unlink", "rmdir"):
            patched.setattr(os, name, counted(getattr(os, name), left))
    with workplace(out, TUNED, RECORD, on_the_way=["checkpoints"]) as folder:
        assert (folder is None) == (at > 0), "once the plan has gone the run itself has nothing left to do"
        if folder is not None:
            there = (folder / "checkpoints").rglob("*")
            assert {str(path.relative_to(folder / "checkpoints")) for path in there if path.is_file()} == needed
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in out.iterdir()} == {RECORD}


def test_what_has_the_name_that_the_old_folder_needs_is_told(tmp_path: Path) -> None:
    tuned(tmp_path / "run")
    (tmp_path / "run.old").mkdir()
    with (
        pytest.raises(OutputError, match=r"run\.old exists, but"),
        workplace(tmp_path / "run", {}, RECORD, overwrite=True),
    ):
        pass
