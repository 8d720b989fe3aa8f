"""Other processes, and the person at the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import DRIVER, Drive
from support.killed_runs import SHARDS, assert_only, assert_told


def start(argv: list[str], **fault: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), json.dumps({"argv": argv, **fault})],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_second_run_into_the_same_place_stops_and_says_who_holds_it(
    drive: Drive, tmp_path: Path, small: tiny.Trio
) -> None:
    argv = small.flags(tmp_path / "at" / "out", *SHARDS)
    first = start(argv, call="pwrite", at=5, do="wait")
    assert first.stdout is not None and first.stdout.readline() == "reached\n"
    for other in (argv, small.flags(tmp_path / "at" / "out", "--scale", "2"), [*argv, "--overwrite"]):
        assert_told(drive(other), "out.partial is in use by process", str(first.pid))
    out, err = first.communicate("go on\n", timeout=60)
    assert first.returncode == 0, err
    assert "done" in out
    tiny.assert_same(tiny.read_weights(tmp_path / "at" / "out"), tiny.expected(small))
    assert_only(tmp_path / "at", "out")


def test_a_lock_does_not_outlive_its_process(drive: Drive, tmp_path: Path, small: tiny.Trio) -> None:
    argv = small.flags(tmp_path / "at" / "out", *SHARDS)
    first = start(argv, call="pwrite", at=5, do="wait")
    assert first.stdout is not None and first.stdout.readline() == "reached\n"
    first.kill()
    first.communicate(timeout=60)
    assert drive(argv).status == 0


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupted_terminal_ends_with_one_line_and_can_be_taken_up(
    drive: Drive,
    tmp_path: Path,
    large: tiny.Trio,
    unbroken: tuple[dict[str, Any], dict[str, int]],
    share: float,
    workers: str,
) -> None:
    whole, counts = unbroken
    argv = large.flags(tmp_path / "out", "--workers", workers)
    ran = drive(argv, call="pwrite", at=round(share * counts["pwrite"]), do="interrupt")
    assert_told(ran, "to resume")
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert drive(argv).status == 0
    assert tiny.outcome(tmp_path / "out") == whole


def test_a_file_that_vanishes_beside_the_weights_ends_in_words(drive: Drive, tmp_path: Path, small: tiny.Trio) -> None:
    (small.target / "LICENSE").write_text("terms")
    argv = small.flags(tmp_path / "at" / "out", *SHARDS)
    ran = drive(argv, call="pwrite", at=5, do="unlink", path=str(small.target / "LICENSE"))
    assert_told(ran, "LICENSE")
    assert not (tmp_path / "at" / "out").exists()
    (small.target / "LICENSE").write_text("terms")
    assert drive(argv).status == 0
    assert (tmp_path / "at" / "out" / "LICENSE").read_text() == "terms"
