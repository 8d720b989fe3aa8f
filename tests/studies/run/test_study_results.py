"""results.json from records: every scored model, why something is missing, and what is compared with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.declared_studies import EVALUATE, STAGES, TUNE, declared, paper, versions
from support.scored_steps import Done, outcomes, step_of

from studies.graph.test_build import LAB, LAB_EVALUATE, LAB_TUNE
from tuneport import statistics
from tuneport.results.comparing import compare
from tuneport.studies.run.comparisons import convergence

FIELDS = {"kind", "source", "target", "tuning", "family", "seed", "step", "steps_total", "status", "error", "scores"}
RATES = {"M5": 0.2, "FT(M5)": 0.8, "M5 + Δ(M4)": 0.7, "M5 + Δ(M4) → FT": 0.85}


@pytest.fixture(scope="module")
def both() -> tuple[Done, dict[str, Any]]:
    done = Done(paper('transfer = [["M4", "M5"]]\ntransfer-then-tune = [["M4", "M5"]]\nrecycle = "all"'), RATES)
    return done, done.do_all()


def rows(document: dict[str, Any], question: str, **wanted: Any) -> list[dict[str, Any]]:
    return [
        row
        for row in document["comparisons"]
        if row["question"] == question and all(row[name] == value for name, value in wanted.items())
    ]


def scores_of(done: Done, name: str) -> list[float]:
    return done.task_of(step_of(done.graph, f"evaluate {name}")).scores


def test_every_model_has_one_row_with_the_fields_of_the_contract(both: tuple[Done, dict[str, Any]]) -> None:
    done, document = both
    assert all(row.keys() >= FIELDS and row["status"] == "done" for row in document["results"])
    keys = [(row["kind"], row["name"], row["steps_total"], row["step"]) for row in document["results"]]
    assert len(keys) == len(set(keys)) > 20
    (row,) = [row for row in document["results"] if row["kind"] == "transfer"]
    assert (row["source"], row["target"], row["tuning"], row["seed"], row["step"], row["steps_total"]) == (
        "M4", "M5", "sft", 0, None, 100,
    )  # fmt: skip
    score = row["scores"]["gsm8k"]
    right = scores_of(done, "M5 + Δ(M4)")
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


def test_differences_are_those_of_evaluate_on_the_same_examples(both: tuple[Done, dict[str, Any]]) -> None:
    done, document = both
    for question, one, other in (
        ("gain-over-base", "M5", "M5 + Δ(M4)"),
        ("gain-over-transfer", "M5 + Δ(M4)", "M5 + Δ(M4) → FT"),
        ("against-tuned", "FT(M5)", "M5 + Δ(M4)"),
        ("same-steps", "FT(M5)", "M5 + Δ(M4) → FT"),
    ):
        (row,) = [
            row for row in rows(document, question, name=other) if row["kind"] in ("transfer", "transfer-then-tune")
        ]
        results = {name: [done.task_of(step_of(done.graph, f"evaluate {name}"))] for name in (one, other)}
        (reference,) = compare(results, seed=0)
        assert row["against"] == [one]
        for field in ("difference", "interval", "p", "method", "n", "metric"):
            assert row[field] == pytest.approx(reference[field]), field


def test_recovered_gain_is_that_of_the_measures_with_the_raw_gain_beside_it(both: tuple[Done, dict[str, Any]]) -> None:
    done, document = both
    (row,) = rows(document, "recovered-gain", name="M5 + Δ(M4)")
    target, moved, tuned = (scores_of(done, name) for name in ("M5", "M5 + Δ(M4)", "FT(M5)"))
    reference = statistics.recovered_gain(target, moved, tuned)
    assert reference is not None
    assert row["recovered_gain"] == pytest.approx(reference.value) and row["interval"] == pytest.approx(
        reference.interval
    )
    assert row["gain"] == pytest.approx((sum(moved) - sum(target)) / 300)


def test_recovered_gain_is_null_where_fine_tuning_may_gain_nothing() -> None:
    done = Done(paper('transfer = [["M4", "M5"]]'), {"M5": 0.5, "FT(M5)": 0.5, "M5 + Δ(M4)": 0.9})
    (row,) = rows(done.do_all(), "recovered-gain")
    assert row["recovered_gain"] is None and row["interval"] is None and row["gain"] > 0.2


def test_further_fine_tuning_is_compared_at_the_same_steps_and_at_the_same_total(
    both: tuple[Done, dict[str, Any]],
) -> None:
    _, document = both
    for question, total in (("same-steps", 100), ("same-total", 500)):
        (row,) = rows(document, question, kind="recycle-iterative", name="M5 + Δiter(M4) → FT")
        assert row["steps_total"] == 500 and row["against_steps_total"] == [total]
    iterative = rows(document, "iterative-against-direct")
    assert [row["name"] for row in iterative] == [
        "M2 + Δiter(M1) → FT", "M3 + Δiter(M2) → FT", "M4 + Δiter(M3) → FT", "M5 + Δiter(M4) → FT",
    ]  # fmt: skip
    assert iterative[0]["difference"] == 0 and iterative[0]["p"] == 1, "the same model twice"
    for question, totals in (
        ("iterative-against-direct", {200: 200, 300: 200, 400: 200, 500: 200}),
        ("iterative-against-direct-same-total", {300: 300, 400: 400, 500: 500}),
    ):
        found = rows(document, question)
        assert {row["steps_total"]: row["against_steps_total"][0] for row in found} == totals
    longer = "M5 + Δdir(M4) → FT, 500 steps in all"
    assert not rows(document, "same-steps", name=longer)
    assert [row["against_steps_total"] for row in rows(document, "same-total", name=longer)] == [[500]]


def test_a_longer_fine_tuning_does_not_stand_in_for_one_that_failed() -> None:
    done = Done(paper('recycle = "all"'), {})
    for step in done.graph:
        failed = step.name in ("evaluate M3 + Δdir(M2) → FT", "evaluate FT(M4)")
        done.do(step, **({"outcome": "failed", "error": "the disk is full"} if failed else {}))
    document = done.document()
    assert {row["target"] for row in rows(document, "iterative-against-direct")} == {"M2", "M4", "M5"}
    assert {row["target"] for row in rows(document, "same-steps", kind="recycle-iterative")} == {"M2", "M3", "M5"}
    assert {row["target"] for row in rows(document, "same-total", kind="recycle-iterative")} == {"M2", "M3", "M4", "M5"}


def test_p_values_are_adjusted_within_a_table(both: tuple[Done, dict[str, Any]]) -> None:
    _, document = both
    everything = rows(document, "gain-over-base")
    assert {row["kind"] for row in everything} > {"tuned", "transfer", "recycle-direct"}
    for kind in ("tuned", "transfer", "recycle"):
        table = [row for row in everything if row["kind"].partition("-")[0] == kind]
        assert [row["p_adjusted"] for row in table] == pytest.approx(statistics.holm([row["p"] for row in table]))
    assert {row["significant"] for row in everything} == {True, False}


def test_tasks_that_were_asked_differently_are_not_compared() -> None:
    done = Done(paper('transfer = [["M4", "M5"]]'), RATES)
    done.do_all()
    step = step_of(done.graph, "evaluate M5")
    done.files[step.identity, "scores.examples.jsonl"] = done.files[step.identity, "scores.examples.jsonl"].replace(
        '"q0"', '"z"'
    )
    fresh = Done(done.study, RATES)
    fresh.files = done.files
    for each in fresh.graph:
        fresh.results.note(done.do(each) if each.kind != "evaluate" else done.results._records[each.identity])
    document = fresh.document()
    assert not rows(document, "gain-over-base", name="FT(M5)") and rows(document, "gain-over-base", name="FT(M4)")


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
    assert all(row["name"] in ("FT(M5)",) for row in document["comparisons"])


def test_the_document_is_the_same_whatever_order_steps_end_in_and_from_earlier_comparisons() -> None:
    study = paper('transfer = [["M4", "M5"]]\nrecycle = "all"')
    first = Done(study, RATES)
    whole = first.do_all()
    other = Done(study, RATES)
    for step in reversed(list(other.graph)):
        other.do(step)
        if step.kind == "transfer":
            other.document()
    assert other.document() == whole
    again = Done(study, RATES)
    again.results = type(again.results)(study, again.graph, again.read, whole)
    again.do_all()
    reads, before = again.reads, json.dumps(whole)
    assert json.dumps(again.document()) == before
    assert reads < other.reads, "examples are not read again"


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
            text = done.files[step.identity, "scores.json"].replace('"gsm8k"', '"v"')
            done.files[step.identity, "scores.json"] = text
    document = done.document()
    points = [row for row in document["results"] if row["split"] == "validation"]
    further = [row for row in points if row["kind"] == "transfer-then-tune"]
    assert [row["step"] for row in further] == [0, 5, 10, 15]
    assert [row["steps_total"] for row in further] == [10, 15, 20, 25], "its parents' steps too"
    assert all(row["step"] is None for row in document["results"] if row["split"] == "test")
    (row,) = [row for row in document["convergence"] if row["kind"] == "transfer-then-tune"]
    assert row["against"] == "FT(M5)" and row["level"] == 0.7 and row["steps_to_match"] == 10
    assert row["steps_of_reference"] == 15
    assert row["peak"] == {"step": 10, "value": 0.9} and row["peak_of_reference"] == {"step": 10, "value": 0.75}


def test_there_is_nothing_to_match_where_fine_tuning_gained_nothing() -> None:
    def point(step: int, value: float, kind: str, name: str) -> dict[str, Any]:
        told = {"kind": kind, "name": name, "source": None, "target": "M5", "tuning": "sft", "family": 0, "seed": 0}
        scores = {"v": {"value": value, "higher_is_better": True}}
        return {**told, "step": step, "split": "validation", "status": "done", "scores": scores}

    def matched(*reference: float) -> Any:
        plain = [point(place, value, "tuned", "FT(M5)") for place, value in enumerate(reference)]
        further = [point(place, 0.4, "transfer-then-tune", "M5 + Δ(M4) → FT") for place in range(2)]
        return convergence([*plain, *further])[1]["steps_to_match"]

    assert matched(0.1, 0.4) == 0 and matched(0.1, 0.5) is None
    assert matched(0.0, 0.0) is None and matched(0.2, 0.1) is None


def test_paths_distances_and_roundings_stand_with_their_names_and_numbers() -> None:
    lines = '[paths]\ntext = ["lab:held-out-text"]\n'
    study = declared(LAB, LAB_TUNE, LAB_EVALUATE, lines, '[do]\npaths = "all"\ndistances = "all"\nrecycle = "all"')
    done = Done(study)
    for step in done.graph:
        record = done.do(step)
        assert record.outcome == "done"
        if step.kind == "path":
            found = {"alphas": [0, 0.5, 1], "loss": [1, 3, 2], "barrier": 1.5, "interval": [1, 2], "a": "x", "b": "y"}
            done.files[step.identity, "path.json"] = json.dumps(found)
        if step.kind == "distance":
            found = {
                "versions": {"a": {"norm": 5, "diff_norm": 1}, "b": {"norm": 6, "diff_norm": 2}},
                "pairs": [{"a": "a", "b": "b", "distance": 3, "cosine": 0.5}],
            }
            done.files[step.identity, "distance.json"] = json.dumps(found)
        if step.kind == "rounding":
            done.files[step.identity, "rounding.json"] = json.dumps({"dtype": "bfloat16", "share_lost": 0.1})
    document = done.document()
    (path,) = document["paths"]
    assert (path["a"], path["b"], path["barrier"], path["alphas"]) == ("M4", "M5", 1.5, [0, 0.5, 1])
    (apart,) = document["distances"]
    assert (apart["a"], apart["b"], apart["distance"], apart["diff_norm_a"], apart["cosine"]) == ("M4", "M5", 3, 1, 0.5)
    (lost,) = document["rounding"]
    assert (lost["tuned"], lost["base"], lost["share_lost"]) == ("FT(M4)", "M4", 0.1)


def test_an_evaluation_that_was_made_again_with_another_outcome_is_compared_again() -> None:
    study = paper('transfer = [["M4", "M5"]]')
    before = Done(study, RATES | {"M5 + Δ(M4)": 0.6}).do_all()
    (old,) = rows(before, "gain-over-base", name="M5 + Δ(M4)")
    again = Done(study, RATES | {"M5 + Δ(M4)": 0.95})
    fresh = Done(study, RATES | {"M5 + Δ(M4)": 0.95}).do_all()
    again.results = type(again.results)(study, again.graph, again.read, before)
    assert again.do_all()["comparisons"] == fresh["comparisons"]
    (row,) = rows(fresh, "gain-over-base", name="M5 + Δ(M4)")
    assert row["evaluations"] == old["evaluations"] and row["difference"] > old["difference"] + 0.2


def test_a_task_that_failed_takes_no_other_tasks_comparisons_with_it(tmp_path: Path) -> None:
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
    for question in ("gain-over-base", "against-tuned", "recovered-gain"):
        assert [row["task"] for row in rows(document, question, name="M5 + Δ(M4)")] == ["gsm8k"]


def test_models_with_other_steps_on_their_version_are_not_said_to_have_the_same() -> None:
    done = Done(declared(versions(("M1", "M2")), STAGES, EVALUATE, '[do]\ntransfer-then-tune = [["M1", "M2"]]'))
    document = done.do_all()
    steps = {row["name"]: (row["steps_total"], row["steps_on_target"]) for row in document["results"]}
    assert steps["M2"] == (0, 0) and steps["FT(M2, dpo)"] == (300, 300)
    assert steps["M2 + Δ(M1, sft) → FT"] == (500, 250) and steps["M2 + Δ(M1, dpo) → FT"] == (350, 50)
    assert [row["against"] for row in rows(document, "same-steps")] == [["FT(M2, sft)"]]
    (row,) = [row for row in rows(document, "against-tuned") if row["name"] == "M2 + Δ(M1, dpo) → FT"]
    assert row["against"] == ["FT(M2, dpo)"]


def test_a_fine_tuning_of_unknown_length_has_no_rival_at_the_same_steps() -> None:
    others = 'tuned = "org/tuned"'
    done = Done(declared(versions(("M1", "M2"), others), TUNE, EVALUATE, '[do]\ntransfer-then-tune = [["M1", "M2"]]'))
    document = done.do_all()
    assert {row["name"]: row["steps_on_target"] for row in document["results"]}["FT(M2)"] is None
    assert not rows(document, "same-steps") and not rows(document, "same-total")
    assert [row["against"] for row in rows(document, "against-tuned")] == [["FT(M2)"]]


def test_pairs_of_one_model_under_two_names_have_a_row_each() -> None:
    names = "".join(
        f'[[version]]\nname = "{name}"\nmodel = "lab:{model}"\n'
        for name, model in (("M1", "M1"), ("again", "M1"), ("M2", "M2"))
    )
    lines = '[paths]\ntext = ["lab:held-out-text"]\n[do]\npaths = [["M1", "M2"], ["again", "M2"]]\ndistances = "all"\n'
    document = Done(declared(names, lines, head="families = [0]")).do_all()
    assert [(row["a"], row["b"]) for row in document["paths"]] == [("M1", "M2"), ("again", "M2")]
    pairs = {(row["a"], row["b"]) for row in document["distances"]}
    assert pairs == {("M1", "again"), ("M1", "M2"), ("again", "M2")}
