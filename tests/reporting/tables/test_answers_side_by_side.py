"""Answers stand beside the questions they answer, and the same ones are chosen every time."""

from __future__ import annotations

import json
from pathlib import Path

from tuneport.reporting.tables.answers_side_by_side import EACH, shortened, side_by_side
from tuneport.reporting.tables.report_tables import Findings
from tuneport.results.example_scores import read_answers, read_outcomes
from tuneport.results.schema import BASE, TRANSFER, TUNED, Model


def test_a_few_examples_of_each_task_are_shown_on_which_the_first_models_differ(found: Findings) -> None:
    shown = found.answers
    assert shown is not None
    assert shown.first == (Model(BASE, None, "M5"), Model(TRANSFER, "M4", "M5", "sft"), Model(TUNED, None, "M5", "sft"))
    for task in ("sums", "facts"):
        of_task = [asked for asked in shown.asked if asked.task == task]
        assert len(of_task) == EACH
        for asked in of_task:
            assert len({asked.said[model].score for model in shown.first}) == 2, "right and wrong"
    again = side_by_side(found.reading, found.transfers)
    assert again == shown


def test_every_answer_is_what_that_model_said_to_that_question(found: Findings) -> None:
    shown = found.answers
    assert shown is not None and len(shown.models) > 50
    for asked in shown.asked:
        number = int(asked.id.partition("-")[2])
        assert asked.question == f"How much is {number} and {number % 7}?"
        assert asked.answer == str(number + number % 7)
        for answer in asked.said.values():
            assert answer.said == (asked.answer if answer.score else f"{number} and then?")


def test_a_torn_file_of_outcomes_gives_what_is_whole_in_it(tmp_path: Path) -> None:
    line = {"task": "sums", "id": "a", "score": 1.0, "said": "7", "answer": "7"}
    weighed = {"task": "loss", "id": "a", "score": 2.5, "weight": 3}
    file = tmp_path / "scores.examples.jsonl"
    file.write_text(
        f"{json.dumps(line)}\n{json.dumps(weighed)}\n{json.dumps({**line, 'id': 'huge', 'score': 10**400})}\n"
        f'{{"task": "sums"}}\n[1]\n{"[" * 5000}\n{{"task": "su',
        encoding="utf-8",
    )
    found = read_outcomes(tmp_path)
    assert found["sums"].ids == ("a",) and found["sums"].right_or_wrong
    assert found["loss"].weights.tolist() == [3.0] and not found["loss"].right_or_wrong
    assert set(read_answers(tmp_path, {"sums": ["a", "huge"], "loss": ["a"]})) == {("sums", "a")}
    assert read_outcomes(tmp_path / "missing") == {}


def test_a_long_answer_is_cut_with_a_word_that_it_was() -> None:
    assert shortened("short") == "short"
    assert shortened("a" * 5000).endswith("… (4,400 more characters)")
