"""The folder of a run: unfinished until it ends well, continued by the same plan, never at others' cost."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tuneport.errors import OutputError
from tuneport.place import workplace

PLAN = {"format": "test", "seed": 0, "sizes": (1, 2)}


def finish(out: Path) -> None:
    with workplace(out, PLAN) as folder:
        assert folder is not None
        (folder / "result").write_text("done")


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
    with pytest.raises(OutputError, match="holds something else"), workplace(tmp_path / "run", PLAN):
        pass
    assert [path.name for path in (tmp_path / name).iterdir()] == ["thesis.txt"]


def test_another_plan_is_refused_and_the_field_that_differs_is_named(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    with (
        pytest.raises(OutputError, match=r"another plan; what differs:\n  - seed \(then 0, now 1\)"),
        workplace(tmp_path / "run", PLAN | {"seed": 1}),
    ):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_folder_without_a_name_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="no name of a folder"), workplace(Path(name), PLAN):
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


def test_another_plans_folder_is_replaced_when_that_is_asked_for_and_the_new_one_is_whole(tmp_path: Path) -> None:
    out, other = tmp_path / "run", PLAN | {"seed": 1}
    finish(out)
    (out / "thesis.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), workplace(out, other, overwrite=True) as folder:
        assert folder is not None
        raise KeyboardInterrupt
    assert (out / "thesis.txt").read_text() == "old"
    with workplace(out, other, overwrite=True) as folder:
        assert folder is not None
        (folder / "result").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in out.iterdir()} == {"plan.json", "result"}
    with workplace(out, other, overwrite=True) as folder:
        assert folder is None, "the same plan is done, and is not done again"


# Without a record nothing tells a whole folder before it is marked.
@pytest.mark.parametrize(("record", "renames"), [*((None, n) for n in (1, 2, 3)), *(("r.json", n) for n in range(4))])
def test_a_kill_between_the_renames_is_made_good_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str | None, renames: int
) -> None:
    out, other = tmp_path / "run", PLAN | {"seed": 1}
    finish(out)
    left = [renames]

    class KilledError(Exception):
        pass

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **choices: Any) -> Any:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            return real(*arguments, **choices)

        return call

    with (
        monkeypatch.context() as patched,
        pytest.raises(KilledError),
        workplace(out, other, record, overwrite=True) as folder,
    ):
        assert folder is not None
        if record:
            (folder / record).write_text(json.dumps({"plan": other}))
        (folder / "result").write_text("new")
        for owner, name in ((Path, "rename"), (Path, "touch"), (shutil, "rmtree")):
            patched.setattr(owner, name, counted(getattr(owner, name)))
    assert any((place / "result").exists() for place in tmp_path.iterdir())
    with workplace(out, other, record, overwrite=True) as folder:
        assert folder is None
    assert (out / "result").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert not (out / ".replaces").exists()


def test_what_has_the_name_that_the_old_folder_needs_is_told(tmp_path: Path) -> None:
    finish(tmp_path / "run")
    (tmp_path / "run.old").mkdir()
    with pytest.raises(OutputError, match=r"run\.old is in the way"), workplace(tmp_path / "run", {}, overwrite=True):
        pass
