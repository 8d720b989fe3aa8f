"""The experiment on languages: its family, its questions through each model's own template, its claims."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.brief_recipes import BRIEF_LANGUAGES, FEW_STEPS

from tuneport.families import corpus, languages, order_questions
from tuneport.families.languages import BEGINNING, ENGLISH, KNOWN
from tuneport.families.tongues import TONGUES

pytest.importorskip("transformers")


def test_the_test_asks_as_much_in_every_language_and_no_lesson_holds_a_question_of_it() -> None:
    world = corpus.make_world(0)
    asked = languages.held_out(world, 0, BRIEF_LANGUAGES)
    count = BRIEF_LANGUAGES.problems + 3 * len(order_questions.ASKED_NAMES)
    tasks = [question.task for question in asked]
    assert {task: tasks.count(task) for task in tasks} == dict.fromkeys((ENGLISH, *(t.name for t in TONGUES)), count)
    never = frozenset(order_questions.bare(question.prompt) for question in asked)
    for tongue in TONGUES:
        taught = languages.lesson_in(tongue, world, 0, 300, BRIEF_LANGUAGES.shares, never)
        assert len(taught) == 300
        assert not never & {order_questions.bare(example.prompt) for example in taught}


def test_version_2_is_taught_what_version_1_is_and_more_in_the_language_that_it_knows() -> None:
    world = corpus.make_world(0)
    recipe = replace(BRIEF_LANGUAGES, instruct=replace(FEW_STEPS, steps=100))
    first, second = languages.instruction_data(world, 0, recipe, [])
    assert len(first) == len(second) == 400
    little, much = (round(share * 400) for share in recipe.known_taught)
    assert [sum(example.task == KNOWN for example in taught) for taught in (first, second)] == [little, much]
    changed = [(before.task, after.task) for before, after in zip(first, second, strict=True) if before != after]
    assert len(changed) == much - little
    assert all(before != KNOWN and after == KNOWN for before, after in changed)


@pytest.fixture(scope="module")
def done(workers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("languages") / "languages"
    languages.languages(out, 0, BRIEF_LANGUAGES, show=lambda text: None)
    return out


def test_every_diff_vector_is_a_languages_and_goes_onto_version_2s_instruct_model(done: Path) -> None:
    for tongue in TONGUES:
        manifest = json.loads((done / "models" / f"v2-{tongue.name}" / "tuneport.json").read_text())
        names = {given["role"]: given["name"] for given in manifest["inputs"]}
        assert names == {"base": "v1-instruct", "tuned": f"v1-{tongue.name}", "target": "v2-instruct"}


def test_the_template_is_version_2s_own_and_questions_go_through_it(done: Path) -> None:
    from transformers import AutoTokenizer

    folder = done / "models" / f"v2-{TONGUES[0].name}"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "eggs"}], tokenize=False)
    assert text.startswith(BEGINNING)
    assert BEGINNING not in AutoTokenizer.from_pretrained(done / "models" / "v1-instruct").get_vocab()
    assert json.loads((done / "summary.json").read_text())["claims"]["the chat template stays version 2's own"]
    (first, *_) = (done / "questions" / "test.jsonl").read_text().splitlines()
    assert set(json.loads(first)) == {"task", "messages", "answer"}


def test_all_instruct_models_are_asked_in_all_languages(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    assert set(record["tasks"]) == {ENGLISH, *(tongue.name for tongue in TONGUES)}
    assert all(set(told["models"]) == set(languages.NAMES) for told in record["tasks"].values())


def scored(**shares: float) -> dict[str, dict[str, list[bool]]]:
    tasks = [ENGLISH, *(tongue.name for tongue in TONGUES)]
    return {
        name: {task: [i < shares.get(name.replace("-", "_"), 0.1) * 200 for i in range(200)] for task in tasks}
        for name in languages.NAMES
    }


def test_claims_hold_where_they_should_and_only_there() -> None:
    first, second = (tongue.name for tongue in TONGUES if tongue.name != KNOWN)
    gained = {f"v2_{first}": 0.6, f"v2_{second}": 0.6, f"v2_{KNOWN}": 0.5, "v2_instruct": 0.5}
    assert all(languages.summarise(scored(**gained), 0, own_template=True)["claims"].values())
    harmed = scored(**gained | {f"v2_{KNOWN}": 0.4, f"v1_{KNOWN}": 0.55})
    told = languages.summarise(harmed, 0, own_template=False)["claims"]
    assert [claim for claim, held in told.items() if held] == [
        f"{name}: version 2 instruct gains by addition alone" for name in (first, second)
    ]
