"""The questions of a study's file: read before anything runs, and asked in one way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.declared_studies import PLACE, TUNE, declared, fault, faults, versions

from tuneport.errors import StudyError
from tuneport.studies.file.study_file import study_of


def test_validation_that_is_the_test_is_refused_by_name_and_by_its_examples(tmp_path: Path) -> None:
    def write(name: str, *questions: str) -> None:
        rows = [json.dumps({"prompt": question, "answer": "1"}) + "\n" for question in questions]
        (tmp_path / name).write_text("".join(rows))

    write("test.jsonl", "one?", "two?", "three?")
    write("apart.jsonl", "four?")
    write("seen.jsonl", "four?", " TWO? ")
    begin = f'[study]\nname = "s"\n{versions()}[evaluate]\ntasks = ["test.jsonl"]\n'
    place = tmp_path / "study.toml"
    assert study_of(begin + 'validation = ["apart.jsonl"]', place).evaluations[""].validation == ("apart.jsonl",)
    for name in ("test.jsonl", "seen.jsonl"):
        (told,) = faults(begin + f'validation = ["{name}"]', place)
        assert "Selection on the test set is not allowed" in told
    assert "1 of 3 examples of test (2" in told


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ('tasks = ["e1.jsonl", "s2/e1.jsonl"]', ["[evaluate] tasks: ", "the task 'e1' is also in ", "another `task`"]),
        ('tasks = ["e1.jsonl", "./e1.jsonl"]', ["[evaluate] tasks: ", "is listed twice"]),
        ('tasks = ["e1.jsonl", "e1"]', ["[evaluate] tasks: e1: is the name of a harness task and of your examples"]),
        ('tasks = ["bad.jsonl"]', ["[evaluate] tasks: ", "bad.jsonl: line 1: is not valid JSON"]),
        ('loss = ["choices.jsonl"]', ["[evaluate] loss: ", "which have no loss"]),
        (
            'tasks = ["gsm8k"]\nvalidation = ["empty.jsonl"]',
            ["[evaluate] validation: ", "empty.jsonl: contains no examples"],
        ),
        (
            'tasks = ["e1.jsonl"]\nvalidation = ["bad.jsonl"]',
            ["[evaluate] validation: ", "bad.jsonl: line 1: is not valid JSON"],
        ),
    ],
)
def test_what_is_wrong_with_questions_is_told_before_anything_runs(
    evaluate: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "s2").mkdir()
    for name in ("e1.jsonl", "s2/e1.jsonl"):
        (tmp_path / name).write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "1+2=", "answer": "3"}\n')
    (tmp_path / "choices.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "choices": ["2", "3"]}\n')
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(StudyError, match="has 1 fault;") as caught:
        declared(versions(), f"[evaluate]\n{evaluate}\n", folder=tmp_path)
    told = str(caught.value)
    assert all(part in told for part in words) and "trained-on" not in told


def test_one_name_may_be_scored_and_its_answers_losses_measured(tmp_path: Path) -> None:
    for name, question in (("a", "1+1="), ("b", "1+2="), ("c", "1+3=")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "e.jsonl").write_text(json.dumps({"prompt": question, "answer": "2"}) + "\n")
    asked = '[evaluate]\ntasks = ["a/e.jsonl"]\nloss = ["b/e.jsonl"]\nvalidation = ["c/e.jsonl"]\n'
    assert declared(versions(), asked, folder=tmp_path).evaluations


def test_the_files_that_lines_are_measured_on_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{"text"')
    lines = '[paths]\ntext = ["empty.jsonl"]\ndata = ["torn.jsonl"]\n[do]\npaths = [["M1", "M2"]]\n'
    told = "\n".join(faults(f'[study]\nname = "s"\n{versions()}{TUNE}{lines}', tmp_path / "study.toml"))
    assert "empty.jsonl" in told and "torn.jsonl: line 2" in told


def test_a_task_that_is_asked_in_two_ways_is_a_fault_for_a_base_has_one_score_of_it() -> None:
    stages = "[version.tuned]\nsft = 'org/m@sft'\ndpo = 'org/m@dpo'\n"
    asked = '[evaluate]\ntasks = ["gsm8k", "mmlu"]\n[evaluate.dpo]\ntasks = ["gsm8k"]\n'
    do = '[do]\ntransfer = "all"\n'
    text = f'[study]\nname = "s"\n{versions(("M1", "M2"), stages)}'
    told = fault(f"{text}{asked}max-new-tokens = 1024\n{do}")
    assert (
        "gsm8k: [evaluate] has the same task with other settings (max-new-tokens), but a base has only one score"
        in told
    )
    study_of(f"{text}{asked}batch-size = 4\n{do}", PLACE)


def test_a_loss_is_another_score_than_the_answers_and_depends_on_fewer_settings(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name} + 1 =", "answer": "2"}}\n')
    stages = "[version.tuned]\nsft = 'org/m@sft'\ndpo = 'org/m@dpo'\n"
    head = f'[study]\nname = "s"\n{versions(("M1", "M2"), stages)}[do]\ntransfer = "all"\n'
    place = tmp_path / "study.toml"
    one = '[evaluate.sft]\ntasks = ["a.jsonl"]\nloss = ["b.jsonl"]\nmatch = "([0-9])"\n'
    other = '[evaluate.dpo]\ntasks = ["c.jsonl"]\nloss = ["a.jsonl", "b.jsonl"]\nmax-new-tokens = 5\n'
    study_of(head + one + other, place)
    (told,) = faults(head + one + other + "limit = 1\n", place)
    assert "the loss of b.jsonl: [evaluate.sft] has the same task with other settings (limit)" in told
