"""The summary and what is shown of it: from answers to numbers, with claims that can fail."""

from typing import Any

import pytest

from tuneport.families import corpus, lesson_questions
from tuneport.families.demo import demo_adapted, demo_answers, demo_summary
from tuneport.families.demo.demo_run import MODELS

ASKED = lesson_questions.held_out_questions(corpus.make_world(0), 0, problems=40, orders=40)
NORMS = {"diff_norm": 2.0, "shift_norm": 1.0}
UNRELATED = {"kind": "base-and-target-unrelated", "message": "base and target look unrelated."}
DOUBTS = {"v2-transferred": [], "v1-backported": [], "v2-shuffled": [], "v2-foreign": [UNRELATED]}


def answering(share: float, *tasks: str) -> list[str]:
    """Right answers to the first `share` of each task's questions, wrong ones otherwise."""
    said = []
    for task in dict.fromkeys(question.task for question in ASKED):
        of_task = [question for question in ASKED if question.task == task]
        known = round(share * len(of_task)) if not tasks or task in tasks else 0
        said += [question.answer if index < known else "?" for index, question in enumerate(of_task)]
    return said


def record_of(**said: list[str]) -> dict[str, Any]:
    answers = {model: said.get(model.replace("-", "_"), answering(0)) for model in MODELS}
    return demo_summary.summarise(ASKED, answers, norms=NORMS, doubts=DOUBTS, seed=0, seconds=1.0)


def good() -> dict[str, Any]:
    return record_of(
        v1_tuned=answering(0.9, *lesson_questions.INSTRUCTION_TASKS),
        v2=answering(0.9, lesson_questions.NEW_FACTS_COMPLETED),
        v2_transferred=answering(0.75),
        v2_tuned=answering(1.0),
        v1_backported=answering(0.6, *lesson_questions.INSTRUCTION_TASKS),
    )


def test_accuracies_and_gains_are_those_of_the_answers() -> None:
    record = good()
    assert record["target"] == 0.0
    assert record["transferred"] == pytest.approx(0.75, abs=0.01)
    assert record["tuned_target"] == 1.0
    assert record["recovered_gain"] == pytest.approx(0.75, abs=0.01)
    assert set(record["tasks"]) == set(lesson_questions.INSTRUCTION_TASKS)
    assert record["n"] == sum(question.task in lesson_questions.INSTRUCTION_TASKS for question in ASKED)
    assert record["diff_norm"] == 2.0
    known = record["new_knowledge"]
    assert (known["v1_tuned"], known["v2"]) == (0.0, pytest.approx(0.9, abs=0.01))
    assert known["v2_transferred"] > 0.7
    assert all(record["claims"].values())


CURVES = {
    "n": 10,
    "from_target": [{"step": 0, "accuracy": 0.0}, {"step": 50, "accuracy": 0.8}],
    "from_transferred": [{"step": 0, "accuracy": 0.7}, {"step": 50, "accuracy": 0.9}],
    "steps": 50,
    "to_match": 0.8,
    "steps_to_match": 50,
    "steps_fewer": 0,
}


def shown(record: dict[str, Any], **said: list[str]) -> str:
    """The table, with what else the demo puts into its record."""
    answers = {model: said.get(model.replace("-", "_"), answering(0)) for model in MODELS}
    adapted = demo_adapted.adapted(ASKED, answers, "distil", 0)
    return demo_answers.table(record | {"transfer_then_tune": CURVES, "adapted": adapted})


def test_a_gain_that_may_be_nothing_has_no_recovered_gain_and_the_claim_fails() -> None:
    record = record_of(v2_transferred=answering(0.5))
    assert record["recovered_gain"] is None
    claims = record["claims"]
    assert claims["at least 0.6 of the gain recovered"] is False
    assert "NOT HELD  at least 0.6 of the gain recovered" in shown(record)


def test_a_control_that_gains_is_told() -> None:
    record = record_of(v2_transferred=answering(0.8), v2_tuned=answering(0.9), v2_foreign=answering(0.4))
    assert record["controls"]["foreign_family"]["share_of_real_gain"] == pytest.approx(0.5, abs=0.02)
    assert record["claims"]["control foreign_family gains under a tenth"] is False
    assert record["claims"]["control shuffled gains under a tenth"] is True


def test_the_table_and_the_answers_show_every_task_and_model() -> None:
    table = shown(good(), v2_adapted=answering(0.8), v2_transferred=answering(0.75))
    assert "Adapted on 64 unlabelled prompts (distil): 8" in table
    for task in (*lesson_questions.INSTRUCTION_TASKS, *lesson_questions.NEW_KNOWLEDGE_TASKS):
        assert task in table
    answers = demo_answers.answers_side_by_side(ASKED, {model: answering(1.0) for model in MODELS})
    assert answers.count("✓") == 6 * 5
    assert answers.count("version 2 + diff vector") == 5


def test_what_adaptation_is_worth_is_told_against_addition() -> None:
    said = {model: answering(0) for model in MODELS}
    said |= {"v2-transferred": answering(0.5), "v2-adapted": answering(0.8), "v2-tuned": answering(1.0)}
    record = demo_adapted.adapted(ASKED, said, "distil", 0)
    assert record["accuracy"] == pytest.approx(0.8, abs=0.01)
    assert record["difference"] == pytest.approx(0.3, abs=0.01)
    assert record["recovered_gain"] == pytest.approx(0.8, abs=0.01)
    assert all(demo_adapted.claims(record).values())
    worse = demo_adapted.adapted(ASKED, said | {"v2-adapted": answering(0.4)}, "distil", 0)
    assert not any(demo_adapted.claims(worse).values())
