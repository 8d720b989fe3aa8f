"""The experiment on stages: what each stage is taught, diff vectors from the base, claims from scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.brief_recipes import FEW_STEPS

from tuneport.families import order_questions, stages, word_tokenizers
from tuneport.families.order_questions import INSTRUCTION_TASKS, ORDERS, WORD_PROBLEMS, Question
from tuneport.families.stages import NUMBER_ALONE, STAGES, Recipe
from tuneport.tuning.recipes import DpoRecipe, GrpoRecipe

pytest.importorskip("transformers")

RECIPE = Recipe(
    sft=FEW_STEPS,
    dpo=DpoRecipe(learning_rate=1e-4, steps=2, epochs=None, batch_size=4),
    grpo=GrpoRecipe(learning_rate=1e-3, steps=2, batch_size=2, generations=2, answer_length=4),
)


PROBLEM = Question(
    WORD_PROBLEMS,
    word_tokenizers.chat_prompt("anna has 5 cups . anna finds 3 . how many cups ?"),
    "5 + 3 = 8 ; answer 8",
)


def test_every_other_word_problem_of_sft_is_answered_without_its_steps_and_nothing_else_is_changed() -> None:
    order = Question(ORDERS, word_tokenizers.chat_prompt("list eggs cups"), "eggs , cups")
    mixed = stages.of_mixed_quality([PROBLEM, order, PROBLEM, PROBLEM])
    assert [example.answer for example in mixed] == ["answer 8", "eggs , cups", PROBLEM.answer, "answer 8"]
    assert [example.prompt for example in mixed] == [q.prompt for q in (PROBLEM, order, PROBLEM, PROBLEM)]


@pytest.fixture(scope="module")
def done(finished_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "stages"
    stages.stages(out, finished_demo, RECIPE, show=lambda text: None)
    return out


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_stages_follow_one_another_and_each_has_its_own_recipe(done: Path) -> None:
    plans = {stage: json.loads((done / "models" / f"v1-{stage}" / "tune.json").read_text())["plan"] for stage in STAGES}
    assert {stage: plan["recipe"]["recipe"] for stage, plan in plans.items()} == {stage: stage for stage in STAGES}
    assert [plans[stage]["model"]["name"] for stage in STAGES] == ["v1", "v1-sft", "v1-dpo"]


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file  # numpy has no bf16

    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= load_file(shard)
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def test_each_stages_diff_vector_is_taken_from_the_base(done: Path, finished_demo: Path) -> None:
    base, target = (weights(finished_demo / "models" / version) for version in ("v1", "v2"))
    name = "model.layers.0.mlp.up_proj.weight"
    for stage in STAGES:
        tuned, moved = (weights(done / "models" / f"{version}-{stage}")[name] for version in ("v1", "v2"))
        np.testing.assert_allclose(moved, target[name] + (tuned - base[name]), atol=1e-2)
        assert not np.array_equal(tuned, base[name])


def test_dpo_prefers_steps_to_none_and_the_result_is_the_same(done: Path) -> None:
    pairs = rows(done / "dpo" / "examples.jsonl")
    assert pairs
    for pair in pairs:
        chosen, rejected = (pair[side][0]["content"] for side in ("chosen", "rejected"))  # type: ignore[index]
        assert chosen.endswith(f" ; {rejected}")
        assert rejected.split()[0] == "answer"


def test_no_stage_is_trained_on_a_question_of_the_test(done: Path) -> None:
    asked = {order_questions.bare(str(row["prompt"])) for row in rows(done / "questions" / "test.jsonl")}
    trained = [
        (row.get("messages") or row["prompt"])[0]["content"]  # type: ignore[index]
        for stage in STAGES
        for row in rows(done / stage / "examples.jsonl")
    ]
    assert len(trained) > 20
    assert not asked & set(trained)


def test_both_versions_are_asked_after_every_stage(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    assert set(record["models"]) == set(stages.NAMES)
    assert set(record["tasks"]) == {*INSTRUCTION_TASKS, NUMBER_ALONE}
    assert set(record["norms"]) == set(STAGES)
    assert 0 <= record["rewards"]["first"] <= 1


def test_an_answers_number_counts_without_the_steps_before_it(done: Path) -> None:
    record = json.loads((done / "summary.json").read_text())
    answers = rows(done / "scores" / "v1-test.examples.jsonl")
    problems = [row for row in answers if row["task"] == WORD_PROBLEMS]
    right = sum(str(row["said"]).split()[-1:] == str(row["answer"]).split()[-1:] for row in problems)
    told = record["tasks"][NUMBER_ALONE]
    assert told["n"] == len(problems) > 0
    assert told["models"]["v1"]["accuracy"] == pytest.approx(right / len(problems))
    to_the_letter = record["tasks"][WORD_PROBLEMS]["models"]
    assert all(told["models"][name]["accuracy"] >= to_the_letter[name]["accuracy"] for name in stages.NAMES)


def scored(**shares: float) -> dict[str, dict[str, list[bool]]]:
    return {
        name: {
            task: [i < shares.get(name.replace("-", "_"), 0.0) * 100 for i in range(100)]
            for task in (*INSTRUCTION_TASKS, NUMBER_ALONE)
        }
        for name in stages.NAMES
    }


def test_a_stage_that_adds_nothing_on_version_2_is_told_as_not_held() -> None:
    told = stages.summarise(scored(v1_sft=0.5, v1_dpo=0.6, v1_grpo=0.9, v2_sft=0.5, v2_dpo=0.7, v2_grpo=0.7), 0)[
        "claims"
    ]
    assert [claim for claim, held in told.items() if not held] == ["GRPO adds to DPO on version 2, by addition"]
