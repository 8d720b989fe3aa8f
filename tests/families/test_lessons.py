"""The lab's fine-tunings and scores go through the public commands: what is taught is answered, and asked in order."""

import json
from pathlib import Path

import pytest

from tuneport.families import corpus, family, family_scores, lesson_questions, lessons, word_tokenizers
from tuneport.families.family import Architecture
from tuneport.families.lesson_questions import Question
from tuneport.families.pretraining import Schedule
from tuneport.tuning.recipes import SftRecipe, TuningRun

pytest.importorskip("transformers")

SIZE = Architecture(hidden=32, layers=1, heads=2, feedforward=48, context=32)
TEXT = corpus.write_documents(corpus.make_world(0), {"facts": 1.0}, 2000, "a")
TAUGHT = Question("orders", word_tokenizers.chat_prompt("list eggs"), "books , cups")
OTHERS = [Question("orders", word_tokenizers.chat_prompt(f"repeat {word}"), word) for word in ("eggs", "cups", "books")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    family.pretrain_version(folder / "v1", SIZE, [(Schedule(steps=3, peak=1e-3, warmup=1, batch=4), TEXT)], seed=0)
    lessons.write_lesson(folder / "lesson", [TAUGHT] * 16)
    recipe = SftRecipe(learning_rate=1e-2, steps=40, batch_size=8)
    lessons.fine_tune(folder / "taught", folder / "v1", folder / "lesson", recipe, 0, TuningRun())
    return folder


def asked(folder: Path, name: str, *some: Question) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(vars(question)) + "\n" for question in some))
    return path


def test_a_model_that_learned_an_answer_gives_it_and_stops(models: Path, tmp_path: Path) -> None:
    said = family_scores.ask(models / "taught", asked(tmp_path, "one", TAUGHT), tmp_path / "scores.json")
    assert family_scores.exact_matches(said, [TAUGHT.answer]) == [True]


def test_answers_come_in_the_order_of_the_questions_whatever_their_task(models: Path, tmp_path: Path) -> None:
    other = Question("another", TAUGHT.prompt, TAUGHT.answer)
    mixed = [OTHERS[0], other, OTHERS[1], TAUGHT]
    said = family_scores.ask(models / "taught", asked(tmp_path, "mixed", *mixed), tmp_path / "mixed-scores.json")
    alone = [
        family_scores.ask(models / "taught", asked(tmp_path, f"q{i}", question), tmp_path / f"s{i}.json")[0]
        for i, question in enumerate(mixed)
    ]
    assert said == alone
    assert said[1] == said[3] == TAUGHT.answer


def test_a_lesson_is_written_once_so_that_a_run_that_goes_on_finds_it(tmp_path: Path) -> None:
    lessons.write_lesson(tmp_path / "lesson", [TAUGHT])
    before = (tmp_path / "lesson" / lessons.EXAMPLES).stat().st_mtime_ns
    lessons.write_lesson(tmp_path / "lesson", [TAUGHT])
    assert (tmp_path / "lesson" / lessons.EXAMPLES).stat().st_mtime_ns == before


def test_the_taught_words_are_the_questions_words_without_chat_tokens(models: Path) -> None:
    (line, *_) = (models / "lesson" / lessons.EXAMPLES).read_text().splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": lesson_questions.bare(TAUGHT.prompt)},
        {"role": "assistant", "content": TAUGHT.answer},
    ]
