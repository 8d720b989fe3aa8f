"""The experiment on unseen tasks: its questions, its way from end to end, its claims."""

import json
import random
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from support.brief_recipes import FEW_STEPS

from tuneport.errors import OutputError
from tuneport.families import command, comparison, corpus, demo, order_questions, unseen
from tuneport.families.order_questions import LAST_NUMBER
from tuneport.families.unseen import LONGER, NUMBER_TASKS, OTHER_TASKS, STRANGE_THINGS, TWO_THINGS, Recipe

pytest.importorskip("transformers")

RECIPE = Recipe(tuning=FEW_STEPS, unseen_questions=6)


def computed(text: str) -> int:
    """The answer to a word problem, told from its words alone: only sentences about the thing that is asked for count."""
    *told, question = text.removesuffix(" ?").split(" . ")
    thing, left = question.split()[-1], 0
    for sentence in told:
        _, verb, amount, *of = sentence.split()
        if not of or of == [thing]:
            left += -int(amount) if verb in corpus.LOSSES else int(amount)
    return left


def test_unseen_problems_are_of_kinds_that_no_training_writes_and_their_answers_are_right() -> None:
    asked = unseen.unseen_questions(0, 200)
    assert len({question.prompt for question in asked}) == 600
    for question in asked:
        text = order_questions.bare(question.prompt)
        assert computed(text) == int(question.answer.split()[-1])
        events = sum(sentence.split()[1] in corpus.GAINS + corpus.LOSSES for sentence in text.split(" . ")[:-1])
        things = {word for word in text.split() if word in corpus.THINGS}
        if question.task == STRANGE_THINGS:
            assert not things
            assert text.split()[-2] in corpus.NOUNS
        else:
            assert (events, len(things)) == {LONGER: (3, 1), TWO_THINGS: (1, 2)}[question.task]
    taught = [order_questions.bare(q.prompt) for q in order_questions.training_questions(
        corpus.make_world(0), 0, 200, shares={order_questions.WORD_PROBLEMS: 1.0}, never=[]
    )]  # fmt: skip
    assert all(text.count(" . ") <= 3 for text in taught)


def test_what_a_longer_problem_asks_comes_after_all_its_events() -> None:
    problem = corpus.make_problem(random.Random(3), 3)
    assert problem.steps.count(";") == 2


