"""The family of a study on languages: two instruct models with templates of their own, and each language's files."""

import json
from pathlib import Path

import pytest
from support.brief_recipes import BRIEF_LANGUAGES

from tuneport.examples.questions import read_tasks
from tuneport.examples.training_data import read_sources
from tuneport.families.family import RECORD
from tuneport.families.instructed import FILES, MODELS, NAMES, make_instructed
from tuneport.families.languages import BEGINNING

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_instructed(tmp_path_factory.mktemp("instructed") / "family", seed=0, recipe=BRIEF_LANGUAGES)


def test_both_instruct_models_and_all_files_are_there(made: Path) -> None:
    assert {*MODELS, *FILES, RECORD} <= {path.name for path in made.iterdir()}
    templates = [(made / name / "chat_template.jinja").read_text() for name in MODELS]
    assert BEGINNING in templates[1] and BEGINNING not in templates[0]


def test_each_language_is_taught_and_asked_in_files_that_the_commands_read(made: Path) -> None:
    assert len(NAMES) == 3
    for name in NAMES:
        (source,) = read_sources([made / f"{name}.jsonl"], "sft", [], 0)
        assert len(source.rows) == BRIEF_LANGUAGES.lesson
        (task,) = read_tasks([made / f"{name}-questions.jsonl"])
        assert task.name == name and task.examples[0].messages is not None


def test_the_record_holds_a_digest_of_the_text(made: Path) -> None:
    assert len(json.loads((made / RECORD).read_text())["text"]) == 64
    assert make_instructed(made, seed=0, recipe=BRIEF_LANGUAGES) == made
