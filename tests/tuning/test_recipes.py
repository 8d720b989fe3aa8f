"""Recipes: the paper's values by default, and no value that cannot be meant."""

import pytest

from tuneport.errors import FLAGS, UsageError
from tuneport.tuning.recipes import DpoRecipe, GrpoRecipe, Lora, SftRecipe, TuningRun, parse_lora, recipe_of


def test_the_defaults_are_those_of_section_3_1() -> None:
    recipe = SftRecipe()
    assert (recipe.learning_rate, recipe.steps, recipe.batch_size) == (5e-6, 30_000, 8)
    assert (recipe.lr_scheduler_type, recipe.warmup_ratio) == ("linear", 0.03)


def test_epochs_replace_steps_and_steps_epochs() -> None:
    assert recipe_of("sft", epochs=2.0).steps is None
    assert recipe_of("dpo", steps=10).epochs is None


@pytest.mark.parametrize(
    "choices",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": 5.0},
        {"steps": 0},
        {"steps": None},
        {"epochs": 1.0},
        {"batch_size": -8},
        {"warmup_ratio": 1.5},
        {"max_length": 1},
        {"lr_scheduler_type": "square"},
        {"precision": "int8"},
        {"seed": -1},
        {"gradient_checkpointing": "yes"},
    ],
)
def test_a_value_that_is_not_valid_is_wrong_usage(choices: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        SftRecipe(**choices)  # type: ignore[arg-type]
    (fault,) = caught.value.faults
    assert fault.option == ("steps" if "epochs" in choices else next(iter(choices)))


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        GrpoRecipe(learning_rate=-1, num_generations=1, kl_coef=-1)
    assert [fault.option for fault in caught.value.faults] == ["learning_rate", "num_generations", "kl_coef"]
    assert "--num-generations 1: " in caught.value.message(FLAGS)


def test_a_choice_of_another_recipe_is_wrong_usage() -> None:
    for wrong, option in ((lambda: recipe_of("sft", dpo_beta=1.0), "dpo_beta"), (lambda: recipe_of("ppo"), "recipe")):
        with pytest.raises(UsageError) as caught:
            wrong()
        assert [fault.option for fault in caught.value.faults] == [option]


def test_the_answers_of_all_prompts_count_for_an_update_of_grpo() -> None:
    assert GrpoRecipe(batch_size=4, num_generations=3).examples_per_step == 12
    assert DpoRecipe(batch_size=4).examples_per_step == 4


def test_an_adapter_is_read_from_its_words() -> None:
    assert parse_lora("rank=8,alpha=12,targets=q_proj+v_proj,rslora=true,save=lm_head") == Lora(
        8, 12.0, ("q_proj", "v_proj"), rslora=True, modules_to_save=("lm_head",)
    )
    assert parse_lora("rank=8").record()["alpha"] == 16


@pytest.mark.parametrize(
    "text", ["8", "rank=", "rank=x", "rank=0", "dora=true", "rank=8,alpha=-1", "rslora=yes", "rank=8,rank=4"]
)
def test_an_adapter_that_is_not_valid_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lora(text)


@pytest.mark.parametrize(
    "choices", [{"save_every": 0}, {"eval_every": 5}, {"tasks": ("x",)}, {"report_to": "paper"}, {"shard_size": "big"}]
)
def test_a_way_of_running_that_cannot_be_meant_is_wrong_usage(choices: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TuningRun(**choices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["rank=8", "rank=4,alpha=3.5,targets=q_proj+v_proj,rslora=true,save=lm_head,tokens=<a>+<B>", "tokens=new"]
)
def test_an_adapters_choices_as_text_are_read_as_the_same_choices(text: str) -> None:
    assert parse_lora(parse_lora(text).text).record() == parse_lora(text).record()
