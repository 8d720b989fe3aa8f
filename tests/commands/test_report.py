"""`tuneport report` on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.command_results import Cli
from support.made_up_results import MadeUp

from tuneport.errors import OutputError
from tuneport.reporting.run import report


def test_it_says_where_the_page_lies_and_what_came_out(cli: Cli, study: Path) -> None:
    ran = cli("report", study, "--out", study / "said.html")
    assert ran.status == 0 and ran.err == "" and str(study / "said.html") in ran.out
    told = cli("report", study, "--json", "--format", "markdown", "--out", study / "said.md").json()
    assert told["counts"] == {"done": 130, "failed": 1, "not run": 1}
    assert told["summary"].startswith("The study made-up takes 5 versions (M1 to M5)")
    assert (study / "said.md").read_text(encoding="utf-8").startswith("# made")
    (study / "said.html").unlink()
    (study / "said.md").unlink()


def test_doubts_are_warnings(cli: Cli, tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,))
    made.write()
    (made.root / "results.json").write_text("{")
    ran = cli("report", made.root, "--format", "markdown")
    assert ran.status == 0
    assert "warning: results.json cannot be read" in ran.err and "This page uses" in ran.err


def test_where_there_is_no_study_it_fails_in_words(cli: Cli, tmp_path: Path) -> None:
    ran = cli("report", tmp_path / "nothing", "--json")
    assert ran.status == 1
    assert json.loads(ran.out)["error"]["type"] == "ReportError" and "tuneport study" in ran.err


def test_a_place_that_cannot_be_written_is_told(cli: Cli, study: Path, tmp_path: Path) -> None:
    assert "is a folder" in cli("report", study, "--format", "markdown", "--out", tmp_path).err
    ran = cli("report", study, "--format", "markdown", "--out", tmp_path / "missing" / "page.md")
    assert ran.status == 1 and "Cannot write" in ran.err


@pytest.mark.parametrize("name", ["results.json", "study.toml", "inputs.json", "steps", "steps/page.html", "steps/a/b"])
def test_no_file_of_the_study_itself_is_replaced(cli: Cli, study: Path, tmp_path: Path, name: str) -> None:
    before = {file: file.read_bytes() for file in (study / "results.json", study / "study.toml")}
    (tmp_path / "link").symlink_to(study)
    for root in (study, tmp_path / "link", study / "steps" / ".."):
        ran = cli("report", study, "--format", "markdown", "--out", root / name)
        assert ran.status == 2 and "--out" in ran.err and "of the study" in ran.err
    assert not (study / "inputs.json").exists() and not (study / "steps" / "page.html").exists()
    assert all(file.read_bytes() == content for file, content in before.items())


def test_without_plotly_the_page_is_refused_in_words_and_markdown_works(
    cli: Cli, study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    ran = cli("report", study)
    assert ran.status == 2 and "pip install 'tuneport[report]'" in ran.err
    assert cli("report", study, "--format", "markdown", "--out", tmp_path / "page.md").status == 0


def test_a_page_replaces_only_a_page(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    for content in ("my thesis", "", "# x\n<!-- tuneport report 00 -->\n"):
        out.write_text(content)
        with pytest.raises(OutputError, match="Move it away"):
            report(study, out, format="markdown")
        assert out.read_text() == content
    out.unlink()
    report(study, out, format="markdown")
    report(study, out, format="markdown")
    mine = f"my own words\n{out.read_text()}"
    out.write_text(mine)
    with pytest.raises(OutputError, match="edited since"):
        report(study, out, format="markdown")
    assert out.read_text() == mine
