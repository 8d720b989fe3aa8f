"""A study's folder is read as it is: whole, torn, or of records alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_up_results import VERSIONS, MadeUp

from tuneport.errors import ReportError
from tuneport.reporting.tables.predictors import lines
from tuneport.reporting.tables.report_tables import findings
from tuneport.results.schema import BASE, DIRECT, TRANSFER, TUNED, Model
from tuneport.results.study_reading import read_study


@pytest.fixture
def small(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "study", families=(0,), seeds=(0,), failed=(0, 0, "M1", "M5"))


def test_every_result_is_read_with_the_steps_that_scored_it(small: MadeUp) -> None:
    reading = read_study(small.write())
    at_end = [run for run in reading.runs if run.step is None]
    assert len(at_end) == sum(row["step"] is None for row in small.rows) > 50
    done = [run for run in at_end if run.status == "done"]
    commands = {step.folder: step.command for step in reading.steps}
    for run in done:
        (folder,) = run.folders
        assert commands[folder] == f"tuneport evaluate 'evaluate {run.model.name()}'"
    assert reading.versions == ("M1", "M2", "M3", "M4", "M5")
    assert reading.doubts == ()


def test_a_fine_tuning_of_more_steps_is_a_model_of_its_own(small: MadeUp) -> None:
    models = {run.model for run in read_study(small.write()).runs if run.model.kind == TUNED and run.step is None}
    assert Model(TUNED, None, "M3", "sft") in models
    assert Model(TUNED, None, "M3", "sft", steps=500) in models
    assert Model(TUNED, None, "M3", "sft", steps=500).name() == "FT(M3) for 500 steps"


def test_a_direct_recycling_of_more_steps_is_a_model_of_its_own(small: MadeUp) -> None:
    models = {run.model for run in read_study(small.write()).runs if run.model.kind == DIRECT and run.step is None}
    longer = Model(DIRECT, "M3", "M4", "sft", steps=1000)
    assert {replace(longer, steps=None), longer} <= models
    assert longer.name() == "M4 + Δdir(M3) → FT, 1000 steps in all"


def test_models_whose_steps_cannot_be_counted_are_told_apart_and_have_no_rival_at_the_same_total(small: MadeUp) -> None:
    """What began from a model that others tuned has no total."""
    small.write()
    told = json.loads((small.root / "results.json").read_text())
    for row in told["results"]:
        if row["kind"] in ("tuned", "recycle-direct") and row["step"] is None:
            row["steps_total"] = None
    (small.root / "results.json").write_text(json.dumps(told))
    runs = [run for run in read_study(small.root).at_end if run.model.kind in (TUNED, DIRECT)]
    assert {run.model for run in runs if run.model.target == "M4"} == {
        *(Model(TUNED, None, "M4", "sft", steps=steps) for steps in (None, 500)),
        *(Model(DIRECT, "M3", "M4", "sft", steps=steps) for steps in (None, 1000)),
    }
    compared = findings(small.root).compared
    assert compared and all(row.changes[1] is None for row in compared)


def test_the_curves_of_two_lengths_of_fine_tuning_are_kept_apart(small: MadeUp) -> None:
    points = [run for run in read_study(small.write()).runs if run.step is not None and run.model.kind == TUNED]
    by_model = {model: [r.step for r in points if r.model == model] for model in {run.model for run in points}}
    assert by_model[Model(TUNED, None, "M3", "sft")] == [0, 50, 100, 150, 200, 250]
    assert by_model[Model(TUNED, None, "M3", "sft", steps=500)] == list(range(0, 501, 50))


def test_without_results_json_the_page_is_made_of_the_records_and_says_so(small: MadeUp) -> None:
    whole = read_study(small.write())
    (small.root / "results.json").unlink()
    rebuilt = read_study(small.root)
    ends = {
        (run.model, run.family, run.seed): dict(run.scores)
        for run in whole.runs
        if run.step is None and run.status == "done"
    }
    assert ends == {(run.model, run.family, run.seed): dict(run.scores) for run in rebuilt.runs if run.status == "done"}
    failed = [run for run in rebuilt.runs if run.status == "failed"]
    assert [run.model for run in failed] == [Model(TRANSFER, "M1", "M5", "sft")] and "disk is full" in str(
        failed[0].error
    )
    assert len(rebuilt.doubts) == 1 and "This page uses" in rebuilt.doubts[0]


def test_from_records_alone_a_start_is_no_model_and_what_was_measured_is_there(small: MadeUp) -> None:
    start = {"kind": "recycle-start", "name": "M2 + Δiter(M1)", "source": "M1", "target": "M2", "tuning": "sft"}
    small.step("evaluate", "evaluate M2 + Δiter(M1)", about={"results": [start]}, measured={"tasks": {}})
    path = {"alphas": [0.0, 1.0], "loss": [1.0, 1.1], "barrier": 0.01, "interval": [0.0, 0.02], "connected": True}
    small.step("path", "path", about={"path": {"a": "M1", "b": "M2", "which": "bases"}}, measured=path)
    norms = {"a": {"norm": 9.0, "diff_norm": 1.5}, "b": {"norm": 9.5, "diff_norm": None}}
    apart = {"versions": norms, "pairs": [{"a": "a", "b": "b", "distance": 2.5, "cosine": -0.5}]}
    small.step("distance", "distance", about={"distance": {"a": "M1", "b": "M2"}}, measured=apart)
    small.step("distance", "nonsense", about={"distance": {"a": "M1", "b": "M2"}}, measured={"versions": 3})
    small.write()
    whole = {run.model for run in read_study(small.root).runs}
    (small.root / "results.json").unlink()
    rebuilt = read_study(small.root)
    assert {run.model for run in rebuilt.runs if run.status == "done"} <= whole
    assert rebuilt.versions == VERSIONS and rebuilt.name == "made-up", "as the study's file has them"
    (line,) = lines(rebuilt)
    assert line.barrier == 0.01 and line.connected is True
    (row,) = rebuilt.distances
    assert (row["distance"], row["diff_norm_a"], row["diff_norm_b"], row["cosine"]) == (2.5, 1.5, None, -0.5)
    (nonsense,) = [doubt for doubt in rebuilt.doubts if "is not a valid record of a study" in doubt]
    assert "distance-0003/record.json" in nonsense


@pytest.mark.parametrize("torn", ["", '{"results": [{"kind": "ba', "[]", '{"results": {}}', "[" * 100_000, "\x00"])
def test_a_torn_results_json_is_named_and_the_records_stand_in(small: MadeUp, torn: str) -> None:
    small.write()
    (small.root / "results.json").write_text(torn)
    reading = read_study(small.root)
    assert any(doubt.startswith("results.json ") for doubt in reading.doubts)
    assert len(reading.runs) > 50


def test_a_torn_record_is_named_and_the_rest_is_read(small: MadeUp) -> None:
    small.write()
    records = sorted((small.root / "steps").glob("*/record.json"))
    records[5].write_text(records[5].read_text()[:40])
    reading = read_study(small.root)
    assert [doubt for doubt in reading.doubts if records[5].parent.name in doubt]
    assert sum(step.record is None for step in reading.steps if step.outcome != "not run") == 1


def test_records_of_other_choices_are_no_steps_of_the_study(small: MadeUp) -> None:
    small.write()
    steps = read_study(small.root).steps
    before = MadeUp.step(small, "evaluate", "evaluate M1", outcome="failed", error="OSError: the disk was full.")
    reading = read_study(small.root)
    assert reading.steps == steps and not any(step.name == "evaluate M1" and step.error for step in steps)
    assert [step.identity for step in reading.others] == [before["identity"]]


def test_without_a_list_of_steps_every_record_is_one(small: MadeUp) -> None:
    small.write()
    (small.root / "results.json").unlink()
    reading = read_study(small.root)
    assert len(reading.steps) == len(list(small.root.glob("steps/*/record.json"))) and reading.others == ()


def test_rows_that_are_not_results_are_named_and_left_out(small: MadeUp) -> None:
    small.write()
    told = json.loads((small.root / "results.json").read_text())
    told["results"][3] = {"kind": 7}
    told["results"][4] = "no row"
    told["results"][5]["scores"] = {"sums": {"value": "high"}, "facts": {"value": float("inf")}}
    told["paths"] = [None, {"alphas": [0, 1], "loss": [1]}, {"alphas": "line"}]
    (small.root / "results.json").write_text(json.dumps(told))
    reading = read_study(small.root)
    assert [doubt[: doubt.index(" is")] for doubt in reading.doubts] == [
        "results.json: result 4",
        "results.json: result 5",
    ]


def test_a_standard_error_that_can_be_none_is_named_and_left_out(small: MadeUp) -> None:
    small.write()
    told = json.loads((small.root / "results.json").read_text())
    told["results"][0]["scores"]["sums"] |= {"stderr": -0.1, "n": -3}
    told["results"][1]["scores"]["sums"] |= {"value": 0.5, "stderr": 10**400}
    told["paths"] = [{"alphas": [0, 1], "loss": [1, 10**400]}]
    (small.root / "results.json").write_text(json.dumps(told))
    found = findings(small.root)
    (doubt,) = found.reading.doubts
    assert doubt == "results.json: result 1: the standard error of sums is negative and is left out."
    score = found.reading.runs[0].scores["sums"]
    assert (score.stderr, score.n) == (None, 0)


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_where_there_is_nothing_to_report_the_error_says_what_to_give(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "file":
        place.write_text("no folder")
    elif what == "empty":
        place.mkdir()
    with pytest.raises(ReportError, match="Give the folder that `tuneport study"):
        read_study(place)


def test_names_are_the_studys_own() -> None:
    assert Model(BASE, None, "M4").name() == "M4"
    assert Model(TUNED, None, "M4", "dpo").name(with_tuning=True) == "FT(M4, dpo)"
    assert Model(TRANSFER, "M4", "M5", "sft").name() == "M5 + Δ(M4)"
    assert Model(TRANSFER, "M4", "M5", "sft", scale=0.5).name() == "M5 + 0.5·Δ(M4)"
    assert Model("transfer-then-tune", "M4", "M5", "sft").name() == "M5 + Δ(M4) → FT"
    assert Model("recycle-iterative", "M4", "M5", "sft").name() == "M5 + Δiter(M4) → FT"
    assert Model("recycle-direct", "M4", "M5", "sft").name() == "M5 + Δdir(M4) → FT"


def test_a_model_that_two_steps_scored_is_one_with_the_scores_of_both_when_put_together(small: MadeUp) -> None:
    small.write()
    row = next(row for row in small.rows if row["kind"] == "base")
    result = {name: value for name, value in row.items() if name not in ("step", "status", "error", "scores")}
    loss = {"metric": "loss", "value": 1.25, "stderr": 0.02, "n": 200, "higher_is_better": False}
    about, choices = {"results": [result]}, {"settings": {"loss": True}}
    small.step("evaluate", "evaluate, loss", about=about, choices=choices, measured={"tasks": {"sums": loss}})
    (small.root / "results.json").unlink()
    (run,) = [run for run in read_study(small.root).runs if run.model == Model(BASE, None, row["target"])]
    assert set(run.scores) == {"sums", "facts", "sums, loss"} and run.scores["sums, loss"].asked_as == "sums"
    assert not run.scores["sums, loss"].is_share and run.scores["sums"].is_share


def test_nothing_outside_the_folder_is_read_into_a_page(small: MadeUp, tmp_path: Path) -> None:
    root = small.write()
    secret = tmp_path / "secret"
    secret.write_text("[study]\nname = 'a secret'\n")
    (root / "study.toml").unlink(missing_ok=True)
    (root / "study.toml").symlink_to(secret)
    results = json.loads((root / "results.json").read_text())
    for row in results["results"]:
        for score in row["scores"].values():
            score["folder"] = "../../elsewhere"
    (root / "results.json").write_text(json.dumps(results))
    reading = read_study(root)
    assert "a secret" not in reading.text
    assert not any("elsewhere" in folder for run in reading.runs for folder in run.folders)
    (root / "results.json").rename(tmp_path / "results.json")
    (root / "results.json").symlink_to(tmp_path / "results.json")
    assert any("outside" in doubt for doubt in read_study(root).doubts)


def test_a_few_steps_more_in_one_family_make_no_other_model(tmp_path: Path) -> None:
    """Where steps are counted in epochs, families may differ by some."""
    made = MadeUp(tmp_path / "study", families=(0, 1), failed=None)
    made.write()
    told = json.loads((made.root / "results.json").read_text())
    for row in told["results"]:
        if row["family"] == 1 and row["kind"] in ("tuned", "recycle-direct"):
            row["steps_total"] += 2
    (made.root / "results.json").write_text(json.dumps(told))
    runs = [run for run in read_study(made.root).runs if run.model == Model(DIRECT, "M3", "M4", "sft")]
    assert sorted(run.family for run in runs if run.step is None and run.family is not None) == [0, 1]


def test_where_steps_cannot_be_counted_nothing_stands_at_the_same_total(small: MadeUp) -> None:
    small.write()
    told = json.loads((small.root / "results.json").read_text())
    for row in told["results"]:
        row["steps_total"] = None if row["kind"].startswith("recycle") else row["steps_total"]
    (small.root / "results.json").write_text(json.dumps(told))
    found = findings(small.root)
    assert found.against_direct and all(row.changes[1] is None for row in found.against_direct)
    recycled = [row for row in found.compared if row.model.kind.startswith("recycle")]
    assert recycled and all(row.changes[1] is None for row in recycled)
    assert all((row.changes[0] is not None) == (row.model.steps is None) for row in recycled)
