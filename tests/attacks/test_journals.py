"""A journal is not believed: what it says of a leaf is held against the bytes, or the leaf is computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny

from tuneport.diffvector.run import transfer
from tuneport.errors import NumericsError, TakenError
from tuneport.output.journal import _check
from tuneport.output.write import OutputFolder

Lines = list[dict[str, Any]]


def stopped(made: tiny.Trio, out: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """The journal of a run that was stopped when all leaves were written."""

    def stop(*anything: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(OutputFolder, "finish", stop)
        transfer(*made.paths, out, **options)
    return out.with_name(f"{out.name}.partial") / "journal.jsonl"


def edit(journal: Path, change: Callable[[Lines], object]) -> None:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    change([line for line in lines if "leaf" in line])
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def manifest(out: Path) -> dict[str, Any]:
    found = dict(json.loads((out / "tuneport.json").read_text()))
    del found["environment"]["seconds"]
    return found


CHANGES: dict[str, Callable[[Lines], object]] = {
    "a norm": lambda lines: lines[0]["sums"].__setitem__(0, (1e6).hex()),
    "what rounding took": lambda lines: lines[2]["sums"].__setitem__(6, (0.0).hex()),
    "a count": lambda lines: lines[1].update(nonfinite=7),
    "no check": lambda lines: lines[0].pop("check"),
    "sums of another leaf": lambda lines: lines[0].update(sums=lines[1]["sums"]),
    "names that changed places": lambda lines: (lines[0].update(tensor=lines[1]["tensor"]), lines[1].update(leaf=1)),
    "too few sums": lambda lines: lines[0].update(sums=[]),
    "a leaf that is none": lambda lines: lines[0].update(leaf=10**30),
    "a count beyond all numbers": lambda lines: lines[0].update(nonfinite=10**30),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_journal_that_was_changed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    made = tiny.trio(tmp_path / "models")
    transfer(*made.paths, tmp_path / "clean")
    edit(stopped(made, tmp_path / "out", monkeypatch), CHANGES[what])
    transfer(*made.paths, tmp_path / "out")
    assert manifest(tmp_path / "out") == manifest(tmp_path / "clean")
    assert (tmp_path / "out" / "README.md").read_bytes() == (tmp_path / "clean" / "README.md").read_bytes()


def test_a_journal_that_hides_a_nan_does_not_let_it_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = tiny.moved(tiny.llama(1), 2)
    tuned["model.norm.weight"][0] = float("nan")
    made = tiny.trio(tmp_path / "models", tuned=tuned)
    journal = stopped(made, tmp_path / "out", monkeypatch, allow_nonfinite=True)

    def hide(lines: Lines) -> None:
        for line in lines:
            line["nonfinite"] = 0
            line["check"] = _check(line)  # as somebody would who knows how it is formed

    edit(journal, hide)
    with pytest.raises(NumericsError, match=r"model\.norm\.weight"):
        transfer(*made.paths, tmp_path / "out")


@pytest.mark.parametrize("line", ["[" * 5000, '{"leaf": ' + "9" * 400 + "}", '{"plan": "\\ud800"}', '{"leaf": 0}', "7"])
def test_a_line_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    made = tiny.trio(tmp_path / "models")
    journal = stopped(made, tmp_path / "out", monkeypatch)
    journal.write_text(journal.read_text() + line + "\n")
    with pytest.raises(TakenError, match=r"journal\.jsonl is damaged .*Remove out\.partial and run again"):
        transfer(*made.paths, tmp_path / "out")
