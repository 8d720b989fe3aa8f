"""Markdown for a model card or an issue: the same numbers, nothing that a file could turn into markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_up_results import MadeUp

from reporting.render.test_page import HOSTILE, hostile_study
from tuneport.reporting.render.markdown import markdown, text
from tuneport.reporting.run import report
from tuneport.reporting.sections.contents import of_study
from tuneport.reporting.tables.further_tuning import Comparison
from tuneport.reporting.tables.report_tables import Findings, findings
from tuneport.reporting.tables.wording import FALLEN, signed


@pytest.fixture(scope="module")
def written(found: Findings) -> str:
    return markdown(of_study(found, Path("report.md")))


def tables(written: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = [[]]
    for line in written.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head(written: str) -> None:
    found = tables(written)
    assert len(found) >= 8
    for table in found:
        assert len({len(row) for row in table}) == 1


def test_the_first_table_is_the_papers_with_the_same_numbers_as_the_page(written: str, found: Findings) -> None:
    head, rule, *rows = tables(written)[0]
    assert head == ["model", "M1", "M2", "M3", "M4", "M5"] and set(rule) == {"---", "---:"}
    for row, cells in zip(found.transfers[0].rows, rows, strict=True):
        assert cells[0] == text(row.label)
        for cell, shown in zip(row.cells, cells[1:], strict=True):
            if cell is None:
                assert shown == ""
            else:
                assert cell.shown is not None and f"{100 * cell.shown.value:.1f}" in shown
                assert ("▼" in shown) == (cell.clearly < 0) and ("★" in shown) == cell.best_of_target


def test_distances_stand_there_in_the_papers_letters(written: str, found: Findings) -> None:
    (table,) = [each for each in tables(written) if each[0][0] == "versions"]
    assert table[0][4:] == [text(name) for name in ("‖M_i − M_j‖", "‖Δ_i‖", "‖Δ_j‖", "cos(Δ_i, Δ_j)")]
    assert len(table) == 2 + len(found.distances) and table[2][4] == f"{found.distances[0].distance:.4g}"


def test_iterative_minus_direct_stands_there_twice(written: str, found: Findings) -> None:
    (table,) = [each for each in tables(written) if each[0][0] == "version"]
    for row, (version, task, *told) in zip(found.against_direct, table[2:], strict=True):
        assert (version, task) == (row.model.target, row.task)
        for change, cell in zip(row.changes, told[:2], strict=True):
            assert change is not None and cell.startswith(signed(change.value, row.share))


def as_loss(row: Comparison) -> Comparison:
    return replace(row, shown=replace(row.shown, score=replace(row.shown.score, higher_is_better=False)))


def test_which_way_a_loss_counts_is_said_where_one_is_compared(written: str, found: Findings) -> None:
    assert text(FALLEN) not in written, "here all is answers right or wrong"
    losses = replace(
        found,
        compared=tuple(map(as_loss, found.compared)),
        against_direct=tuple(map(as_loss, found.against_direct)),
    )
    assert markdown(of_study(losses, Path("report.md"))).count(text(FALLEN)) == 3, (
        "transfer-then-tune, recycling, and iterative against direct"
    )


def test_transfers_at_other_scales_and_models_of_no_other_table_stand_there(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    told = json.loads((root / "results.json").read_text())
    for row in [row for row in told["results"] if row["name"] == "M5 + Δ(M4)"]:
        told["results"].append({**row, "name": "M5 + 0.5·Δ(M4)", "scale": 0.5})
    (root / "results.json").write_text(json.dumps(told))
    found = findings(root)
    written = tables(markdown(of_study(found, Path("report.md"))))
    (scales,) = [table for table in written if table[0][:3] == ["transfer", "task", "α = 0.5"]]
    assert scales[0] == ["transfer", "task", "α = 0.5", "α = 1"] and len(scales) == 2 + len(found.scaled)
    (row,) = [row for row in scales if row[:2] == ["M5 + α·Δ(M4)", "sums"]]
    assert row[2] == row[3] and "[" in row[2]
    (everything,) = [table for table in written if table[0] == ["model", "kind", "sums", "facts"]]
    assert {f"FT({name}) for 500 steps" for name in ("M1", "M2", "M3", "M4", "M5")} <= {row[0] for row in everything}


def test_what_failed_stands_there(written: str) -> None:
    assert "## What failed, and why?" in written and "the disk is full" in written


def test_no_text_of_a_study_becomes_markup_a_mention_or_a_cell(tmp_path: Path) -> None:
    told = report(hostile_study(tmp_path / "study"), format="markdown")
    written = Path(told["out"]).read_text(encoding="utf-8")
    assert HOSTILE[:8] not in written and not re.search(r"(?<!\\)<", written)
    for table in tables(written):
        assert len({len(row) for row in table}) == 1


@pytest.mark.parametrize("words", ["| a", "a\n# b", "[x](http://y)", "`x`", "@someone", "#12", "<b>", "a\\", "**x**"])
def test_special_characters_are_escaped_and_lines_joined(words: str) -> None:
    shown = text(words)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#@]", shown)
