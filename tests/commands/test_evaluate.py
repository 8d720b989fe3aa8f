"""`tuneport evaluate` on the command line: one object, a table in words, exit statuses, silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_scored


def flags(models: Path, tasks: Path, out: Path, *more: str) -> list[str | Path]:
    names = [models / "none", models / "half", models / "all"]
    return ["evaluate", *names, "--tasks", tasks, "--out", out, "--max-new-tokens", "4", "--device", "cpu", *more]


def test_scores_and_real_differences_are_told_in_a_table(
    cli: Callable[..., Any], models: Path, towns: Path, tmp_path: Path
) -> None:
    names = [str(models / name) for name in ("none", "half", "all")]
    ran = cli(*flags(models, towns, tmp_path / "o.json", "--recovered-gain", *names))
    assert ran.status == 0, ran.err
    assert ran.err == ""  # the harness is quiet
    lines = ran.out.splitlines()
    assert lines[0].split() == ["model", "task", "metric", "score", "95", "%", "interval", "n"]
    assert "half   towns  exact_match  0.500  0.254 to 0.746  12" in lines
    (row,) = [line for line in lines if line.startswith("towns  all − none")]
    assert "+1.000" in row
    assert "yes" in row
    assert any(line.startswith("towns  half") and "0.50" in line for line in lines)
    assert lines[-1] == f"{tmp_path / 'o.json'}: done"
    again = cli(*flags(models, towns, tmp_path / "o.json", "--recovered-gain", *names))
    assert (again.status, again.out.splitlines()[-1]) == (0, f"{tmp_path / 'o.json'}: already done")


def test_json_is_one_object_on_stdout_and_warnings_go_to_stderr(
    cli: Callable[..., Any], models: Path, towns: Path, tmp_path: Path
) -> None:
    data = tiny_scored.write_rows(tmp_path / "train.jsonl", tiny_scored.rows()[:1])
    ran = cli(*flags(models, towns, tmp_path / "o.json", "--json", "--trained-on", str(data)))
    found = ran.json()
    assert [model["model"] for model in found["models"]] == ["none", "half", "all"]
    assert set(found["models"][0]["tasks"]["towns"]) >= {"metric", "value", "stderr", "n", "interval"}
    assert found["warnings"]
    assert ran.err.startswith("warning: 1 of 12 examples of towns")
    assert json.loads((tmp_path / "o.json").read_text())["models"] == found["models"]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (["--max-new-tokens", "0"], 2, "--max-new-tokens 0"),
        (["--match", "("], 2, "--match"),
        (["--tasks", "no-such-file.jsonl"], 1, "there is no such file"),
        (["--backend", "vllm"], 2, "vLLM is not installed"),
        (["--chat-template", "no-such-model"], 1, "no such folder"),
    ],
)
def test_what_cannot_be_meant_ends_with_its_status_and_no_traceback(
    cli: Callable[..., Any], models: Path, towns: Path, tmp_path: Path, change: list[str], status: int, words: str
) -> None:
    ran = cli(*flags(models, towns, tmp_path / "o.json", "--json", *change))
    assert ran.status == status
    assert words in ran.json()["error"]["message"]
    assert "Traceback" not in ran.err
