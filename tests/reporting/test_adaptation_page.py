"""The page of an adaptation: what was chosen and what it gained first, then all rungs, why, the scales, and what was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import made_up_adaptation
from support.command_results import Cli

from tuneport.reporting.render.markdown import markdown
from tuneport.reporting.run import report
from tuneport.reporting.sections.contents import Contents, of_adaptation
from tuneport.reporting.sections.parts import Bullets, Facts, Figure, Lead, Section, Table
from tuneport.results.adaptation_reading import adaptation_of


def shown(chosen: str = "distil", measure: str = "quality", **changed: Any) -> Contents:
    return of_adaptation(adaptation_of(made_up_adaptation.adaptation(chosen, measure) | changed, "adapted"))


def section(contents: Contents, anchor: str) -> Section:
    return next(each for each in contents.sections if each.anchor == anchor)


def part(found: Section, kind: type[Any]) -> Any:
    return next(each for each in found.parts if isinstance(each, kind))


def column(table: Table, heading: str) -> list[Any]:
    place = [each.heading for each in table.columns].index(heading)
    return [row[place].by if not isinstance(row[place].shown, str) else row[place].shown for row in table.rows]


def test_the_rung_its_gain_and_its_interval_stand_first() -> None:
    lead, facts = shown().sections[0].parts[:2]
    assert isinstance(lead, Lead) and lead.answer == "Yes: distil."
    assert "+28.0 points [+24.0, +32.0]" in lead.words and "n = 200" in lead.words and "not quality" not in lead.words
    assert isinstance(facts, Facts) and [fact.value for fact in facts.facts] == ["+28.0 points", "69.0\u00a0%", "3.280"]
    assert [each.anchor for each in shown().sections] == ["answer", "decisions", "scales", "asked", "settings"]


@pytest.mark.parametrize(("change", "word"), [(0.28, "Yes"), (0.02, "Perhaps"), (-0.28, "Doubtful")])
def test_the_answer_is_the_test_parts_not_that_of_select(change: float, word: str) -> None:
    made = made_up_adaptation.adaptation()
    made["rungs"][2]["test"] = made_up_adaptation.share(0.5, change)
    lead = part(of_adaptation(adaptation_of(made, "adapted")).sections[0], Lead)
    assert lead.answer == f"{word}: distil."


def test_where_nothing_was_better_it_says_so_and_what_it_would_take() -> None:
    first = shown("add").sections[0]
    assert part(first, Lead).answer == "Plain addition stays." and "tune" in part(first, Lead).words
    assert part(first, Bullets).lines == [f"{name}: The reason of {name}." for name in ("scale", "distil", "tune")]


def test_where_nothing_else_was_tried_it_says_so_once_with_the_number_of_prompts_that_it_would_take() -> None:
    rungs = [
        made_up_adaptation.rung("add", "kept", test=made_up_adaptation.share(0.4)),
        *(made_up_adaptation.rung(name, "skipped", why="At least 64 are needed.") for name in ("scale", "distil")),
        made_up_adaptation.rung("tune", "skipped", why="It was not asked for."),
    ]
    made = made_up_adaptation.adaptation("add")
    made["rungs"], made["plan"]["rungs"] = rungs, ["add", "scale", "distil"]
    first = of_adaptation(adaptation_of(made, "adapted")).sections[0]
    assert part(first, Lead).answer == "Not tried."
    assert part(first, Bullets).lines == ["scale and distil: At least 64 are needed."]


def test_agreement_is_never_called_quality() -> None:
    first = shown(measure="agreement").sections[0]
    assert "agreement, not quality" in part(first, Lead).words
    assert any(isinstance(each, str) and each.startswith("Agreement, not quality") for each in first.parts)
    assert "right answers" not in markdown(shown(measure="agreement"))


def test_the_table_has_the_models_to_compare_with_and_every_rung() -> None:
    table = part(shown().sections[0], Table)
    assert column(table, "model") == ["the target", "the tuned source", "add", "scale", "distil", "tune"]
    assert column(table, "status")[4] == "kept (chosen)" and column(table, "loss")[-1] == "3.900"
    assert column(table, "against add")[3:] == [0.03, 0.28, 0.38]


def test_the_figure_has_a_trace_for_each_status_and_a_line_for_target_and_source() -> None:
    drawing = part(shown().sections[0], Figure).drawing
    traces = {trace["name"]: trace["y"] for trace in drawing["data"]}
    assert traces == {
        "chosen": ["distil"], "kept": ["add"], "not better": ["scale"], "harmed": ["tune"],
        "for comparison": ["the target", "the tuned source"],
    }  # fmt: skip
    assert len({trace["marker"]["symbol"] for trace in drawing["data"]}) == len(traces)
    assert [line["x0"] for line in drawing["layout"]["shapes"]] == pytest.approx([10, 81])


def test_a_rung_that_was_trained_from_two_names_both() -> None:
    told = next(each for each in section(shown(), "decisions").parts[1:] if isinstance(each, str))
    assert "add (70.0" in told and "scale (66.0" in told


def test_every_scale_is_in_a_table_and_the_chosen_one_is_marked() -> None:
    table = part(section(shown(), "scales"), Table)
    assert len(table.rows) == 7 and column(table, "chosen").index("chosen") == 5
    assert not any(each.anchor == "scales" for each in shown(rungs=[made_up_adaptation.rung("add", "kept")]).sections)


def test_parts_have_their_numbers_and_digests() -> None:
    table = part(section(shown(), "asked"), Table)
    assert column(table, "examples") == ["512", "200", "200"] and table.csv is not None
    assert [len(row[2]) for row in table.csv.rows] == [64, 64, 64]


def test_the_folders_page_stands_beside_it_and_the_files_where_it_lies(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "v2-tuned"
    out.mkdir()
    made_up_adaptation.write(out / "adapt.json")
    (out / "tuneport.json").write_text("{}")
    for given in (out, out / "adapt.json"):
        assert cli("report", given, "--format", "markdown", "--json").json()["out"] == str(tmp_path / "v2-tuned.md")
    assert sorted(path.name for path in out.iterdir()) == ["adapt.json", "tuneport.json"]
    assert (tmp_path / "v2-tuned.md").read_text(encoding="utf-8").startswith("# v2-tuned\n")
    alone = made_up_adaptation.write(tmp_path / "record.json")
    assert report(alone, format="markdown")["out"] == str(tmp_path / "record.md")


def test_an_unfinished_adaptation_has_no_page_yet(tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "v2-tuned.partial"
    place.mkdir()
    (place / "plan.json").write_text(json.dumps(made_up_adaptation.adaptation()["plan"]))
    ran = cli("report", place, "--format", "markdown")
    assert ran.status == 1 and "has not finished" in ran.err
    assert cli("inspect", place, "--json").json()["kind"] == "unfinished output"


def test_texts_of_a_file_stay_texts(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    hostile = "<script>alert(1)</script>"
    made = made_up_adaptation.adaptation()
    for place in (made["rungs"][0], made["rungs"][1]):
        place["name"] = place["why"] = place["status"] = hostile
    made["plan"]["data"][0]["part"] = made["chosen"] = hostile
    (tmp_path / "x.json").write_text(json.dumps(made))
    page = Path(report(tmp_path / "x.json")["out"]).read_text(encoding="utf-8")
    assert hostile not in page and "&lt;script&gt;alert(1)" in page
