"""A new study's file: written once, from what is named, and good as it is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli


@pytest.fixture
def made(tmp_path: Path) -> tiny.Trio:
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": " b"}\n')
    (tmp_path / "test.jsonl").write_text('{"prompt": "a", "answer": " b"}\n')
    return tiny.trio(tmp_path / "models")


def test_it_runs_as_it_is_with_dry_run(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    file = tmp_path / "studies" / "mine.toml"
    file.parent.mkdir()
    named = ["--versions", made.base, made.target, "--tuned", f"{made.base}={made.tuned}"]
    named += ["--data", tmp_path / "data.jsonl", "--test", tmp_path / "test.jsonl"]
    ran = cli("study", file, "--init", *named)
    assert ran.status == 0 and str(file) in ran.out, ran.err
    content = tomllib.loads(file.read_text())
    assert [version["model"] for version in content["version"]] == ["../models/base", "../models/target"]
    assert content["version"][0]["tuned"] == "../models/tuned" and content["study"]["name"] == "mine"
    assert content["evaluate"]["tasks"] == ["../test.jsonl"] and content["tune"]["data"] == ["../data.jsonl"]
    planned = cli("study", file, "--out", tmp_path / "out", "--dry-run", "--json")
    assert planned.status == 0, planned.err
    kinds = [step["kind"] for step in planned.json()["steps"]]
    assert {"transfer", "tune", "evaluate", "distance"} <= set(kinds)
    before = file.read_text()
    again = cli("study", file, "--init", *named)
    assert again.status == 1 and "exists. Choose another name" in again.err and file.read_text() == before


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--init", "--versions", "a"], ["--versions", "--test", "--data"]),
        (["--init", "--versions", "a", "b", "--tuned", "c=d", "--test", "t"], ["--tuned"]),
        (["--versions", "a", "b", "--out", "x"], ["--versions"]),
        ([], ["--out"]),
    ],
)
def test_what_is_missing_is_named_at_once(cli: Cli, tmp_path: Path, flags: list[str], options: list[str]) -> None:
    ran = cli("study", tmp_path / "new.toml", *flags, "--json")
    assert ran.status == 2 and not (tmp_path / "new.toml").exists()
    message = json.loads(ran.out)["error"]["message"]
    assert all(option in message for option in options), message


def test_versions_of_one_model_are_told_apart_by_their_revisions(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    ran = cli("study", file, "--init", "--versions", "o/m@a", "o/m@b", "--tuned", "o/m@a=o/t", "--test", "gsm8k")
    assert ran.status == 0, ran.err
    assert [version["name"] for version in tomllib.loads(file.read_text())["version"]] == ["m@a", "m@b"]
    assert "tune" not in tomllib.loads(file.read_text())
