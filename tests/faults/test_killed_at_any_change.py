"""Killed before any change of a file: nothing looks complete that is not, and the same command goes on to the same bytes.

Each kill comes at a counted call inside the process (fault_driver.py), so that no test waits for a moment to come.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.killed_runs import KILLED, SHARDS, assert_nothing_looks_complete, assert_only, changes

pytestmark = pytest.mark.slow


def test_killed_before_any_change_of_a_file_the_same_command_goes_on_to_the_same_bytes(
    drive: Drive, tmp_path: Path, small: tiny.Trio
) -> None:
    under, before = tmp_path / "at", tiny.contents(tmp_path / "in")
    argv = small.flags(under / "out", *SHARDS)
    number = changes(drive, argv, under)
    whole = tiny.outcome(under / "out")
    tiny.assert_same(tiny.read_weights(under / "out"), tiny.expected(small))
    assert number > 30, "the driver counts the calls"
    for at in range(1, number + 1):
        shutil.rmtree(under)
        under.mkdir()
        assert drive(argv, under=str(under), call="change", at=at, do="kill").status == KILLED
        assert_nothing_looks_complete(under / "out", whole)
        again = drive(argv)
        assert again.status == 0, (at, again.err)
        assert tiny.outcome(under / "out") == whole, at
        assert_only(under, "out")
    assert tiny.contents(tmp_path / "in") == before


def test_killed_before_any_change_of_an_overwriting_run_one_whole_folder_is_always_there(
    drive: Drive, tmp_path: Path, small: tiny.Trio
) -> None:
    under, before = tmp_path / "at", tiny.contents(tmp_path / "in")
    old_argv, argv = small.flags(under / "out", "--scale", "2"), small.flags(under / "out", *SHARDS, "--overwrite")
    assert drive(old_argv).status == 0
    shutil.copytree(under, tmp_path / "kept")
    old = tiny.outcome(under / "out")
    number = changes(drive, argv, under)
    whole = tiny.outcome(under / "out")
    assert_only(under, "out")
    assert number > 40 and old["tuneport.json"] != whole["tuneport.json"]
    seen = set()
    for at in range(1, number + 1):
        shutil.rmtree(under)
        shutil.copytree(tmp_path / "kept", under)
        assert drive(argv, under=str(under), call="change", at=at, do="kill").status == KILLED
        seen.add(frozenset(path.name for path in under.iterdir()))
        if (under / "out").exists():
            found = {**tiny.outcome(under / "out"), ".replaces": None}
            assert found in ({**old, ".replaces": None}, {**whole, ".replaces": None})
        else:
            assert tiny.outcome(under / "out.old") == old, (
                "between the renames the old folder waits under its other name"
            )
        again = drive(argv)
        assert again.status == 0, (at, again.err)
        assert tiny.outcome(under / "out") == whole, at
        assert_only(under, "out")
    assert {frozenset({"out.old", "out.partial"}), frozenset({"out", "out.old"})} <= seen, (
        "kills fell between the renames"
    )
    assert tiny.contents(tmp_path / "in") == before


def test_between_the_renames_of_overwrite_any_later_run_repairs(drive: Drive, tmp_path: Path, small: tiny.Trio) -> None:
    under = tmp_path / "at"
    assert drive(small.flags(under / "out", "--scale", "2")).status == 0
    argv = small.flags(under / "out", *SHARDS)
    shutil.copytree(under, tmp_path / "kept")
    number = changes(drive, [*argv, "--overwrite"], under)
    whole = tiny.outcome(under / "out")
    for at in range(1, number + 1):
        shutil.rmtree(under)
        shutil.copytree(tmp_path / "kept", under)
        drive([*argv, "--overwrite"], under=str(under), call="change", at=at, do="kill")
        if not (under / "out").exists():
            break
    else:
        raise AssertionError("no kill fell between the renames")
    assert drive(argv).status == 0, "the repaired folder is already done, without --overwrite"
    assert tiny.outcome(under / "out") == whole
    assert_only(under, "out")


def test_killed_before_any_change_a_diff_vector_is_taken_up_again(
    drive: Drive, tmp_path: Path, small: tiny.Trio
) -> None:
    under = tmp_path / "at"
    argv = ["diff", "--base", str(small.base), "--tuned", str(small.tuned), "--out", str(under / "out"), *SHARDS]
    number = changes(drive, argv, under)
    whole = tiny.outcome(under / "out")
    for at in range(1, number + 1, 3):
        shutil.rmtree(under)
        under.mkdir()
        assert drive(argv, under=str(under), call="change", at=at, do="kill").status == KILLED
        assert not (under / "out").exists() or tiny.outcome(under / "out") == whole
        assert drive(argv).status == 0
        assert tiny.outcome(under / "out") == whole


def test_killed_before_any_change_a_transfer_with_an_adapter_is_taken_up_again(
    drive: Drive, tmp_path: Path, small: tiny.Trio
) -> None:
    adapter, under = tiny.write_lora(tmp_path / "adapter", small.tensors["base"], rank=3), tmp_path / "at"
    argv = [str(adapter) if part == str(small.tuned) else part for part in small.flags(under / "out", *SHARDS)]
    number = changes(drive, argv, under)
    whole = tiny.outcome(under / "out")
    for at in range(1, number + 1, 3):
        shutil.rmtree(under)
        under.mkdir()
        assert drive(argv, under=str(under), call="change", at=at, do="kill").status == KILLED
        assert not (under / "out").exists() or tiny.outcome(under / "out") == whole
        assert drive(argv).status == 0
        assert tiny.outcome(under / "out") == whole
