"""The page of a comparison: the verdict first, the gates, what prompts said, and maps by layer and kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import made_up_comparison
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.errors import ReportError
from tuneport.reporting.run import report
from tuneport.reporting.sections.contents import Contents, of_comparison
from tuneport.reporting.sections.parts import Facts, Figure, Group, Lead, Table
from tuneport.results.comparison_reading import comparison_of


def shown(pairs: int = 1, **changed: Any) -> Contents:
    made = [made_up_comparison.comparison(word) | changed for word in ("likely", "unlikely", "uncertain")[:pairs]]
    return of_comparison(comparison_of(made if pairs > 1 else made[0], "compared"))


def test_the_verdict_its_first_reason_and_the_predicted_gain_stand_first() -> None:
    first = shown().sections[0]
    lead, facts = first.parts[:2]
    assert isinstance(lead, Lead) and (lead.answer, lead.words) == ("Likely.", "The first reason.")
    assert isinstance(facts, Facts) and [fact.value for fact in facts.facts] == ["0.25", "0.25", "0.70"]
    assert [section.anchor for section in shown().sections] == ["answer", "gates", "prompts", "layers", "figures"]


def test_maps_are_of_matrices_and_their_tables_of_all_kinds() -> None:
    layers = next(section for section in shown().sections if section.anchor == "layers")
    group = next(part for part in layers.parts if isinstance(part, Group))
    assert len(group.parts) == 4
    for figure in group.parts:
        assert isinstance(figure, Figure) and figure.table is not None
        trace = figure.drawing["data"][0]
        assert (trace["x"], trace["y"], trace["z"]) == ([0, 1, 2], ["mlp.up_proj"], [[0.1, 0.2, 0.3]])
        assert [row[0].shown for row in figure.table.rows] == ["input_layernorm", "mlp.up_proj"]


def test_what_prompts_said_has_a_row_for_each_measure() -> None:
    asked = next(section for section in shown().sections if section.anchor == "prompts")
    table = next(part for part in asked.parts if isinstance(part, Table))
    assert len(table.rows) == 5
    assert isinstance(asked.parts[0], Lead) and asked.parts[0].words == "The old tuned model is still better."


def test_several_are_ranked_and_all_but_the_first_are_folded() -> None:
    made = shown(3).sections
    assert made[0].title == "Which will work best?"
    table = next(part for part in made[0].parts if isinstance(part, Table))
    assert [row[1].shown for row in table.rows] == ["likely", "unlikely", "uncertain"]
    assert {section.folded for section in made if section.anchor.endswith("-1")} == {False}
    assert {section.folded for section in made if section.anchor.endswith(("-2", "-3"))} == {True}


def test_the_file_of_a_real_comparison_becomes_a_page_and_markdown(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("plotly")  # of the report extra, which a page of HTML needs
    made = tiny.trio(tmp_path / "models")
    found = tuneport.compare(*made.paths, tmp_path / "found.json")
    told = cli("report", tmp_path / "found.json", "--json").json()
    page = Path(told["out"]).read_text(encoding="utf-8")
    assert told["out"] == str(tmp_path / "found.html") and found["verdict"]["reasons"][0][:30] in page
    assert cli("report", tmp_path / "found.json", "--format", "markdown").status == 0
    text = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert "**Uncertain.**" in text and all(f"| {gate['name']} |" in text for gate in found["gates"])


def test_texts_of_a_file_stay_texts(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    hostile = "<script>alert(1)</script>"
    made = made_up_comparison.comparison("likely", hostile)
    made["verdict"]["reasons"] = [hostile]
    made["gates"][0]["reason"] = made["layers"][1]["kind"] = hostile
    (tmp_path / "x.json").write_text(json.dumps(made))
    page = Path(report(tmp_path / "x.json")["out"]).read_text(encoding="utf-8")
    assert hostile not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("content", [[made_up_comparison.comparison("likely"), 3], {"format": "tuneport.compare/1"}])
def test_a_comparison_without_a_verdict_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ReportError, match="no verdict"):
        report(tmp_path / "x.json", format="markdown")


def test_a_torn_or_odd_comparison_has_a_page_of_what_it_holds(tmp_path: Path) -> None:
    odd = {
        "format": "tuneport.compare/1",
        "verdict": {"word": 3},
        "layers": [1, {"layer": "x"}],
        "gates": 7,
        "probe": {"prompts": 1},
    }
    (tmp_path / "x.json").write_text(json.dumps(odd))
    report(tmp_path / "x.json", format="markdown")
    assert "Will the transfer work?" in (tmp_path / "x.md").read_text(encoding="utf-8")
