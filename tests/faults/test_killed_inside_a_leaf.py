"""Killed inside a leaf or a line of the journal, and what becomes of an unfinished folder until the next run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.killed_runs import KILLED, SHARDS, assert_nothing_looks_complete, assert_told


@pytest.mark.parametrize("call", ["pwrite", "write"])
@pytest.mark.parametrize("do", ["kill", "tear"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.75, 1.0])
def test_killed_inside_a_leaf_or_inside_a_line_of_the_journal(
    drive: Drive,
    tmp_path: Path,
    large: tiny.Trio,
    unbroken: tuple[dict[str, Any], dict[str, int]],
    call: str,
    do: str,
    share: float,
) -> None:
    whole, counts = unbroken
    assert counts["pwrite"] > 16 and counts["write"] > 8
    at = max(1, round(share * counts[call]))
    argv = large.flags(tmp_path / "out")
    assert drive([*argv, "--workers", "1"], call=call, at=at, do=do).status == KILLED
    assert_nothing_looks_complete(tmp_path / "out", whole)
    assert drive([*argv, "--workers", "2"]).status == 0
    assert tiny.outcome(tmp_path / "out") == whole


def test_what_a_killed_run_finished_is_not_computed_again(
    drive: Drive, tmp_path: Path, large: tiny.Trio, unbroken: tuple[dict[str, Any], dict[str, int]]
) -> None:
    _, counts = unbroken
    argv = large.flags(tmp_path / "out", "--workers", "1")
    drive(argv, call="write", at=counts["write"], do="kill")
    assert drive(argv, counts=str(tmp_path / "counts.json")).status == 0
    assert json.loads((tmp_path / "counts.json").read_text())["pwrite"] < counts["pwrite"] / 3


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "remove", "lengthen", "tear the journal", "cut the journal"])
def test_what_happened_to_an_unfinished_folder_is_noticed_and_mended(
    drive: Drive, tmp_path: Path, large: tiny.Trio, unbroken: tuple[dict[str, Any], dict[str, int]], damage: str
) -> None:
    whole, counts = unbroken
    argv = large.flags(tmp_path / "out", "--workers", "1")
    drive(argv, call="write", at=counts["write"], do="kill")
    shard, journal = tmp_path / "out.partial" / "model.safetensors", tmp_path / "out.partial" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    match damage:
        case "flip a bit":
            content = bytearray(shard.read_bytes())
            content[3_000_000] ^= 4
            shard.write_bytes(content)
        case "cut":
            os.truncate(shard, 3_000_000)
        case "remove":
            shard.unlink()
        case "lengthen":
            os.truncate(shard, shard.stat().st_size + 5)
        case "tear the journal":
            journal.write_bytes(b"".join(lines)[:-7])
        case _:
            journal.write_bytes(b"".join(lines[:4]))
    assert drive(argv).status == 0
    assert tiny.outcome(tmp_path / "out") == whole


def test_a_damaged_journal_stops_in_words_and_says_what_to_do(drive: Drive, tmp_path: Path, small: tiny.Trio) -> None:
    argv = small.flags(tmp_path / "at" / "out", *SHARDS)
    drive(argv, call="pwrite", at=6, do="kill")
    journal = tmp_path / "at" / "out.partial" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 2
    journal.write_bytes(lines[0] + b"{nonsense\n" + b"".join(lines[1:]))
    assert_told(drive(argv), "damaged", "Remove out.partial")
    shutil.rmtree(tmp_path / "at" / "out.partial")
    assert drive(argv).status == 0
