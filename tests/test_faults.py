"""Killed, cut short, full, interrupted, raced: nothing looks complete that is not, and the same command goes on.

Each fault happens at a counted call inside the process (fault_driver.py), so that no test waits for a moment to come.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny
from support.broken_disks import DRIVER, Drive
from support.command_results import Ran

KILLED = -signal.SIGKILL


def assert_told(ran: Ran, *words: str) -> None:
    """Status 1, exactly one error message, no traceback."""
    assert ran.status == 1, ran
    assert ran.err.count("tuneport: ") == 1 and ran.err.startswith("tuneport: "), ran.err
    assert "Traceback" not in ran.err and "Traceback" not in ran.out
    for word in words:
        assert word in ran.err


def assert_nothing_looks_complete(out: Path, whole: dict[str, Any], drive: Drive) -> None:
    """DIR is not there, or is the finished one; DIR.partial is no model to anybody unless every byte is in it."""
    if out.exists():
        assert {**tiny.outcome(out), ".replaces": None} == {**whole, ".replaces": None}
    partial = out.with_name("out.partial")
    if partial.exists():
        if (partial / "tuneport.json").exists() and not (partial / "journal.jsonl").exists():
            assert {**tiny.outcome(partial), ".replaces": None} == {**whole, ".replaces": None}
        elif (partial / "journal.jsonl").exists():
            assert drive(["inspect", str(partial), "--json"]).json()["kind"] == "unfinished output"
            with pytest.raises(Exception, match="unfinished"):
                open_as_model(partial)


def open_as_model(path: Path) -> None:
    from tuneport.checkpoint.open_model import open_checkpoint

    open_checkpoint(path, "base")


def assert_only(folder: Path, *names: str) -> None:
    assert {path.name for path in folder.iterdir()} == set(names)


# ---- SIGKILL at any moment


@pytest.fixture
def small(tmp_path: Path) -> tiny.Trio:
    """Two shards of three small tensors each in the output, inputs in different shards."""
    (tmp_path / "in").mkdir()
    (tmp_path / "at").mkdir()
    return tiny.trio(tmp_path / "in", shards=(1, 2, 1))


SHARDS = ("--shard-size", "600", "--workers", "1")


def changes(drive: Drive, argv: list[str], under: Path) -> int:
    """How many calls of an unbroken run change a file below ``under``."""
    counts = under.parent / "counts.json"
    assert drive(argv, under=str(under), counts=str(counts)).status == 0
    return int(json.loads(counts.read_text())["change"])


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
        assert_nothing_looks_complete(under / "out", whole, drive)
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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    """One tensor of three leaves of many pieces, and small ones around it."""
    base = {
        **tiny.llama(1),
        "model.layers.0.mlp.down_proj.weight": tiny.llama(7, rows=700_000)["model.embed_tokens.weight"],
    }
    return tiny.trio(tmp_path_factory.mktemp("large"), base=base)


@pytest.fixture(scope="module")
def unbroken(
    drive: Drive, large: tiny.Trio, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, int]]:
    """An unbroken run of the large ones, and how many calls it makes."""
    place = tmp_path_factory.mktemp("unbroken")
    counts = place / "counts.json"
    ran = drive(large.flags(place / "out", "--workers", "1"), under=str(place), counts=str(counts))
    assert ran.status == 0, ran.err
    return tiny.outcome(place / "out"), json.loads(counts.read_text())


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
    assert_nothing_looks_complete(tmp_path / "out", whole, drive)
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


# ---- inputs that do not hold still


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
    assert_told(drive(argv), field, "another plan")
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


# ---- the place to write to


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
            assert_nothing_looks_complete(tmpfs / "out", whole, drive)
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


# ---- other processes, and the person at the terminal


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
    assert_told(ran, "goes on")
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
