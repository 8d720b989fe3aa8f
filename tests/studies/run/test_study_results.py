"""results.json from records: every scored model, why something is missing, and what is compared with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.declared_studies import EVALUATE, STAGES, TUNE, declared, paper, versions
from support.scored_steps import Done, outcomes, step_of

from studies.graph.test_build import LAB, LAB_EVALUATE, LAB_TUNE
from tuneport.results.schema import Model

FIELDS = {
    *("kind", "name", "source", "target", "tuning", "scale", "rate", "steps", "family", "seed", "step", "steps_total"),
    *("steps_on_target", "status", "error", "scores"),
}
RATES = {"M5": 0.2, "FT(M5)": 0.8, "M5 + Δ(M4)": 0.7, "M5 + Δ(M4) → FT": 0.85}


@pytest.fixture(scope="module")
def both() -> tuple[Done, dict[str, Any]]:
    done = Done(paper('transfer = [["M4", "M5"]]\ntransfer-then-tune = [["M4", "M5"]]\nrecycle = "all"'), RATES)
    return done, done.do_all()


def test_every_model_has_one_row_with_the_fields_of_the_contract(both: tuple[Done, dict[str, Any]]) -> None:
    done, document = both
    assert all(row.keys() == FIELDS and row["status"] == "done" for row in document["results"])
    keys = [(row["kind"], row["name"], row["steps_total"], row["step"]) for row in document["results"]]
    assert len(keys) == len(set(keys)) > 20
    (row,) = [row for row in document["results"] if row["kind"] == "transfer"]
    assert (row["source"], row["target"], row["tuning"], row["seed"], row["step"], row["steps_total"]) == (
        "M4", "M5", "sft", 0, None, 100,
    )  # fmt: skip
    score = row["scores"]["gsm8k"]
    right = done.task_of(step_of(done.graph, "evaluate M5 + Δ(M4)")).scores
    assert score["value"] == sum(right) / len(right) and score["n"] == 300 and score["metric"] == "exact_match"
    assert row["source"] is not None and [r["source"] for r in document["results"] if r["kind"] == "base"] == [None] * 5


def test_one_evaluation_answers_for_every_kind_of_model_that_it_is(both: tuple[Done, dict[str, Any]]) -> None:
    _, document = both
    found = [
        row
        for row in document["results"]
        if row["target"] == "M2" and row["kind"].startswith("recycle") and row["step"] is None
    ]
    assert [row["kind"] for row in found] == ["recycle-iterative", "recycle-direct"]
    assert found[0]["scores"] == found[1]["scores"] and found[0]["source"] == found[1]["source"] == "M1"


def test_what_failed_says_why_and_what_stands_on_it_names_the_cause() -> None:
    done = Done(paper('transfer = [["M4", "M5"]]\ntransfer-then-tune = [["M4", "M5"]]\nsame-total = false'), RATES)
    for step in done.graph:
        if step.name == "tune FT(M4)":
            done.do(step, outcome="failed", error="the loss is nan")
        elif step.name in ("tune FT(M5)", "evaluate FT(M5)", *(f"evaluate M{i}" for i in range(1, 6))):
            done.do(step)
    document = done.document()
    found = {row["name"]: (row["status"], row["error"]) for row in document["results"]}
    assert found["M5"] == found["FT(M5)"] == ("done", None)
    assert found["FT(M4)"] == found["M5 + Δ(M4) → FT"] == ("not run", "tune FT(M4) failed: the loss is nan")
    assert found["FT(M1)"] == ("not run", None), "not yet"
    steps = {step["name"]: step for step in document["steps"]}
    assert steps["tune FT(M4)"]["outcome"] == "failed" and steps["transfer M5 + Δ(M4)"]["outcome"] == "not run"


def test_the_document_is_the_same_whatever_order_steps_end_in() -> None:
    study = paper('transfer = [["M4", "M5"]]\nrecycle = "all"')
    whole = Done(study, RATES).do_all()
    other = Done(study, RATES)
    for step in reversed(list(other.graph)):
        other.do(step)
        if step.kind == "transfer":
            other.document()
    assert other.document() == whole


def curve(*points: tuple[int, float]) -> str:
    task = outcomes("x", 0.5).record(0)
    return "".join(
        json.dumps({"step": step, "tasks": {"v": {**task, "value": value}}}) + "\n" for step, value in points
    )


def test_curves_begin_at_the_start_and_steps_to_match_are_read_on_validation_data() -> None:
    study = declared(
        LAB,
        LAB_TUNE + "eval-every = 5\n",
        LAB_EVALUATE + 'validation = ["lab:validation"]\n',
        '[do]\ntransfer-then-tune = [["M4", "M5"]]\nsame-total = false',
    )
    done = Done(study)
    for step in done.graph:
        done.do(step)
        if step.kind == "tune":
            further = step.name.endswith("→ FT")
            points = ((5, 0.6), (10, 0.9), (15, 0.8)) if further else ((5, 0.3), (10, 0.75), (15, 0.7))
            done.files[step.identity, "model/curve.jsonl"] = curve(*points)
        if {"start_of"} & {key for result in step.about.get("results", ()) for key in result}:
            done.do(step, measured={"tasks": {"v": outcomes("start", 0.5).record(0)}})
    document = done.document()
    points = [row for row in document["results"] if row["step"] is not None]
    further = [row for row in points if row["kind"] == "transfer-then-tune"]
    assert [row["step"] for row in further] == [0, 5, 10, 15]
    assert [row["steps_total"] for row in further] == [10, 15, 20, 25], "its parents' steps too"
    assert further[2]["scores"]["v"]["value"] == 0.9


def test_paths_distances_and_roundings_stand_with_their_names_and_numbers() -> None:
    lines = '[paths]\ntext = ["lab:held-out-text"]\n'
    study = declared(LAB, LAB_TUNE, LAB_EVALUATE, lines, '[do]\npaths = "all"\ndistances = "all"\nrecycle = "all"')
    done = Done(study)
    for step in done.graph:
        measured = {
            "path": {"alphas": [0, 0.5, 1], "loss": [1, 3, 2], "barrier": 1.5, "interval": [1, 2]},
            "distance": {
                "versions": {"a": {"norm": 5, "diff_norm": 1}, "b": {"norm": 6, "diff_norm": 2}},
                "pairs": [{"a": "a", "b": "b", "distance": 3, "cosine": 0.5}],
            },
            "rounding": {"dtype": "bfloat16", "share_lost": 0.1, "changed": 9, "vanished": 1, "lost_norm": 2.0},
        }
        done.do(step, **({"measured": measured[step.kind]} if step.kind in measured else {}))
    document = done.document()
    (path,) = document["paths"]
    assert (path["a"], path["b"], path["barrier"], path["alphas"]) == ("M4", "M5", 1.5, [0, 0.5, 1])
    (apart,) = document["distances"]
    assert (apart["a"], apart["b"], apart["distance"], apart["diff_norm_a"], apart["cosine"]) == ("M4", "M5", 3, 1, 0.5)
    (lost,) = document["rounding"]
    assert lost == {
        **{"tuned": "FT(M4)", "family": 0, "seed": 0, "dtype": "bfloat16"},
        **{"share_lost": 0.1, "changed": 9, "vanished": 1},
    }


def test_a_task_that_failed_takes_no_other_tasks_score_with_it(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    asked = EVALUATE + 'loss = ["answers.jsonl"]\n'
    study = declared(versions(), TUNE, asked, '[do]\ntransfer = [["M4", "M5"]]', folder=tmp_path)
    done = Done(study, RATES)
    for step in done.graph:
        failed = step.name == "evaluate M5 + Δ(M4), loss"
        done.do(step, **({"outcome": "failed", "error": "no memory"} if failed else {}))
    document = done.document()
    (row,) = [row for row in document["results"] if row["name"] == "M5 + Δ(M4)"]
    assert (row["status"], row["error"], list(row["scores"])) == ("failed", "no memory", ["gsm8k"])


def test_steps_are_counted_in_all_and_on_the_version_itself() -> None:
    done = Done(declared(versions(("M1", "M2")), STAGES, EVALUATE, '[do]\ntransfer-then-tune = [["M1", "M2"]]'))
    document = done.do_all()
    steps = {row["name"]: (row["steps_total"], row["steps_on_target"]) for row in document["results"]}
    assert steps["M2"] == (0, 0) and steps["FT(M2, dpo)"] == (300, 300)
    assert steps["M2 + Δ(M1, sft) → FT"] == (500, 250) and steps["M2 + Δ(M1, dpo) → FT"] == (350, 50)


def test_a_fine_tuning_from_outside_is_of_unknown_length() -> None:
    others = 'tuned = "org/tuned"'
    done = Done(declared(versions(("M1", "M2"), others), TUNE, EVALUATE, '[do]\ntransfer-then-tune = [["M1", "M2"]]'))
    document = done.do_all()
    assert {row["name"]: row["steps_on_target"] for row in document["results"]}["FT(M2)"] is None


def test_an_adapted_model_has_the_steps_of_its_transfer_and_those_on_examples_once_they_are_kept() -> None:
    def counted(table: str, **measured: object) -> dict[str, tuple[int | None, int | None]]:
        do = 'transfer = [["M1", "M2"]]\nadapt = [["M1", "M2"]]\nrecycle = { pairs = [["M1", "M2"]], heal = "distil" }'
        done = Done(paper(do, f"[adapt]\n{table}"))
        for step in done.graph:
            if step.kind != "adapt" or measured:
                done.do(step, **({"measured": measured} if step.kind == "adapt" else {}))
        names = ("M2 + Δ(M1)", "M2 + Δ(M1) → adapted", "M2 + Δiter(M1) → adapted → FT")
        rows = {row["name"]: (row["steps_total"], row["steps_on_target"]) for row in done.document()["results"]}
        assert "M2 + Δiter(M1) → adapted" not in rows, "a start is no model of the tables"
        return {name: rows[name] for name in names}

    (plain, adapted, healed) = counted('prompts = ["org/p"]\n', steps=0).values()
    assert plain == adapted == (100, 0) and healed == (200, 100)
    assert list(counted('examples = ["org/e"]\n', steps=30).values())[1] == (130, 30)
    assert list(counted('examples = ["org/e"]\n').values())[1] == (None, None), "not yet done"


def test_pairs_of_one_model_under_two_names_have_a_row_each() -> None:
    names = "".join(
        f'[[version]]\nname = "{name}"\nmodel = "lab:{model}"\n'
        for name, model in (("M1", "M1"), ("again", "M1"), ("M2", "M2"))
    )
    lines = '[paths]\ntext = ["lab:held-out-text"]\n[do]\npaths = [["M1", "M2"], ["again", "M2"]]\ndistances = "all"\n'
    done = Done(declared(names, lines, head="families = [0]"))
    apart = {"versions": {name: {"diff_norm": None} for name in "ab"}, "pairs": [{"distance": 3, "cosine": None}]}
    measured = {"path": {"alphas": [0, 1], "loss": [1, 1]}, "distance": apart}
    for step in done.graph:
        done.do(step, **({"measured": measured[step.kind]} if step.kind in measured else {}))
    document = done.document()
    assert [(row["a"], row["b"]) for row in document["paths"]] == [("M1", "M2"), ("again", "M2")]
    pairs = {(row["a"], row["b"]) for row in document["distances"]}
    assert pairs == {("M1", "again"), ("M1", "M2"), ("again", "M2")}


def test_a_fine_tuning_for_other_steps_than_the_studys_own_says_so(both: tuple[Done, dict[str, Any]]) -> None:
    _, document = both
    longer = {row["name"]: row["steps"] for row in document["results"] if row["steps"] is not None}
    assert longer["FT(M5) for 500 steps"] == longer["M5 + Δdir(M4) → FT, 500 steps in all"] == 500
    assert all(str(steps) in name for name, steps in longer.items())
    assert {row["steps"] for row in document["results"] if row["name"] in ("FT(M5)", "M5 + Δdir(M4) → FT")} == {None}


def test_the_names_of_results_are_those_of_their_models(both: tuple[Done, dict[str, Any]]) -> None:
    """The page calls a model by what its row says it is."""
    for row in both[1]["results"]:
        fields = ("kind", "source", "target", "tuning", "scale", "rate", "steps")
        assert Model(**{name: row[name] for name in fields}).name() == row["name"]
