"""Inputs that do not hold still, or are damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.killed_runs import KILLED, SHARDS, assert_only, assert_told


@pytest.mark.parametrize("role", ["base", "tuned", "target"])
@pytest.mark.parametrize("do", ["truncate", "corrupt", "unlink"])
def test_an_input_that_changes_while_it_is_read(
    drive: Drive, tmp_path: Path, large: tiny.Trio, unbroken: tuple[dict[str, Any], dict[str, int]], do: str, role: str
) -> None:
    whole, counts = unbroken
    copy = tmp_path / "in"
    for path in large.paths:
        shutil.copytree(path, copy / path.name)
    made = tiny.Trio(copy / "base", copy / "tuned", copy / "target", large.tensors)
    argv, file = made.flags(tmp_path / "out", "--workers", "1"), getattr(made, role) / "model.safetensors"
    fault = {"call": "pwrite", "at": counts["pwrite"] // 2, "do": do, "path": str(file), "size": 4_000_000}
    ran = drive(argv, **fault)
    if do == "unlink":
        # The open file is still the one that was planned with: the run ends well, with the same bytes.
        assert ran.status == 0
        assert tiny.contents(tmp_path / "out")["model.safetensors"] == whole["model.safetensors"]
        return
    assert_told(ran, role, "model.safetensors")
    assert not (tmp_path / "out").exists()
    others = [path for path in large.paths if path.name != role]
    assert all(tiny.contents(copy / path.name) == tiny.contents(path) for path in others)
    assert "un again" in ran.err or do == "truncate"
    resumed = drive(argv)
    if do == "truncate":
        assert_told(resumed)
        assert not (tmp_path / "out").exists()
        return
    # What was begun is of an input that is no more, and in nobody's way: the message's advice works.
    assert resumed.status == 0, resumed.err
    assert drive(["verify", *argv[1:7], str(tmp_path / "out"), "--full"]).status == 0


def test_killed_before_the_first_leaf_another_plan_takes_the_place(
    drive: Drive, tmp_path: Path, small: tiny.Trio
) -> None:
    under = tmp_path / "at"
    argv = small.flags(under / "out", *SHARDS)
    for at in (1, 2):  # inside the headers of the two shards
        assert drive(argv, call="pwrite", at=at, do="kill").status == KILLED
        assert (under / "out.partial" / "journal.jsonl").exists()
    other = small.flags(under / "out", "--scale", "0.5")
    assert drive(other).status == 0
    assert_only(under, "out")
    assert drive(["verify", *other[1:7], str(under / "out"), "--full"]).status == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("touch", "inputs.tuned.files.model-00001-of-00002.safetensors.mtime_ns"),
        ("weights", "inputs.tuned.files.model-00001-of-00002.safetensors.mtime_ns"),
        ("size", "inputs.tuned.files.model-00001-of-00002.safetensors.size"),
        ("config", "sidecars.config.json"),
        ("scale", "choices.scale"),
        ("rule", "choices.rules"),
        ("shard size", "choices.shard_size"),
    ],
)
def test_inputs_or_choices_that_changed_between_a_kill_and_its_resume_stop_naming_the_field(
    drive: Drive, tmp_path: Path, small: tiny.Trio, change: str, field: str
) -> None:
    under = tmp_path / "at"
    argv = small.flags(under / "out", *SHARDS)
    assert drive(argv, call="pwrite", at=6, do="kill").status == KILLED
    before = tiny.contents(under / "out.partial")
    file = small.tuned / "model-00001-of-00002.safetensors"
    match change:
        case "touch":
            os.utime(file, ns=(5, 5))
        case "weights":
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        case "size":
            save_file(load_file(file), file, metadata={"format": "pt", "more": "said"})
        case "config":
            (small.target / "config.json").write_text(json.dumps(tiny.config(max_position_embeddings=77)))
        case "scale":
            argv = [*argv, "--scale", "2"]
        case "rule":
            argv = [*argv, "--rule", "norm=0"]
        case _:
            argv[argv.index("600")] = "700"
    assert_told(drive(argv), field, "different plan")
    assert tiny.contents(under / "out.partial") == before, "what was begun is not touched"
    assert not (under / "out").exists()


@pytest.mark.parametrize("role", ["base", "tuned", "target"])
@pytest.mark.parametrize("damage", ["cut", "longer", "header", "gone", "empty"])
def test_a_damaged_input_stops_before_the_first_byte(drive: Drive, tmp_path: Path, role: str, damage: str) -> None:
    made = tiny.trio(tmp_path / "in")
    file = getattr(made, role) / "model.safetensors"
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[:-1])
        case "longer":
            file.write_bytes(content + b"\0")
        case "header":
            file.write_bytes(content[:40] + b"\xff" + content[41:])
        case "gone":
            file.unlink()
        case _:
            file.write_bytes(b"")
    assert_told(drive(made.flags(tmp_path / "out")), role)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
