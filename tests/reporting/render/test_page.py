"""The page says what the records say, fetches nothing, and lets no text of a study become markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import plotly.graph_objects as go
import pytest
from support.made_up_results import MadeUp

import tuneport
from reporting.tables.test_matrix import lose, spoil
from tuneport.reporting.run import report
from tuneport.reporting.tables.estimates import Estimates
from tuneport.reporting.tables.report_tables import Findings, findings
from tuneport.reporting.tables.study_summary import asked_and_done

HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=1">"\'&lt;</script><!--\x00\ud800'
VOID = {"meta", "link", "br", "hr", "input", "img"}


class Page(HTMLParser):
    """Elements with their attributes and texts, and what is open when each begins."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.parts: dict[int, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [self.elements[place][0] for place in self.open]))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)
            self.parts[self.open[-1]] = []

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open[-1]][0] == tag, f"{tag} closes {self.elements[self.open[-1]][0]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.parts[place].append(data)

    def all(self, tag: str, class_: str | None = None) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, "".join(self.parts.get(place, ())))
            for place, (name, attributes, _) in enumerate(self.elements)
            if name == tag and (class_ is None or class_ in str(attributes.get("class", "")).split())
        ]


@pytest.fixture(scope="module")
def page(page_file: Path) -> Page:
    return Page(page_file.read_text(encoding="utf-8"))


def figures(page: Page) -> list[dict[str, Any]]:
    found = [json.loads(text) for _, text in page.all("script", "figure-data")]
    assert len(found) > 20
    return found


