"""Recipes: the paper's values by default, and no value that cannot be meant."""

import pytest

from tuneport.errors import UsageError
from tuneport.tuning.recipes import DpoRecipe, GrpoRecipe, Lora, Running, SftRecipe, parse_lora, recipe_of


def test_the_defaults_are_those_of_section_3_1() -> None:
    recipe = SftRecipe()
    assert (recipe.learning_rate, recipe.steps, recipe.batch_size) == (5e-6, 30_000, 8)
    assert (recipe.schedule, recipe.warmup_ratio) == ("linear", 0.03)


def test_epochs_replace_steps_and_steps_epochs() -> None:
    assert recipe_of("sft", epochs=2.0).steps is None
    assert recipe_of("dpo", steps=10).epochs is None


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"learning_rate": 0.0}, "--learning-rate 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"learning_rate": 5.0}, "above 1 nothing is learned"),
        ({"steps": 0}, "--steps 0"),
        ({"steps": None}, "either --steps or --epochs"),
        ({"epochs": 1.0}, "either --steps or --epochs"),
        ({"batch_size": -8}, "--batch-size -8"),
        ({"warmup_ratio": 1.5}, "--warmup-ratio 1.5"),
        ({"sequence_length": 1}, "--sequence-length 1"),
        ({"schedule": "square"}, "--schedule 'square'"),
        ({"precision": "int8"}, "--precision 'int8'"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_a_value_that_cannot_be_meant_is_wrong_usage(choices: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        SftRecipe(**choices)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"--learning-rate.*--kl.*--generations 1"):
        GrpoRecipe(learning_rate=-1, generations=1, kl=-1)


def test_a_choice_of_another_recipe_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--recipe sft has no --beta"):
        recipe_of("sft", beta=1.0)
    with pytest.raises(UsageError, match="choose sft, dpo, grpo"):
        recipe_of("ppo")


def test_the_answers_of_all_prompts_count_for_an_update_of_grpo() -> None:
    assert GrpoRecipe(batch_size=4, generations=3).examples_per_step == 12
    assert DpoRecipe(batch_size=4).examples_per_step == 4


def test_an_adapter_is_read_from_its_words() -> None:
    assert parse_lora("rank=8,alpha=12,targets=q_proj+v_proj,rslora=true,save=lm_head") == Lora(
        8, 12.0, ("q_proj", "v_proj"), rslora=True, modules_to_save=("lm_head",)
    )
    assert parse_lora("rank=8").record()["alpha"] == 16


@pytest.mark.parametrize(
    "text", ["8", "rank=", "rank=x", "rank=0", "dora=true", "rank=8,alpha=-1", "rslora=yes", "rank=8,rank=4"]
)
def test_an_adapter_that_cannot_be_meant_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--lora"):
        parse_lora(text)


@pytest.mark.parametrize(
    "choices", [{"save_every": 0}, {"eval_every": 5}, {"tasks": ("x",)}, {"report_to": "paper"}, {"shard_size": "big"}]
)
def test_a_way_of_running_that_cannot_be_meant_is_wrong_usage(choices: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Running(**choices)  # type: ignore[arg-type]