@pytest.fixture(scope="module")
def done(finished_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unseen") / "unseen"
    unseen.unseen(out, finished_demo, RECIPE, show=lambda text: None)
    return out


def test_every_model_is_asked_every_task_and_the_bases_in_their_own_form_too(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    assert set(record["models"]) == set(unseen.NAMES)
    for task in (*NUMBER_TASKS, *OTHER_TASKS):
        assert set(record["tasks"][task]["models"]) == set(unseen.NAMES)
    for task in unseen.COMPLETED.values():
        assert set(record["tasks"][task]["models"]) == {"v1", "v2"}
        assert record["tasks"][task]["n"] == record["tasks"][task.removesuffix("-completed")]["n"]
    assert record["tasks"][LONGER]["n"] == RECIPE.unseen_questions


def test_the_transferred_model_is_proven_and_trained_on_from_there(done: Path) -> None:
    manifest = json.loads((done / "models" / "v2-transferred" / "tuneport.json").read_text())
    assert manifest["operation"] == "transfer"
    tuned = json.loads((done / "models" / "v2-transferred-tuned" / "tune.json").read_text())
    assert tuned["plan"]["model"]["name"] == "v2-transferred"


def test_only_word_problems_are_taught(done: Path) -> None:
    lines = [json.loads(line) for line in (done / "lesson" / "examples.jsonl").read_text().splitlines()]
    assert len(lines) == FEW_STEPS.batch_size * (FEW_STEPS.steps or 0)
    assert all(re.search(r"how many \w+ \?$", line["messages"][0]["content"]) for line in lines)


def test_the_scores_are_those_of_the_answers_that_lie_beside_them(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    rows = [json.loads(line) for line in (done / "scores" / "v1-tuned-numbers.examples.jsonl").read_text().splitlines()]
    for task in NUMBER_TASKS:
        of_task = [row for row in rows if row["task"] == task]
        found = [re.search(LAST_NUMBER, row["said"].strip()) for row in of_task]
        right = sum(bool(f) and f[1] == row["answer"] for f, row in zip(found, of_task, strict=True))  # type: ignore[index]
        assert record["tasks"][task]["models"]["v1-tuned"]["accuracy"] == pytest.approx(right / len(of_task))


def test_a_stopped_run_goes_on_from_the_models_it_has(done: Path, finished_demo: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "again.partial"
    shutil.copytree(done, stopped)
    (stopped / "summary.json").unlink()
    for name in ("v2-transferred", "v2-transferred-tuned"):  # made of a copy now, whose times are others
        shutil.rmtree(stopped / "models" / name)
    shutil.rmtree(stopped / "scores")
    kept = (stopped / "models" / "v1-tuned" / "tune.json").stat().st_mtime_ns
    unseen.unseen(tmp_path / "again", finished_demo, RECIPE, show=lambda text: None)
    assert (tmp_path / "again" / "models" / "v1-tuned" / "tune.json").stat().st_mtime_ns == kept
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (done, tmp_path / "again"))
    assert first["tasks"] == second["tasks"]


def test_a_second_run_shows_what_was_found_and_another_recipe_is_refused(done: Path, finished_demo: Path) -> None:
    shown: list[str] = []
    record = unseen.unseen(done, finished_demo, RECIPE, show=shown.append)
    assert record == json.loads((done / "summary.json").read_text())
    assert "version 2 + diff vector, then fine-tuned" in shown[0]
    with pytest.raises(OutputError, match=r"recipe\.unseen_questions"):
        unseen.unseen(done, finished_demo, Recipe(tuning=FEW_STEPS, unseen_questions=7))


def test_errors_of_the_command_line_are_words(
    tmp_path: Path, finished_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert unseen.main([*out, "--family", str(tmp_path)]) == 2
    assert "is no finished demo" in capsys.readouterr().err
    assert unseen.main([*out, "--family", str(finished_demo), "--seed", "5"]) == 2
    assert "was made with seed 0, not 5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_family_a_demo_is_made_beside_out_and_found_again(tmp_path: Path, finished_demo: Path) -> None:
    out, beside = tmp_path / "out", tmp_path / "out-family"
    shutil.copytree(finished_demo, beside)  # of the recipe that the command line runs
    plan = json.loads((beside / "plan.json").read_text()) | {"recipe": asdict(demo.Recipe())}
    (beside / "plan.json").write_text(json.dumps(plan))
    assert command.family_of(None, out, None) == beside
    with pytest.raises(OutputError, match=r"seed \(then 0, now 1\)"):
        command.family_of(None, out, 1)


def scored(**shares: float) -> dict[str, dict[str, list[bool]]]:
    """Models of which the first questions of each task are right, as many as their share."""
    tasks = (*NUMBER_TASKS, *OTHER_TASKS)
    return {
        name: {task: [index < shares.get(name.replace("-", "_"), 0.0) * 200 for index in range(200)] for task in tasks}
        for name in unseen.NAMES
    }


def test_claims_hold_where_they_should_and_only_there() -> None:
    good = unseen.summarise(scored(v2_transferred=0.8, v2_tuned=0.8, v2_transferred_tuned=0.9), 0)
    assert all(good["claims"].values())
    behind = unseen.summarise(scored(v2_transferred=0.5, v2_tuned=0.8, v2_transferred_tuned=0.7), 0)
    assert {claim for claim, held in behind["claims"].items() if not held} == {
        claim for claim in behind["claims"] if "at most 3 points behind" in claim
    }
    nothing = unseen.summarise(scored(v2_tuned=0.8), 0)
    assert not any(nothing["claims"].values())
    assert "NOT HELD" in comparison.table(nothing)
