"""An output folder is not there, or whole; what is in its place already is never lost by a slip."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.errors import OutputError
from tuneport.output.write import OutputFolder, check_place


def test_an_output_appears_whole_and_nothing_is_left_beside_it(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert cli(*made.flags(tmp_path / "out")).status == 0
    assert {path.name for path in tmp_path.iterdir()} - before == {"out"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tuneport.json",
    ]  # fmt: skip


def test_the_same_command_again_says_that_it_is_done_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    cli(*made.flags(tmp_path / "out"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = cli(*made.flags(tmp_path / "out", "--json"))
    assert again.status == 0
    assert again.json()["already_done"] is True
    assert "already done" in cli(*made.flags(tmp_path / "out")).out
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out.partial").exists()


def test_a_folder_of_the_same_plan_that_lost_a_file_is_not_called_done(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    cli(*made.flags(tmp_path / "out"))
    (tmp_path / "out" / "model.safetensors").unlink()
    again = cli(*made.flags(tmp_path / "out"))
    assert again.status == 1
    assert "model.safetensors" in again.err and "--overwrite" in again.err
    assert cli(*made.flags(tmp_path / "out", "--overwrite")).status == 0
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))


def test_another_plan_at_the_same_place_stops_and_names_what_differs(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    cli(*made.flags(tmp_path / "out"))
    before = tiny.contents(tmp_path / "out")
    other = cli(*made.flags(tmp_path / "out", "--scale", "0.5"))
    assert other.status == 1
    assert "choices.scale" in other.err and "--overwrite" in other.err
    assert tiny.contents(tmp_path / "out") == before
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("what", ["folder", "file", "dangling link", "link to a folder", "foreign manifest", "loop"])
def test_what_is_there_already_and_not_ours_stays_whatever_the_flags(cli: Cli, tmp_path: Path, what: str) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    keep = tmp_path / "elsewhere"
    keep.mkdir()
    (keep / "mine.txt").write_text("mine")
    match what:
        case "folder":
            out.mkdir()
            (out / "mine.txt").write_text("mine")
        case "foreign manifest":
            out.mkdir()
            (out / "tuneport.json").write_text('{"plan": {"format": "tuneport.manifest/1"}}')
        case "file":
            out.write_text("mine")
        case "dangling link":
            out.symlink_to(tmp_path / "nowhere")
        case "loop":
            out.symlink_to("out")
        case _:
            out.symlink_to(keep)
    before = tiny.contents(keep), out.lstat().st_ino
    for flags in ([], ["--overwrite"], ["--dry-run"], ["--overwrite", "--dry-run"]):
        ran = cli(*made.flags(out, *flags))
        assert ran.status == 1 and str(out) in ran.err + ran.out and "Traceback" not in ran.err, (flags, ran)
        assert not os.path.lexists(tmp_path / "out.partial") and not os.path.lexists(tmp_path / "out.old")
    assert (tiny.contents(keep), out.lstat().st_ino) == before


def test_an_empty_folder_is_filled_when_overwrite_says_so(cli: Cli, tmp_path: Path) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    out.mkdir()
    assert cli(*made.flags(out)).status == 1
    assert cli(*made.flags(out, "--overwrite")).status == 0
    assert (out / "tuneport.json").exists()


def test_overwrite_stops_at_a_file_of_somebody_else_in_a_folder_of_ours(cli: Cli, tmp_path: Path) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    assert cli(*made.flags(out)).status == 0
    (out / "notes").mkdir()
    (out / "notes" / "thesis.tex").write_text("mine")
    ran = cli(*made.flags(out, "--scale", "0.5", "--overwrite"))
    assert ran.status == 1 and "notes/thesis.tex" in ran.err
    shutil.move(out / "notes", tmp_path / "notes")
    assert cli(*made.flags(out, "--scale", "0.5", "--overwrite")).status == 0


def test_a_refused_run_does_not_believe_a_mark(cli: Cli, tmp_path: Path) -> None:
    made, out, old = tiny.trio(tmp_path), tmp_path / "m", tmp_path / "m.old"
    for folder in (out, old):
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    for mark in ("", json.dumps({"device": old.stat().st_dev, "inode": old.stat().st_ino})):
        (out / ".replaces").write_text(mark)
        for flags in ([], ["--overwrite"]):
            assert cli(*made.flags(out, *flags)).status == 1
            assert (old / "mine.txt").exists() and (out / "mine.txt").exists()


def test_overwrite_stops_where_the_name_of_the_old_folder_is_taken(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert cli(*made.flags(tmp_path / "out")).status == 0
    (tmp_path / "out.old").mkdir()
    (tmp_path / "out.old" / "mine.txt").write_text("mine")
    (tmp_path / "out" / ".replaces").write_text("")
    ran = cli(*made.flags(tmp_path / "out", "--scale", "2", "--overwrite"))
    assert ran.status == 1 and "out.old" in ran.err
    assert (tmp_path / "out" / "tuneport.json").exists() and (tmp_path / "out.old" / "mine.txt").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tuneport.json.new", "journal.jsonl.new", ".replaces"]
)
def test_nothing_is_written_through_a_link_in_an_unfinished_folder(cli: Cli, tmp_path: Path, name: str) -> None:
    made, mine = tiny.trio(tmp_path), tmp_path / "mine.txt"
    nan_in_tuned(made)
    assert cli(*made.flags(tmp_path / "out")).status == 1
    place = tmp_path / "out.partial" / name
    for link in (Path.symlink_to, Path.hardlink_to):
        mine.write_text("mine")
        place.unlink(missing_ok=True)
        link(place, mine)
        cli(*made.flags(tmp_path / "out", "--allow-nonfinite"))
        assert mine.read_text() == "mine"
        if (tmp_path / "out").exists():
            assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
            (tmp_path / "out").rename(tmp_path / "out.partial")
            (tmp_path / "out.partial" / "tuneport.json").rename(tmp_path / "manifest")


def test_an_unfinished_folder_that_is_a_link_is_not_taken_over(cli: Cli, tmp_path: Path) -> None:
    made, elsewhere = tiny.trio(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out.partial").symlink_to(elsewhere)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1 and "out.partial" in ran.err
    assert not any(elsewhere.iterdir())


def test_a_folder_called_partial_that_tuneport_did_not_begin_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").write_text("mine")
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1 and "out.partial" in ran.err
    assert tiny.contents(tmp_path / "out.partial").keys() == {"mine.txt"}


@pytest.mark.parametrize("role", ["base", "tuned", "target"])
@pytest.mark.parametrize("where", ["same", "inside", "around", "through a link", "partial", "inside partial"])
def test_no_output_may_destroy_what_it_is_made_of(cli: Cli, tmp_path: Path, role: str, where: str) -> None:
    made = tiny.trio(tmp_path / "in")
    source = getattr(made, role)
    if "partial" in where:  # DIR.partial is where the output is written until it is whole
        named = tmp_path / "in" / "m.partial" / ("" if where == "partial" else "sub")
        named.parent.mkdir(exist_ok=True)
        source.rename(named)
        made = tiny.Trio(*[named if path == source else path for path in made.paths], made.tensors)
        out = tmp_path / "in" / "m"
    else:
        link = tmp_path / "link"
        link.symlink_to(source)
        out = {"same": source, "inside": source / "new", "around": tmp_path / "in", "through a link": link}[where]
    before = tiny.contents(tmp_path / "in")
    ran = cli(*made.flags(out, "--overwrite"))
    assert ran.status == 1
    assert "--out" in ran.err
    assert tiny.contents(tmp_path / "in") == before


def test_an_input_that_is_called_old_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    old = made.base.rename(tmp_path / "m.old")
    made, before = tiny.Trio(old, made.tuned, made.target, made.tensors), tiny.contents(old)
    assert cli(*made.flags(tmp_path / "m")).status == 0
    again = cli(*made.flags(tmp_path / "m", "--overwrite", "--scale", "2"))
    assert again.status == 1 and "m.old" in again.err
    assert tiny.contents(old) == before


def test_the_folder_one_stands_in_is_no_output(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.trio(tmp_path / "in")
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for out in (Path("."), here, tmp_path / "a", Path("..")):
        assert cli(*made.flags(out, "--overwrite")).status == 1
        with pytest.raises(OutputError):
            check_place(out, [])
    assert cli(*made.flags(Path("new"))).status == 0


def test_a_folder_to_stand_in_must_exist(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path / "in")
    ran = cli(*made.flags(tmp_path / "no" / "such" / "out"))
    assert ran.status == 1 and "Create it first" in ran.err


def with_nan(tensors: tiny.Tensors, name: str) -> tiny.Tensors:
    return {**tensors, name: tensors[name].fill_(float("nan"))}


def nan_in_tuned(made: tiny.Trio) -> None:
    tiny.write_weights(made.tuned, with_nan(tiny.llama(2), "lm_head.weight"))


def other_integers(made: tiny.Trio) -> None:
    for path, seed in zip(made.paths, (1, 2, 3), strict=True):
        tiny.write_weights(path, {**tiny.llama(seed), "buffer": torch.tensor([1, 2, 3 if path == made.base else 4])})


def two_heads(made: tiny.Trio) -> None:
    for path in made.paths:
        (path / "config.json").write_text(json.dumps(tiny.config(tie_word_embeddings=True)))


def mended(made: tiny.Trio) -> None:
    for seed, path in enumerate(made.paths, 1):
        tiny.write_weights(path, tiny.moved(tiny.llama(1), seed) if seed > 1 else tiny.llama(1))
        (path / "config.json").write_text(json.dumps(tiny.config()))


def swapped(made: tiny.Trio) -> tiny.Trio:
    return tiny.Trio(made.tuned, made.base, made.target, made.tensors)


def nothing(made: tiny.Trio) -> None:
    pass


# How a first try ends: what is wrong with the models, its flags, what is said; then what is done about it.
FIRST_TRIES: dict[str, tuple[Callable[[tiny.Trio], None], list[str], str, Callable[[tiny.Trio], None], list[str]]] = {
    "NaN, and a rule": (nan_in_tuned, [], "NaN", nothing, ["--rule", "lm_head=0"]),
    "NaN, and another input": (nan_in_tuned, [], "NaN", mended, []),
    "NaN, and another dtype": (nan_in_tuned, [], "NaN", nothing, ["--dtype", "F32", "--rule", "lm_head=0"]),
    "integers that differ": (other_integers, [], "integers", mended, []),
    "two heads that are one": (two_heads, [], "tie_word_embeddings", mended, []),
    "a zero diff vector": (
        lambda made: tiny.write_weights(made.tuned, tiny.llama(1)),
        [],
        "diff vector is zero",
        mended,
        [],
    ),
    "a doubt, and other choices": (
        lambda made: tiny.write_weights(made.target, tiny.llama(9)),
        ["--strict"],
        "--strict",
        nothing,
        ["--scale", "0.5"],
    ),
    "a disk too small, and a smaller dtype": (nothing, ["--dtype", "F64"], "bytes free", nothing, ["--dtype", "F16"]),
}  # fmt: skip  (a row a line)


@pytest.mark.parametrize("name", FIRST_TRIES)
def test_a_first_try_that_was_refused_is_in_nobodys_way(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, (wrong, flags, said, mend, others) = tiny.trio(tmp_path), FIRST_TRIES[name]
    wrong(made)
    with monkeypatch.context() as patch:
        if "disk" in name:
            patch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
        first = cli(*made.flags(tmp_path / "out", *flags))
    assert first.status == 1 and said in first.err, first.err
    assert not (tmp_path / "out").exists()
    mend(made)
    second = made.flags(tmp_path / "out", *others)
    assert cli(*second, "--dry-run").status == 0
    done = cli(*second)
    assert done.status == 0, done.err
    assert not (tmp_path / "out.partial").exists()
    assert cli("verify", *second[1:7], tmp_path / "out", "--full").status == 0


def test_what_a_refused_try_finished_is_of_use_to_the_same_plan_and_then_to_no_other(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.trio(tmp_path)
    nan_in_tuned(made)
    assert cli(*made.flags(tmp_path / "out")).status == 1
    journal = tmp_path / "out.partial" / "journal.jsonl"
    finished = journal.read_text().count('"leaf"')
    assert finished > 0
    # A run of the same plan that is cut short: what it took up is of worth again.
    monkeypatch.setattr(OutputFolder, "finish", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    cli(*made.flags(tmp_path / "out", "--allow-nonfinite"))
    monkeypatch.undo()
    other = cli(*made.flags(tmp_path / "out", "--scale", "0.5"))
    assert other.status == 1 and "different plan" in other.err and "choices.scale" in other.err
    done = cli(*made.flags(tmp_path / "out", "--allow-nonfinite"))
    assert done.status == 0, done.err


def test_a_try_that_finished_nothing_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    made, before = tiny.trio(tmp_path), {"base", "tuned", "target"}
    other_integers(made)
    assert cli(*made.flags(tmp_path / "out")).status == 1
    assert {path.name for path in tmp_path.iterdir()} == before


def test_what_lies_in_an_unfinished_folder_and_is_not_of_a_run_is_left_there(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    nan_in_tuned(made)
    assert cli(*made.flags(tmp_path / "out")).status == 1
    (tmp_path / "out.partial" / "mine").mkdir()
    (tmp_path / "out.partial" / "mine" / "note.txt").write_text("mine")
    other_integers(made)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1 and "mine/note.txt" in ran.err, "it is told before it would be moved into the output"
    assert (tmp_path / "out.partial" / "mine" / "note.txt").read_text() == "mine"
