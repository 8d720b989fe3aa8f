"""Running and recording the families of the verdict's study: what is run, what is refused, what a record holds."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from experiments.verdict import family_record, run_families
from experiments.verdict.family_record import FORMAT, record_of, write_record
from experiments.verdict.pair_cases import LARGE_FROM, TASKS, cases_of
from tuneport.errors import StudyError
from tuneport.results.study_reading import read_study


def study(folder: Path, outcome: str = "done", size: str = "small") -> Path:
    """What `tuneport study` leaves of one pair, as far as it is read."""
    score = {"metric": "exact_match", "value": 0.25, "stderr": None, "n": 150, "higher_is_better": True, "folder": "s"}
    scores = dict.fromkeys((*TASKS, "run-text"), score)
    about = {"scale": 1.0, "rate": 1.0, "steps": None, "family": 7, "seed": None, "step": None, "steps_total": 0}
    rows = [
        {
            "kind": kind,
            "name": "n",
            "source": source,
            "target": target,
            "tuning": tuning,
            "status": "done",
            "error": None,
        }
        | about
        | {"steps_on_target": 0, "scores": scores}
        for kind, source, target, tuning in (
            ("base", None, "M4", None),
            ("base", None, "M5", None),
            ("tuned", None, "M4", "large"),
            ("transfer", "M4", "M5", "large"),
        )
    ]
    measures = {
        "parameters": 9,
        "relative_shift": 0.123456789,
        "cosine_diff_shift": None,
        "matrices": {"norm_diff": 2.0},
    }
    gate = {"name": "strangers", "status": "pass", "value": 0.99, "threshold": 0.1}
    pair = {
        "source": "M4",
        "target": "M5",
        "tuning": "large",
        "family": 7,
        "seed": 0,
        "measures": measures,
        "gates": [gate],
    }
    compared = {"name": "compare", "kind": "compare", "identity": "c", "outcome": "done", "folder": "compare"}
    norms = {"norm_base": 5.0, "norm_diff": 2.0, "norm_shift": 1.0}
    layers = [
        {"layer": 0, "kind": "model.layers.#.mlp.up_proj.weight", "cosine_diff_shift": 0.5, **norms},
        {"layer": None, "kind": "lm_head.weight", "cosine_diff_shift": 0.9, **norms},
    ]
    made = {
        "name": "family",
        "kind": "family",
        "identity": "f",
        "outcome": outcome,
        "seconds": 90.0,
        "folder": "family",
    }
    results = {
        "format": "tuneport.results/1",
        "study": {"name": "s", "versions": ["M4", "M5"], "families": [7]},
        **{"results": rows, "comparisons": [pair], "steps": [made, compared]},
    }
    (folder / "steps" / "family").mkdir(parents=True)
    (folder / "steps" / "compare").mkdir()
    (folder / "steps" / "compare" / "compare.json").write_text(json.dumps({"layers": layers}))
    (folder / "steps" / "compare" / "record.json").write_text(json.dumps({"format": "tuneport.step/1", **compared}))
    (folder / "results.json").write_text(json.dumps(results))
    record = {
        "format": "tuneport.step/1",
        "name": "family",
        "kind": "family",
        "identity": "f",
        "choices": {"size": size},
    }
    (folder / "steps" / "family" / "record.json").write_text(json.dumps(record | {"outcome": outcome}))
    return folder


def test_a_record_holds_what_was_foreseen_and_what_came_and_becomes_cases(tmp_path: Path) -> None:
    record = record_of(read_study(study(tmp_path / "study")))
    assert (record["format"], record["family"], record["lab"], record["seconds"]) == (FORMAT, 7, "small", 90)
    (pair,) = record["pairs"]
    inner = {"relative_shift": 0.2, "relative_diff": 0.4, "diff_over_shift": 2.0, "cosine_diff_shift": 0.5}
    assert pair["measures"]["inner"] == inner, "without the head"
    assert pair["measures"]["relative_shift"] == 0.12346 and pair["gates"] == {"strangers": ["pass", 0.99]}
    cases = cases_of(record)
    assert {case.kind for case in cases} == {"all kinds", *TASKS} and {case.family for case in cases} == {7}
    assert {(case.gain, case.own, case.retention) for case in cases} == {(0.0, None, 1.0)}


def test_a_family_that_is_not_done_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="Run it again"):
        record_of(read_study(study(tmp_path / "study", outcome="failed")))


def test_large_families_have_numbers_and_records_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_record, "RECORDS", tmp_path)
    for size in ("small", "large"):
        write_record(study(tmp_path / size, size=size))
    found = {path.name: cases_of(json.loads(path.read_text()))[0].family for path in tmp_path.glob("*.json")}
    assert found == {"family-7.json": 7, "family-large-7.json": LARGE_FROM + 7}


def test_a_record_that_is_written_again_keeps_what_prompts_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_record, "RECORDS", tmp_path)
    folder, place = study(tmp_path / "study"), tmp_path / "family-7.json"
    write_record(folder)
    record = json.loads(place.read_text())
    record["pairs"][0]["probe"] = {"alike": 0.5}
    place.write_text(json.dumps(record))
    write_record(folder)
    assert json.loads(place.read_text()) == record


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def run(lab: str, family: int, out: Path) -> int:
        found.append(family)
        return 0

    monkeypatch.setattr(run_families, "run", run)
    monkeypatch.setattr(family_record, "RECORDS", tmp_path)
    monkeypatch.setattr(run_families, "RECORDS", tmp_path)
    monkeypatch.setattr(run_families, "CHOICE", tmp_path / "choice.json")
    return found


def test_recorded_families_are_not_run_again(runs: list[int], tmp_path: Path) -> None:
    (tmp_path / "family-2.json").write_text(json.dumps({"lab": "small", "seconds": 7200}))
    assert run_families.main(["--out", str(tmp_path), "--families", "1", "2", "3"]) == 0
    assert runs == [1, 3]


@pytest.mark.parametrize("asked", [["--families", "9"], ["--families", "3", "--lab", "large"]])
def test_families_for_confirming_wait_for_the_choice(runs: list[int], tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(SystemExit):
        run_families.main(["--out", str(tmp_path), *asked])
    (tmp_path / "choice.json").write_text("{}")
    assert run_families.main(["--out", str(tmp_path), *asked]) == 0 and len(runs) == 1


def test_a_dry_run_says_hours_from_the_records(
    runs: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "family-2.json").write_text(json.dumps({"lab": "small", "seconds": 7200}))
    assert run_families.main(["--out", str(tmp_path), "--families", "1", "2", "9", "--dry-run"]) == 0
    assert not runs and "2 families, about 2.00 hours each on one thread: 4.0 hours" in capsys.readouterr().out


def test_the_larger_study_differs_in_size_and_names_alone() -> None:
    small, large = (tomllib.loads(file.read_text()) for file in run_families.FILES.values())
    assert (small["study"].pop("lab"), large["study"].pop("lab")) == ("small", "large")
    for found in (small, large):
        for name in ("name", "families", "notes"):
            found["study"].pop(name)
    assert small == large and small["do"]["transfer"] == small["do"]["compare"]


def test_any_record_that_is_committed_is_whole() -> None:
    for path in family_record.RECORDS.glob("family-*.json"):
        record: dict[str, Any] = json.loads(path.read_text())
        assert (len(record["pairs"]), record["format"]) == (60, FORMAT), path.name
        assert len(record["scores"]) == 11 + 30 + 60 and path == family_record.place_of(record["lab"], record["family"])
