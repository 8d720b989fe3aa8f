"""The paper's tables, cell by cell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_up_results import VERSIONS, MadeUp

from tuneport.reporting.render.markdown import markdown
from tuneport.reporting.sections.contents import of_study
from tuneport.reporting.tables.estimates import Estimates
from tuneport.reporting.tables.further_tuning import comparisons
from tuneport.reporting.tables.matrix import Cell, Matrix, matrices, recycling
from tuneport.reporting.tables.report_tables import Findings, findings
from tuneport.results.schema import (
    ADAPTED,
    BASE,
    DIRECT,
    DONE,
    FAILED,
    HEALED,
    ITERATIVE,
    NOT_RUN,
    THEN_TUNED,
    TRANSFER,
    TUNED,
    Model,
)
from tuneport.results.study_reading import Reading
from tuneport.statistics import holm


def results(study: Path) -> list[dict[str, Any]]:
    told = json.loads((study / "results.json").read_text())["results"]
    assert len(told) > 100
    return [row for row in told if row["step"] is None]


def lose(study: Path, name: str, task: str) -> None:
    """Let one evaluation of a model have failed, and with it its score on a task."""
    told = json.loads((study / "results.json").read_text())
    (row,) = [row for row in told["results"] if row["name"] == name and row["step"] is None]
    del row["scores"][task]
    row |= {"status": "failed", "error": "OSError: no room."}
    (study / "results.json").write_text(json.dumps(told))


def spoil(study: Path, name: str, task: str) -> None:
    """Let a model know nothing any more of a task."""
    told = json.loads((study / "results.json").read_text())
    (row,) = [row for row in told["results"] if row["name"] == name and row["step"] is None]
    row["scores"][task] |= {"value": 0.0, "stderr": 0.001}
    (study / "results.json").write_text(json.dumps(told))


def cells(matrix: Matrix) -> dict[tuple[str, str], Cell]:
    found = {}
    for row in matrix.rows:
        for target, cell in zip(matrix.targets, row.cells, strict=True):
            if cell is not None:
                found[row.label, target] = cell
    return found


def test_rows_are_base_the_diff_vectors_in_order_and_ft_and_columns_the_targets(found: Findings) -> None:
    for matrix, arrow in ((found.transfers[0], ""), (found.tuned_on[0], " → FT")):
        assert [row.label for row in matrix.rows] == [
            "base",
            *(f"+ Δ({name}){arrow}" for name in VERSIONS),
            "FT(·)",
        ]
        assert matrix.targets == VERSIONS
        assert all(matrix.rows[1 + place].cells[place] is None for place in range(5)), "no Δ on its own base"


def test_every_cell_is_the_mean_over_families_of_what_results_json_says(study: Path, found: Findings) -> None:
    rows = results(study)
    checked = 0
    for matrix in found.transfers:
        for cell in (cell for row in matrix.rows for cell in row.cells if cell is not None and cell.shown is not None):
            same = [
                row["scores"][matrix.task]["value"]
                for row in rows
                if (row["kind"], row["source"], row["target"])
                == (cell.model.kind, cell.model.source, cell.model.target)
                and row["status"] == "done"
                and (row["kind"] != TUNED or row["steps_total"] == 250)
            ]
            assert cell.shown is not None and cell.shown.value == pytest.approx(np.mean(same))
            checked += 1
    assert checked == 2 * 30


def test_gains_count_from_the_base_and_after_further_fine_tuning_from_the_transferred_model(found: Findings) -> None:
    transferred, tuned_on = cells(found.transfers[0]), cells(found.tuned_on[0])
    here = transferred["+ Δ(M4)", "M5"]
    base = transferred["base", "M5"]
    assert here.gain is not None and here.shown is not None and base.shown is not None
    assert here.gain.value == pytest.approx(here.shown.value - base.shown.value)
    there = tuned_on["+ Δ(M4) → FT", "M5"]
    assert there.gain is not None and there.shown is not None and there.over == here.model
    assert there.gain.value == pytest.approx(there.shown.value - here.shown.value)
    assert there.against_base is not None
    assert there.against_base.value == pytest.approx(there.shown.value - base.shown.value)


def test_the_best_of_each_row_and_the_best_diff_vector_for_each_target_are_marked(found: Findings) -> None:
    for matrix in (*found.transfers, *found.tuned_on):
        for row in matrix.rows:
            values = {c.model: c.shown.value for c in row.cells if c is not None and c.shown is not None}
            marked = {c.model for c in row.cells if c is not None and c.best_of_row}
            assert marked == {model for model, value in values.items() if value == max(values.values())}
        for place in range(5):
            column = [c for c in (row.cells[place] for row in matrix.rows if row.role == "delta") if c and c.shown]
            best = max(c.shown.value for c in column if c.shown)
            assert {c.model for c in column if c.best_of_target} == {
                c.model for c in column if c.shown and c.shown.value == best
            }


def test_what_is_clearly_below_its_base_is_marked_and_what_might_be_chance_is_not(found: Findings) -> None:
    matrix = found.transfers[0]
    worse = [cell for cell in matrix.deltas if cell.clearly < 0]
    assert worse, "the made-up study has degradations"
    for cell in worse:
        assert cell.against_base is not None and cell.against_base.interval is not None
        assert cell.against_base.interval[1] < 0
    for cell in matrix.deltas:
        if cell.against_base is not None and cell.against_base.interval is not None:
            low, high = cell.against_base.interval
            assert cell.clearly == 0 or low > 0 or high < 0


def test_every_row_that_is_compared_with_its_base_is_marked(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    spoil(root, "FT(M4)", "sums")
    spoil(root, "M4 + Δ(M5) → FT", "sums")
    spoil(root, "M4 + Δiter(M3) → FT", "sums")
    found = findings(root)
    for matrix, label in (
        (found.transfers[0], "FT(·)"),
        (found.tuned_on[0], "+ Δ(M5) → FT"),
        (found.tuned_on[0], "FT(·)"),
        (found.recycled[0], "FT(·), nothing recycled"),
        (found.recycled[0], "+ Δiter → FT"),
    ):
        assert cells(matrix)[label, "M4"].clearly == -1 and cells(matrix)[label, "M3"].clearly == 1, label


def test_a_failed_and_a_waiting_model_stay_visible_with_their_reason(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), seeds=(0,), failed=(0, 0, "M1", "M5"))
    found = findings(made.write())
    failed = cells(found.transfers[0])["+ Δ(M1)", "M5"]
    assert failed.status == FAILED and failed.shown is None and "disk is full" in str(failed.reason)
    waiting = cells(found.tuned_on[0])["+ Δ(M1) → FT", "M5"]
    assert waiting.status == NOT_RUN and "M5 + Δ(M1) failed" in str(waiting.reason)


def test_a_mean_over_fewer_results_than_were_asked_for_says_of_how_many(found: Findings) -> None:
    here = cells(found.transfers[0])
    assert here["+ Δ(M1)", "M5"].status == DONE and here["+ Δ(M1)", "M5"].results == (1, 2)
    assert here["+ Δ(M2)", "M5"].results == (2, 2)


def test_a_model_of_which_one_evaluation_failed_shows_the_scores_that_it_has(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None)
    root = made.write()
    lose(root, "M5 + Δ(M4)", "facts")
    found = findings(root)
    sums, facts = map(cells, found.transfers)
    there, gone = sums["+ Δ(M4)", "M5"], facts["+ Δ(M4)", "M5"]
    assert there.shown is not None and (there.status, there.reason, there.results) == (DONE, None, (1, 1))
    assert gone.shown is None and gone.status == FAILED and "no room" in str(gone.reason)


def test_published_numbers_stand_in_their_cells(found: Findings) -> None:
    here = cells(found.transfers[0])
    assert here["+ Δ(M4)", "M5"].published == 77.1 and here["FT(·)", "M5"].published == 75.5
    assert here["base", "M5"].published == 65.5 and here["base", "M4"].published is None
    assert all(cell.published is None for cell in cells(found.transfers[1]).values()), "another task"


def test_a_published_number_is_that_of_the_papers_own_table_of_such_models(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    told = json.loads((root / "results.json").read_text())
    base = {"table": "6", "task": "sums", "tuning": "sft", "note": "", "target": "M5"}
    told["study"]["expected"] += [
        {**base, "kind": TUNED, "source": None, "value": 75.6},
        {**base, "kind": DIRECT, "source": "M4", "value": 74.6},
    ]
    (root / "results.json").write_text(json.dumps(told))
    found = findings(root)
    assert cells(found.transfers[0])["FT(·)", "M5"].published == 75.5
    assert cells(found.recycled[0])["FT(·), nothing recycled", "M5"].published == 75.6
    assert cells(found.recycled[0])["base", "M5"].published == 65.5, "Table 3 alone has it"


def test_recycling_has_none_direct_and_iterative_and_gains_from_the_base(found: Findings) -> None:
    (sums, facts) = recycling(found.reading, found.estimates)
    assert [row.label for row in sums.rows] == ["base", "FT(·), nothing recycled", "+ Δdir → FT", "+ Δiter → FT"]
    assert sums.targets == VERSIONS[1:] and facts.task == "facts"
    for row in sums.rows[1:]:
        for base, cell in zip(sums.rows[0].cells, row.cells, strict=True):
            assert cell is not None and cell.shown is not None and cell.gain is not None
            assert base is not None and base.shown is not None
            assert cell.gain.value == pytest.approx(cell.shown.value - base.shown.value)


def test_what_is_clear_is_adjusted_among_the_models_of_a_kind(found: Findings) -> None:
    for matrix in matrices(found.reading, found.estimates, TRANSFER):
        for role in ("delta", "tuned"):
            cells = [
                cell for row in matrix.rows if row.role == role for cell in row.cells if cell and cell.against_base
            ]
            adjusted = holm([cell.against_base.p for cell in cells if cell.against_base])
            assert cells and [cell.clearly != 0 for cell in cells] == [p < 0.05 for p in adjusted]


def test_each_further_fine_tuning_stands_against_ft_at_the_same_steps_and_at_the_same_total(found: Findings) -> None:
    rows = [row for row in comparisons(found.reading, found.estimates) if row.model.kind == THEN_TUNED]
    assert len(rows) == 2 * 20
    for row in rows:
        plain = found.estimates.value(Model(TUNED, None, row.model.target, row.model.tuning), row.task)
        longer = found.estimates.value(Model(TUNED, None, row.model.target, row.model.tuning, steps=500), row.task)
        assert row.totals[0] == 500 and plain is not None and longer is not None
        assert row.changes[0] is not None and row.changes[1] is not None
        if (row.model.source, row.model.target) != ("M1", "M5"):  # it lacks one family's result
            assert row.changes[0].value == pytest.approx(row.shown.value - plain.value)
            assert row.changes[1].value == pytest.approx(row.shown.value - longer.value)


@pytest.mark.parametrize("others", [None, 300])
def test_where_no_fine_tuning_is_known_to_have_had_as_many_steps_none_is_said_to(
    tmp_path: Path, others: int | None
) -> None:
    """FT(M_i) from outside has steps that nobody knows; a stage upon a stage has had more."""
    made = MadeUp(tmp_path / "study", families=(0,), seeds=(0,), failed=None)
    made.write()
    told = json.loads((made.root / "results.json").read_text())
    for row in told["results"]:
        if row["kind"] == TUNED and row["steps_total"] == 250:
            row["steps_on_target"] = others
    (made.root / "results.json").write_text(json.dumps(told))
    found = findings(made.root)
    rows = comparisons(found.reading, found.estimates)
    assert rows and all(row.changes[0] is None for row in rows) and any(row.changes[1] for row in rows)


def test_a_result_that_is_not_there_hinders_no_comparison_of_the_others(tmp_path: Path) -> None:
    """It failed, and an epoch's steps are not known."""
    made = MadeUp(tmp_path / "study", families=(0, 1), failed=None)
    made.write()
    told = json.loads((made.root / "results.json").read_text())
    whole = [row.changes[0] for row in comparisons(*_found(made.root))]
    for row in told["results"]:
        if row["family"] == 0 and row["name"] == "M5 + Δ(M1) → FT":
            row |= {"steps_on_target": None, "scores": {}, "status": "failed", "error": "the disk is full"}
    (made.root / "results.json").write_text(json.dumps(told))
    assert [row.changes[0] is not None for row in comparisons(*_found(made.root))] == [c is not None for c in whole]


