"""`inspect` says what a folder is, and reads no weights for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import made_up_adaptation
from support import tiny_checkpoints as tiny
from support.command_results import Cli


def test_a_checkpoint_is_described_from_its_headers(cli: Cli, tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1), shards=2)
    told = cli("inspect", place, "--json").json()
    assert told["kind"] == "checkpoint" and told["model_type"] == "llama"
    assert told["parameters"] == sum(value.numel() for value in tiny.llama(1).values())
    assert (told["tensors"], told["dtypes"], told["vocabulary_rows"], told["tokens"]) == (6, {"BF16": 6}, 24, 24)
    assert len(told["files"]) == 2 and told["tied"] is False
    words = cli("inspect", place).out
    assert "llama" in words and "BF16" in words


def test_an_output_tells_what_it_was_made_from(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert cli(*made.flags(tmp_path / "out")).status == 0
    told = cli("inspect", tmp_path / "out", "--json").json()
    assert told["kind"] == "output" and told["fates"] == {"transferred": 6}
    assert told["made_from"] == ["base: base", "tuned: tuned", "target: target"]


@pytest.mark.parametrize(
    "manifest",
    ["{}", '{"format": "tuneport.manifest/1"}', '{"format": "other"}', "[]", "a JSON object", "9" * 6000, "[" * 99999],
)
def test_a_damaged_manifest_ends_in_words(cli: Cli, tmp_path: Path, manifest: str) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    (place / "tuneport.json").write_text(manifest)
    ran = cli("inspect", place)
    assert ran.status == 1 and "tuneport.json" in ran.err and "Traceback" not in ran.err


def test_an_unfinished_output_says_how_to_finish_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "journal.jsonl").write_text("{}\n")
    told = cli("inspect", tmp_path / "out.partial", "--json").json()
    assert told["kind"] == "unfinished output" and "again" in told["next"]


def test_an_output_of_adapt_says_in_a_line_what_was_chosen_and_what_it_gained(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert cli(*made.flags(tmp_path / "out")).status == 0
    record = made_up_adaptation.write(tmp_path / "out" / "adapt.json")
    told = cli("inspect", tmp_path / "out", "--json").json()["adapted"]
    assert told.startswith("distil was chosen") and "+28.0 points" in told and "\n" not in told
    record.write_text("{")
    ran = cli("inspect", tmp_path / "out")
    assert ran.status == 1 and "adapt.json" in ran.err and "Traceback" not in ran.err


def test_a_file_of_that_name_in_a_model_of_others_is_not_read(cli: Cli, tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    (place / "adapt.json").write_text("{")
    assert "adapted" not in cli("inspect", place, "--json").json()
