"""A family of five versions, with budgets so small that nothing is learned: what is there, and that a stop changes nothing."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from support.brief_recipes import TINY

from tuneport.errors import OutputError, UsageError
from tuneport.examples.questions import read_tasks
from tuneport.examples.training_data import read_sources
from tuneport.families import catalogue, family, versions
from tuneport.families.family import RECORD
from tuneport.families.pretraining import Schedule
from tuneport.families.versions import FILES, MODELS, SIZES, VersionsRecipe, make_family

pytest.importorskip("transformers")

RECIPE = VersionsRecipe(
    architecture=TINY,
    untrained=1,
    first_stage=Schedule(steps=6, peak=1e-2, warmup=1, batch=4, shape="cosine", final=0.2),
    second_stage=Schedule(steps=4, peak=1e-2, warmup=1, batch=4),
    amounts=replace(
        versions.SMALL.amounts,
        taught=40,
        preferred=8,
        rewarded=8,
        tested=12,
        validated=4,
        completed=6,
        unseen=6,
        texts=6,
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("families") / "whole", seed=0, recipe=RECIPE)


def test_the_folder_holds_six_models_and_the_files_and_nothing_else(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {*MODELS, *FILES, RECORD}


def test_every_version_is_an_ordinary_checkpoint_of_its_own(made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = []
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(made / name)
        tokenizer = AutoTokenizer.from_pretrained(made / name)
        assert tokenizer.get_vocab() == {word: place for place, word in enumerate(versions.words())}
        assert tokenizer.chat_template is None and not model.config.tie_word_embeddings
        assert str(model.dtype) == "torch.bfloat16"
        weights.append(model.lm_head.weight.float())
    assert all(bool((one != other).any()) for one, other in pairwise(weights))


def test_tune_and_evaluate_read_every_file(made: Path) -> None:
    for name in ("questions", "validation", "few-shot", "unseen", "held-out-text"):
        assert read_tasks([made / f"{name}.jsonl"])
    recipes = {"instructions": "sft", "mixed-instructions": "sft", "preferences": "dpo", "prompts": "grpo"}
    for name, recipe in recipes.items():
        assert read_sources([made / f"{name}.jsonl"], recipe, [], 0)


class _StopError(Exception):
    """In the place of a kill."""


@pytest.mark.parametrize("at", ["M0", "M2", "M3", "M4", "M5"])
def test_a_family_that_is_stopped_goes_on_and_ends_with_the_same_bytes(
    made: Path, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = family.save

    def stop(model: object, tokenizer: object, out: Path) -> None:
        if out.name == at:
            (out / "half").mkdir(parents=True)
            raise _StopError
        save(model, tokenizer, out)

    with monkeypatch.context() as patched:
        patched.setattr(family, "save", stop)
        with pytest.raises(_StopError):
            make_family(tmp_path / "again", seed=0, recipe=RECIPE)
    assert not (tmp_path / "again").exists()
    make_family(tmp_path / "again", seed=0, recipe=RECIPE)
    whole, again = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (made, tmp_path / "again")
    )
    assert len(whole) > 30
    assert whole.keys() == again.keys()
    assert [file for file in whole if whole[file] != again[file]] == []


def test_a_finished_family_is_left_as_it_is_and_another_seed_refused(made: Path) -> None:
    before = (made / RECORD).stat().st_mtime_ns
    assert make_family(made, seed=0, recipe=RECIPE) == made
    assert (made / RECORD).stat().st_mtime_ns == before
    with pytest.raises(OutputError, match=r"seed \(then 0, now 1\)"):
        make_family(made, seed=1, recipe=RECIPE)


def test_the_record_says_what_the_text_was(made: Path) -> None:
    record = json.loads((made / RECORD).read_text())
    assert len(record["text"]) == 64
    assert record["plan"]["recipe"]["amounts"]["taught"] == record["examples"]["taught"] == 40


def test_the_end_of_pretraining_has_a_rate_near_zero_and_a_version_before_it_has_not() -> None:
    for recipe in SIZES.values():
        last = recipe.second_stage
        assert last.rate(last.steps - 1) < 0.02 * last.peak
        assert recipe.first_stage.rate(recipe.first_stage.steps - 1) < 0.25 * recipe.first_stage.peak


def test_an_unknown_size_says_which_there_are() -> None:
    with pytest.raises(UsageError, match="choose small or large"):
        catalogue.choices("versions", "huge", 0)


def test_the_catalogue_finds_each_model_and_file_by_name() -> None:
    assert catalogue.find("lab:M4") == ("versions", "M4")
    assert catalogue.find("lab:questions") == catalogue.find("lab:questions.jsonl") == ("versions", "questions.jsonl")
    assert catalogue.find("lab:chat.jinja") == ("versions", "chat.jinja")
    assert catalogue.find("lab:v2-instruct") == ("languages", "v2-instruct")
    with pytest.raises(UsageError, match=r"no 'question'\. Did you mean lab:questions or "):
        catalogue.find("lab:question")


def test_names_of_one_recipe_are_not_those_of_another() -> None:
    names = [{*recipe.models, *recipe.files} for recipe in catalogue.RECIPES.values()]
    assert len(set().union(*names)) == sum(map(len, names))


def test_a_recipe_that_changed_since_the_plan_is_not_made(tmp_path: Path) -> None:
    chosen = catalogue.choices("versions", "small", 0)
    assert json.loads(json.dumps(chosen)) == chosen
    chosen["literal"] = chosen["literal"] | {"untrained": 7}
    with pytest.raises(UsageError, match="has changed since"):
        catalogue.make(chosen, tmp_path / "family")