def _found(root: Path) -> tuple[Reading, Estimates]:
    told = findings(root)
    return told.reading, told.estimates


def test_a_tuning_has_a_row_only_on_the_tasks_that_its_models_are_asked(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), seeds=(0,), failed=None)
    made.write()
    told = json.loads((made.root / "results.json").read_text())
    for row in list(told["results"]):
        if row["kind"] == TRANSFER and row["step"] is None:
            told["results"].append({**row, "tuning": "turkish", "scores": {"turkish": row["scores"]["sums"]}})
    (made.root / "results.json").write_text(json.dumps(told))
    found = findings(made.root)
    by_task = {m.task: m for m in matrices(found.reading, found.estimates, TRANSFER)}
    assert "+ Δ(M4, sft)" in [row.label for row in by_task["sums"].rows]
    assert not any("turkish" in row.label for row in by_task["sums"].rows)
    assert [row.label for row in by_task["turkish"].rows if row.role == "delta"] == [
        f"+ Δ({name}, turkish)" for name in VERSIONS
    ]


def test_adapted_transfers_stand_beside_what_they_began_as_and_healed_recycling_beside_iterative(
    tmp_path: Path,
) -> None:
    made = MadeUp(tmp_path / "study", families=(0, 1), failed=None)
    made.write()
    told = json.loads((made.root / "results.json").read_text())
    for kind, other in ((TRANSFER, ADAPTED), (ITERATIVE, HEALED)):
        rows = [row for row in told["results"] if row["kind"] == kind and row["step"] is None]
        told["results"] += [{**row, "kind": other} for row in rows if kind == ITERATIVE or row["source"] == "M4"]
    (made.root / "results.json").write_text(json.dumps(told))
    found = findings(made.root)
    for matrix in found.adapted:
        assert [row.label for row in matrix.rows] == ["base", "+ Δ(M4)", "+ Δ(M4) → adapted", "FT(·)"]
        by_label = cells(matrix)
        for target in matrix.targets:
            plain, adapted = by_label["+ Δ(M4)", target], by_label["+ Δ(M4) → adapted", target]
            assert adapted.model == replace(plain.model, kind=ADAPTED) and adapted.over == Model(BASE, None, target)
            assert plain.recovered == adapted.recovered and plain.gain is not None and adapted.gain is not None
    assert {matrix.task for matrix in found.adapted} == {"sums", "facts"}
    assert [row.label for row in found.recycled[0].rows][-2:] == ["+ Δiter → FT", "+ Δiter → adapted → FT"]
    assert HEALED in {row.model.kind for row in found.compared}
    page = markdown(of_study(found, made.root))
    assert "What does adapting close of the gap?" in page and "M5 + Δiter(M4) → adapted → FT" in page


def test_iterative_recycling_stands_twice_against_direct_where_they_are_two_models(found: Findings) -> None:
    assert {(row.model.target, row.task) for row in found.against_direct} == {
        (version, task) for version in ("M3", "M4", "M5") for task in ("sums", "facts")
    }
    for row in found.against_direct:
        own = found.estimates.value(row.model, row.task)
        assert row.totals[0] is not None and row.totals[1] is not None and row.totals[0] > row.totals[1]
        for steps, change in ((None, row.changes[0]), (row.totals[0], row.changes[1])):
            direct = found.estimates.value(replace(row.model, kind=DIRECT, steps=steps), row.task)
            assert own is not None and direct is not None and change is not None
            assert change.value == pytest.approx(own.value - direct.value)


def test_a_longer_direct_recycling_stands_against_plain_fine_tuning_at_the_same_total_alone(found: Findings) -> None:
    rows = [row for row in comparisons(found.reading, found.estimates) if row.model.kind == DIRECT and row.model.steps]
    assert {row.model.target for row in rows} == {"M3", "M4", "M5"}
    assert all(row.changes[0] is None and row.totals[0] == row.model.steps for row in rows)
