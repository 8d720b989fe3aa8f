"""The place to write to: too small, filling up, read-only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.killed_runs import SHARDS, assert_nothing_looks_complete, assert_told


def test_a_disk_too_small_is_told_before_the_first_weight_is_written(
    drive: Drive, tmpfs: Path, large: tiny.Trio
) -> None:
    (tmpfs / "filler").write_bytes(bytes(12 * 2**20))
    ran = drive(large.flags(tmpfs / "out"))
    assert_told(ran, "bytes free", "--out")
    assert not (tmpfs / "out").exists()


@pytest.mark.parametrize("call", ["pwrite", "write"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_disk_that_fills_up_stops_in_words_and_the_same_command_goes_on(
    drive: Drive,
    tmpfs: Path,
    large: tiny.Trio,
    unbroken: tuple[dict[str, Any], dict[str, int]],
    call: str,
    share: float,
) -> None:
    whole, counts = unbroken
    before = [tiny.contents(path) for path in large.paths]
    argv = large.flags(tmpfs / "out", "--workers", "2")
    ran = drive(argv, call=call, at=round(share * counts[call]), do="fill", path=str(tmpfs / "filler"))
    assert_told(ran, "No space left")
    assert not (tmpfs / "out").exists()
    (tmpfs / "filler").unlink()
    assert drive(argv).status == 0
    assert tiny.outcome(tmpfs / "out") == whole
    assert [tiny.contents(path) for path in large.paths] == before


def test_a_disk_that_fills_up_while_the_small_files_are_written(
    drive: Drive, tmpfs: Path, large: tiny.Trio, unbroken: tuple[dict[str, Any], dict[str, int]]
) -> None:
    whole, counts = unbroken
    argv = large.flags(tmpfs / "out", "--workers", "1")
    for back in range(1, 9):
        shutil.rmtree(tmpfs / "out", ignore_errors=True)
        fault = {"under": str(tmpfs / "out"), "call": "change", "at": counts["change"] - back, "do": "fill"}
        ran = drive(argv, **fault, path=str(tmpfs / "filler"))
        if ran.status:
            assert_told(ran)
            assert not (tmpfs / "out").exists()
            assert_nothing_looks_complete(tmpfs / "out", whole)
        (tmpfs / "filler").unlink(missing_ok=True)
        assert drive(argv).status == 0
        assert tiny.outcome(tmpfs / "out") == whole


def test_a_read_only_place_is_told_in_words(drive: Drive, tmp_path: Path, tmpfs: Path, small: tiny.Trio) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    assert_told(drive(small.flags(tmpfs / "out")), "Read-only file system")


def test_a_place_made_read_only_while_running_keeps_what_is_done(drive: Drive, tmpfs: Path, small: tiny.Trio) -> None:
    argv = small.flags(tmpfs / "out", *SHARDS)
    drive(argv, call="pwrite", at=6, do="kill")
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    assert_told(drive(argv), "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(tmpfs)], check=True)
    assert drive(argv).status == 0
    tiny.assert_same(tiny.read_weights(tmpfs / "out"), tiny.expected(small))
