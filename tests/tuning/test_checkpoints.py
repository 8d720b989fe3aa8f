"""Checkpoints on the way: the one that is gone on from has all of its files, wherever a run was killed before."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from tuneport.tuning.checkpoints import last_whole, mark_whole

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class KilledError(Exception):
    pass


def written(checkpoints: Path, step: int) -> None:
    """What a trainer writes before it says that it has saved."""
    folder = checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_text(str(step))


def names(checkpoints: Path) -> set[str]:
    return {path.name for path in checkpoints.iterdir()}


def killed_at(patched: pytest.MonkeyPatch, at: int) -> None:
    """From here on, the change of a file that follows ``at`` others is not made, and none after it."""
    left = [at]

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **choices: Any) -> Any:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            return real(*arguments, **choices)

        return call

    for owner, name in ((Path, "touch"), (os, "unlink"), (os, "rmdir")):
        patched.setattr(owner, name, counted(getattr(owner, name)))


def test_the_newest_and_the_one_before_stay_by_their_steps_whatever_their_times(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        written(tmp_path, step)
        mark_whole(tmp_path, step)
        os.utime(tmp_path / f"checkpoint-{step}", (2**31 - step, 2**31 - step))
    assert names(tmp_path) == {"checkpoint-10", "checkpoint-100"}
    assert last_whole(tmp_path) == tmp_path / "checkpoint-100"


def test_what_was_cut_short_is_removed_and_no_whole_one_is(tmp_path: Path) -> None:
    written(tmp_path, 2)
    mark_whole(tmp_path, 2)
    written(tmp_path, 4)
    assert last_whole(tmp_path) == tmp_path / "checkpoint-2"
    assert names(tmp_path) == {"checkpoint-2"}
    assert last_whole(tmp_path / "none yet") is None


# A mark and the removal of one checkpoint: the mark, four files, the folder.
@pytest.mark.parametrize("at", range(7))
def test_killed_at_any_change_while_an_older_one_goes_the_last_whole_one_has_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    for step in (2, 4):
        written(tmp_path, step)
        mark_whole(tmp_path, step)
    written(tmp_path, 6)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        killed_at(patched, at)
        mark_whole(tmp_path, 6)
    # Nor may a second kill find the half removed one, when those beside it are gone.
    for again in range(9):
        with monkeypatch.context() as patched:
            killed_at(patched, again)
            with contextlib.suppress(KilledError):
                last_whole(tmp_path)
        for folder in tmp_path.iterdir():
            assert not (folder / "whole").exists() or {path.name for path in folder.iterdir()} == {*FILES, "whole"}
    found = last_whole(tmp_path)
    assert found == tmp_path / ("checkpoint-4" if at == 0 else "checkpoint-6")
    assert all((path / "whole").exists() for path in tmp_path.iterdir())
