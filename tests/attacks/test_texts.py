"""Texts and names of others: what cannot be written is refused at opening, what would move a cursor is shown as an escape."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli, Ran

from tuneport.engine.transfer_card import render_card

FILES: dict[str, Any] = {
    "config.json": tiny.config(),
    "generation_config.json": {"eos_token_id": 1},
    "tokenizer_config.json": {"eos_token": "w1"},
    "special_tokens_map.json": {"eos_token": "w1"},
}


@pytest.fixture
def made(tmp_path: Path) -> tiny.Trio:
    return tiny.trio(tmp_path / "models", **{name.replace(".", "__"): json.dumps(FILES[name]) for name in FILES})


def everything(cli: Cli, made: tiny.Trio, tmp_path: Path) -> list[Ran]:
    """Each command that reads models, over these."""
    parents = made.flags(tmp_path / "out")[1:5]
    return [
        cli("inspect", made.tuned),
        cli(*made.flags(tmp_path / "out", "--dry-run")),
        cli(*made.flags(tmp_path / "out")),
        cli("diff", *parents, "--out", tmp_path / "diff"),
    ]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\ud800"}',
        '{"a\\udfff": 1}',
        '{"a": %s}' % ("[" * 2000 + "]" * 2000),
        '{"a": 1%s}' % ("0" * 400),
        '{"a": "\xff',
    ],
)
def test_a_small_file_that_cannot_be_kept_is_refused_before_anything_is_written(
    cli: Cli, made: tiny.Trio, tmp_path: Path, file: str, text: str
) -> None:
    (made.tuned / file).write_bytes(text.encode("latin-1"))
    for ran in everything(cli, made, tmp_path)[1:]:
        assert ran.status == 1 and f"tuned tuned: {file} is" in ran.err
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob("diff*"))


@pytest.mark.parametrize("name", [b"x\xff.py", b"LICENSE\xff", b"model\xff.safetensors"])
def test_a_file_whose_name_is_not_utf_8_is_refused_where_it_would_be_read_or_copied(
    cli: Cli, made: tiny.Trio, tmp_path: Path, name: bytes
) -> None:
    for path in made.paths:
        place = os.path.join(os.fsencode(path), name)
        if name.endswith(b".safetensors"):
            os.rename(path / "model.safetensors", place)
        else:
            Path(os.fsdecode(place)).write_text("ours")
    for ran in everything(cli, made, tmp_path)[1:]:
        assert ran.status == 1 and "is not UTF-8. Rename it" in ran.err and "\\udcff" in ran.err
    assert not list(tmp_path.glob("out*"))


def test_a_folder_whose_name_is_not_utf_8_and_files_that_stay_behind_are_told_with_escapes(
    cli: Cli, made: tiny.Trio, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(made.tuned) + b"\xff\x1b[2J"))
    made.tuned.rename(odd)
    for name in (b"notes\xff\x1b[2J.txt", b"folder\xc2\x9b\xff/x"):
        place = Path(os.fsdecode(os.path.join(os.fsencode(made.target), name)))
        place.parent.mkdir(exist_ok=True)
        place.write_text("x")
    made = tiny.Trio(made.base, odd, made.target, made.tensors)
    done = cli(*made.flags(tmp_path / "out"))
    assert done.status == 0, done.err
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    assert [entry["name"] for entry in manifest["inputs"]] == ["base", "tuned\\udcff\\x1b[2J", "target"]
    assert {"notes\\udcff\\x1b[2J.txt", "folder\\x9b\\udcff/"} <= {each["subject"] for each in manifest["decisions"]}
    assert cli("verify", tmp_path / "out", *made.flags(tmp_path / "out")[1:7], "--full").status == 0


@pytest.mark.parametrize("kind", [{}, [], [None], 7, True])
@pytest.mark.parametrize("place", [(), ("text_config",), ("text_config", "inner")])
def test_a_model_type_that_is_not_a_string_is_an_error_in_words(
    cli: Cli, made: tiny.Trio, tmp_path: Path, kind: Any, place: tuple[str, ...]
) -> None:
    config: dict[str, Any] = tiny.config()
    inner = config
    for name in place:
        inner = inner.setdefault(name, {"model_type": "llama"})
    inner["model_type"] = kind
    assert cli("diff", *made.flags(tmp_path)[1:5], "--out", tmp_path / "kept").status == 0
    (tmp_path / "kept" / "base" / "config.json").write_text(json.dumps(config))
    for path in made.paths:
        (path / "config.json").write_text(json.dumps(config))
    told = f"`{'.'.join((*place, 'model_type'))}` must be a string"
    for ran in (
        *everything(cli, made, tmp_path),
        cli("apply", tmp_path / "kept", "--onto", made.target, "--out", tmp_path / "o"),
    ):
        assert ran.status == 1 and told in ran.err


CONTROL = "x\x1b[31m\x07\x9b2J\u202e\x7f"


def test_no_control_character_of_a_name_reaches_the_terminal(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    base[f"model.{CONTROL}.weight"] = base["model.norm.weight"].clone()
    made = tiny.trio(tmp_path / "models", base, words=[*tiny.WORDS[:-1], f"t{CONTROL}"])
    (made.target / f"LICENSE{CONTROL}").write_text("ours")
    (made.target / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, CONTROL: CONTROL}))
    tiny.write_weights(
        made.tuned, {name: value for name, value in made.tensors["tuned"].items() if CONTROL not in name}
    )
    refused = cli(*made.flags(tmp_path / "out"))
    assert refused.status == 1 and "\\x1b[31m" in refused.err
    tiny.write_weights(made.tuned, made.tensors["tuned"])
    for ran in (refused, *everything(cli, made, tmp_path), cli(*made.flags(tmp_path / "two", "--dry-run", "--json"))):
        assert not [c for c in ran.out + ran.err if c in CONTROL.replace("x", "").replace("[31m", "").replace("2J", "")]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\\x1b[31m" in card and not {"\x1b", "\x07", "\x9b", "\u202e", "\x7f"} & set(card)


def test_a_name_cannot_begin_a_line_of_a_card(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    (made.target / "LICENSE\n# Forged\n").write_text("ours")
    (made.target / "a\n# Forged <b>\n.py").write_text("pass")
    shutil.copytree(made.tuned, tmp_path / "t\n# Forged <b>")
    made = tiny.Trio(made.base, tmp_path / "t\n# Forged <b>", made.target, made.tensors)
    assert cli(*made.flags(tmp_path / "out")).status == 0
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    manifest["warnings"] = ["one\n# Forged <b>"]
    for card in ((tmp_path / "out" / "README.md").read_text(), render_card(manifest).decode()):
        assert "Forged" in card and "<b>" not in card
        assert not [line for line in card.splitlines() if line.startswith("# Forged")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "m", "--tasks", "q\udcff.jsonl", "--out", "s.json"],
        ["evaluate", "m", "--tasks", "q.jsonl", "--out", "s\udcff.json"],
        ["tune", "m\udcff", "--data", "d.jsonl", "--recipe", "sft", "--out", "o"],
        ["study", "s\udcff.toml", "--out", "o"],
        ["report", "o\udcff"],
        ["path", "a", "b\udcff", "--data", "d.jsonl", "--out", "p.json"],
        ["transfer", "--base", "a", "--tuned", "b", "--onto", "c", "--out", "o", "--rule", "x\udcff=0"],
    ],
)
def test_an_argument_that_no_record_could_hold_is_refused_before_any_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli(*arguments)
    assert ran.status == 2 and "\\udcff" in ran.err and "is not UTF-8" in ran.err and not list(tmp_path.iterdir())


def test_the_core_goes_to_and_from_folders_of_any_name(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff\x1b"))
    assert cli(*made.flags(out)).status == 0
    assert cli("verify", out, *made.flags(out)[1:7], "--full").status == 0
    assert cli("inspect", out, "--json").json()["kind"]