def test_nothing_is_fetched_from_anywhere(page_file: Path, page: Page) -> None:
    for tag, attributes, _ in page.elements:
        assert "src" not in attributes and tag not in ("link", "iframe", "object", "img")
        href = attributes.get("href")
        if href is not None:
            assert re.match(r"#|data:text/csv|steps/", href), href
    ((policy, _),) = [m for m in page.all("meta") if m[0].get("http-equiv") == "Content-Security-Policy"]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_it_says_no_path_of_this_machine(page_file: Path, study: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert str(study) not in text and str(study.parent) not in text


def test_plotly_accepts_every_figure_as_it_stands(page: Page) -> None:
    for figure in figures(page):
        go.Figure(figure)  # raises on any property that plotly does not have


def test_every_figure_has_words_and_its_numbers_to_download(page: Page) -> None:
    shown = page.all("figure")
    assert len(shown) == len(figures(page)) == len(page.all("div", "plot"))
    for attributes, text in page.all("div", "plot"):
        assert attributes["role"] == "img" and len(str(attributes["aria-label"])) > 20, text[:80]
    figures_with_csv = [
        attributes
        for tag, attributes, inside in page.elements
        if tag == "a" and "figure" in inside and "download" in attributes
    ]
    assert len(figures_with_csv) == len(shown)
    for attributes in figures_with_csv:
        data = unquote(str(attributes["href"]))
        assert data.count("\r\n") >= 2, "a heading and a line at least"


def test_the_heat_map_and_the_table_hold_the_same_numbers(page: Page, found: Findings) -> None:
    matrix = found.transfers[0]
    figure = next(f for f in figures(page) if f["data"][0]["type"] == "heatmap")
    rows = list(reversed(matrix.rows))
    for row, values, hover in zip(rows, figure["data"][0]["z"], figure["data"][0]["customdata"], strict=True):
        for cell, value, words in zip(row.cells, values, hover, strict=True):
            if cell is None:
                assert value is None and words == ""
            else:
                assert cell.shown is not None and value == pytest.approx(100 * cell.shown.value)
                assert f"{100 * cell.shown.value:.1f}\u00a0%" in words and "n = 200" in words
    table = page.all("table", "matrix")[0][1]
    for cell in (cell for row in matrix.rows for cell in row.cells if cell is not None and cell.shown is not None):
        assert cell.shown is not None and f"{100 * cell.shown.value:.1f}" in table


def test_degradations_and_the_best_are_told_by_more_than_colour(page: Page, found: Findings) -> None:
    matrix = found.transfers[0]
    table = page.all("table", "matrix")[0][1]
    assert table.count("▼") == sum(cell.clearly < 0 for cell in matrix.changed) > 0
    assert table.count(", significantly below the base") == table.count("▼")
    assert table.count("★") == sum(cell.best_of_target for cell in matrix.deltas) == 5
    assert table.count(", best in its row") == len(matrix.rows)


def test_a_fine_tuning_that_harms_is_marked_in_page_and_markdown(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    spoil(root, "FT(M4)", "sums")
    page = Page(Path(report(root)["out"]).read_text(encoding="utf-8"))
    shown = [text for _, text in page.all("tr", "role-tuned") if "▼" in text]
    assert len(shown) == 3, "after transfer, further fine-tuning and recycling"
    assert all("FT(·" in text and text.count(", significantly below the base") == 1 for text in shown)
    words = " ".join(text for _, text in page.all("figcaption"))
    assert "Significantly worse than the base: " in words and "FT(M4)" in words
    rows = [unquote(str(a["href"])) for a, _ in page.all("a") if a.get("download") == "transfer-sums.csv"]
    (line,) = [line for line in rows[0].splitlines() if line.startswith("FT(M4),")]
    assert ",worse," in line
    markdown = Path(report(root, format="markdown")["out"]).read_text(encoding="utf-8")
    assert sum("▼" in line for line in markdown.splitlines() if line.startswith("| FT(·")) == 3


def test_every_record_and_command_is_on_the_page(page: Page, study: Path) -> None:
    records = {file.parent.name: json.loads(file.read_text()) for file in study.glob("steps/*/record.json")}
    assert len(records) > 100
    links = {str(attributes.get("href")) for attributes, _ in page.all("a")}
    text = "\n".join(text for _, text in page.all("details", "record"))
    for folder, record in records.items():
        assert f"steps/{folder}/record.json" in links
        assert record["command"] in text
        assert (study / "steps" / folder / "record.json").is_file()


def test_what_failed_and_what_was_not_run_stand_there_with_their_reason(page: Page, study: Path) -> None:
    ((_, section),) = [each for each in page.all("section") if each[0].get("id") == "failures"]
    assert "the disk is full" in section and "M5 + Δ(M1) → FT" in section and "not run" in section


def test_distances_of_versions_stand_in_a_table_and_can_be_downloaded(page: Page, found: Findings) -> None:
    ((_, section),) = [each for each in page.all("section") if each[0].get("id") == "distances"]
    assert "M1 – M5" in section and f"{found.distances[0].distance:.4g}" in section
    assert any(a.get("download") == "distances.csv" for a, _ in page.all("a"))


def test_published_numbers_stand_beside_ours_and_are_called_so(page: Page) -> None:
    ((_, section),) = [each for each in page.all("section") if each[0].get("id") == "published"]
    assert "come from another setup" in section and "77.1" in section and "10.6 in the text" in section


def test_answers_show_the_question_the_right_answer_and_three_models(page: Page) -> None:
    ((_, section),) = [each for each in page.all("section") if each[0].get("id") == "answers"]
    assert "How much is" in section and "right answer" in section
    assert len(page.all("select")) == 3
    (chosen,) = [json.loads(text) for a, text in page.all("script") if a.get("id") == "answers-data"]
    assert {"M5", "FT(M5)", "M5 + Δ(M4)", "M5 + Δ(M4) → FT"} <= set(chosen["models"])
    assert all(len(example) == len(chosen["models"]) for example in chosen["said"])


def test_the_paragraph_counts_what_failed_and_names_the_best(found: Findings) -> None:
    words = " ".join([*found.asked, *found.told])
    best = max(found.transfers[0].deltas, key=lambda cell: cell.against_base.value if cell.against_base else -9)
    done = sum(run.status == "done" for run in found.reading.runs if run.step is None)
    everything = sum(run.step is None for run in found.reading.runs)
    assert f"{done} of {everything} results are available, 1 failed and 1 was skipped" in words
    assert f"Best: {best.model.name()} with" in words


def test_the_paragraph_says_no_nothing_failed_where_a_step_failed_that_scores_nothing(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    made.step("path", "path M1 – M5", outcome="failed", error="NumericsError: no loss.")
    words = " ".join(findings(made.write()).asked)
    assert "results are available; 1 step failed (see below)." in words and "nothing failed" not in words


def test_what_failed_under_other_choices_counts_nowhere_and_is_found_among_the_records(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    root = made.write()
    whole = report(root, format="markdown")
    made.step("evaluate", "evaluate M1", outcome="failed", error="OSError: the disk was full.")
    told = report(root)
    assert told["summary"] == whole["summary"] and "nothing failed" in told["summary"]
    assert f"of {len(made.steps) - 1} steps" in told["words"]
    page = Page(Path(told["out"]).read_text(encoding="utf-8"))
    sections = {each[0].get("id"): each[1] for each in page.all("section")}
    assert (
        "failures" not in sections and f"{len(made.steps) - 1} steps: {len(made.steps) - 1} done" in sections["records"]
    )
    assert "of other choices 1 record" in sections["records"] and "the disk was full" in sections["records"]
    again = report(root, format="markdown")
    assert "the disk was full" not in Path(again["out"]).read_text(encoding="utf-8")


def test_a_model_with_some_scores_is_not_without_any_result(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    lose(root, "M5 + Δ(M4)", "facts")
    told = report(root)
    assert "results are available and 1 is incomplete (in part: M5 + Δ(M4))." in told["summary"]
    assert "Best: M5 + Δ(M4)" in told["summary"]
    page = Page(Path(told["out"]).read_text(encoding="utf-8"))
    ((_, section),) = [each for each in page.all("section") if each[0].get("id") == "failures"]
    assert "failed, in part" in section and "no result at all" not in section
    markdown = report(root, format="markdown")
    row = "| M5 + Δ(M4) | 0 | 0 | failed, in part | OSError: no room. |"
    assert row in Path(markdown["out"]).read_text(encoding="utf-8")


def test_losses_of_answers_are_no_tasks_of_their_own_in_the_paragraph(found: Findings) -> None:
    rows = [
        replace(run, scores={name + end: score for name, score in run.scores.items() for end in ("", ", loss")})
        for run in found.reading.runs
    ]
    reading = replace(found.reading, runs=tuple(rows))
    words = " ".join(asked_and_done(reading, Estimates(reading.runs, reading.root)))
    assert "scored on sums and facts, each with the loss of its answers." in words


def hostile_study(place: Path) -> Path:
    """A study whose names, errors and answers would be scripts if they were let."""
    made = MadeUp(place, families=(0,), error=HOSTILE)
    made.write()
    file = place / "results.json"
    told = json.loads(file.read_text())
    told["study"]["name"] = HOSTILE
    told["study"]["notes"] = [HOSTILE]
    for row in told["results"]:
        row["scores"] = {f"{task}{HOSTILE}": score for task, score in row["scores"].items()}
        for key in ("source", "target"):
            if row[key] == "M5":
                row[key] = f"M5{HOSTILE}"
    for path in told["paths"]:
        path["a"] = HOSTILE
    told["distances"].append({"a": HOSTILE, "b": "M1", "distance": 1.0})
    file.write_text(json.dumps(told))
    for answers in place.glob("steps/*/scores.examples.jsonl"):
        lines = [json.loads(line) for line in answers.read_text().splitlines()]
        changed = [{**line, "said": f"{line['said']}{HOSTILE}", "task": f"{line['task']}{HOSTILE}"} for line in lines]
        answers.write_text("".join(json.dumps(line) + "\n" for line in changed))
    for record in place.glob("steps/*/record.json"):
        whole = json.loads(record.read_text())
        record.write_text(json.dumps({**whole, "name": HOSTILE, "command": f"{whole['command']} {HOSTILE}"}))
    return place


def test_names_errors_and_answers_never_become_elements(tmp_path: Path, page: Page) -> None:
    hostile = Page(Path(report(hostile_study(tmp_path / "study"))["out"]).read_text(encoding="utf-8"))
    assert not hostile.all("img")
    assert [text for _, text in hostile.all("title")] == [
        f"{HOSTILE} · tuneport report".replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    ]
    ours = {attributes.get("class") or attributes.get("id") or "" for attributes, _ in page.all("script")}
    assert {a.get("class") or a.get("id") or "" for a, _ in hostile.all("script")} <= ours
    assert len([1 for a, _ in hostile.all("script") if not a]) == 2, "plotly and the page's own"
    for figure in (json.loads(text) for _, text in hostile.all("script", "figure-data")):
        assert "<script" not in json.dumps(figure) and "<img" not in json.dumps(figure)


def test_a_page_beside_the_study_leads_to_the_records_where_they_lie(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "a study", families=(0,))
    told = report(made.write(), tmp_path / "page.html")
    page = Page(Path(told["out"]).read_text(encoding="utf-8"))
    links = [str(a["href"]) for a, _ in page.all("a") if str(a.get("href", "")).endswith("record.json")]
    assert len(links) > 50
    for link in links:
        assert (tmp_path / unquote(link)).is_file()


def test_a_study_of_which_nothing_is_done_yet_has_a_page_too(tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    (root / "results.json").write_text(json.dumps({"study": {"name": "begun"}, "results": [], "steps": []}))
    told = report(root)
    assert "there are no scores yet" in told["summary"]
    assert "begun" in Path(told["out"]).read_text(encoding="utf-8")


def test_two_pages_of_one_study_are_the_same_bytes(study: Path, tmp_path: Path, page_file: Path) -> None:
    again = Path(report(study, study / "again.html")["out"])
    assert again.read_bytes() == page_file.read_bytes()
    again.unlink()


def test_the_command_can_be_called_from_python(study: Path, tmp_path: Path) -> None:
    told = tuneport.report(study, study / "called.md", format="markdown")
    assert Path(told["out"]).read_text(encoding="utf-8").startswith("# made-up")
    Path(told["out"]).unlink()


def test_every_section_asks_one_question(page: Page) -> None:
    titles = [text for _, text in page.all("h2")]
    assert len(titles) >= 12 and all(title.endswith("?") and title.count("?") == 1 for title in titles), titles


def test_no_table_has_a_column_without_anything_in_it(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    root = made.write()
    told = json.loads((root / "results.json").read_text())
    for row in [*told["distances"], *told["paths"]]:
        row |= {"family": None, "seed": None, "diff_norm_a": None, "diff_norm_b": None}
    (root / "results.json").write_text(json.dumps(told))
    page = Page(Path(report(root)["out"]).read_text(encoding="utf-8"))
    ((_, section),) = [each for each in page.all("section") if each[0].get("id") == "distances"]
    assert "family" not in section and "‖Δ_i‖" not in section and "cos(Δ_i, Δ_j)" in section


def test_what_is_still_to_come_has_not_failed(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    wait(root, "M5 + Δ(M1)")
    told = report(root)
    assert "1 is pending" in told["summary"] and "failed" not in told["summary"]
    page = Page(Path(told["out"]).read_text(encoding="utf-8"))
    sections = {each[0].get("id"): each[1] for each in page.all("section")}
    assert "failures" not in sections and "evaluate M5 + Δ(M1)" in sections["pending"]
    assert [text for _, text in page.all("a", "pending")] == ["pending"] * 2 and page.all("a", "missing") == []
    figure = next(f for f in figures(page) if f["data"][0]["type"] == "heatmap")
    assert ["pending" in words for row in figure["data"][0]["text"] for words in row].count(True) == 1


def wait(root: Path, name: str) -> None:
    """As a study's folder is before this model is scored."""
    file = root / "results.json"
    told = json.loads(file.read_text())
    for row in told["results"]:
        if row["name"] == name and row["step"] is None:
            row |= {"status": "not run", "error": None, "scores": {}}
    for step in told["steps"]:
        if step["name"] == f"evaluate {name}":
            (root / "steps" / step["folder"] / "record.json").unlink()
            step |= {"outcome": "not run", "error": None, "seconds": None}
    file.write_text(json.dumps(told))


def test_a_page_of_many_tasks_opens_short(tmp_path: Path) -> None:
    tasks = tuple(f"task {number}" for number in range(14))
    root = MadeUp(tmp_path / "study", families=(0,), failed=None, tasks=tasks).write()
    page = Page(Path(report(root)["out"]).read_text(encoding="utf-8"))
    open_tables = [inside for tag, _, inside in page.elements if tag == "table" and "details" not in inside]
    assert len(open_tables) == 1, "one matrix; the rest is folded"
    assert "task 0" in page.all("section")[0][1]
