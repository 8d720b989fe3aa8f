"""What is trained, by what: batches, losses, schedules and decay as asked for; preferences and rewards that are learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quick_tuning import QUICK
from support.tiny_tuning import base_model, log_of, same, sums, weights, write_rows

from tuneport.errors import DataError, TrainingError, UsageError
from tuneport.tuning.loading import narrow_frozen_weights
from tuneport.tuning.recipes import DpoRecipe, GrpoRecipe, Lora, SftRecipe, TuningRun
from tuneport.tuning.run import tune


def test_the_loss_is_the_same_by_either_way_through_the_head(
    base: Path, sums: Path, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuneport.tuning import losses

    monkeypatch.setattr(losses, "SMALL_LOGITS", 0)
    out = tune(base, [sums], QUICK, out=tmp_path / "out").out
    for name in ("loss", "tokens", "grad_norm"):
        assert [line[name] for line in log_of(out)] == pytest.approx([line[name] for line in log_of(full)], rel=1e-3)


def test_accumulated_batches_give_the_update_of_one_large_batch(
    base: Path, sums: Path, full: Path, tmp_path: Path
) -> None:
    recipe = SftRecipe(steps=12, learning_rate=3e-2, batch_size=8, per_device_train_batch_size=2)
    out = tune(base, [sums], recipe, out=tmp_path / "out").out
    assert [line["loss"] for line in log_of(out)] == pytest.approx([line["loss"] for line in log_of(full)], rel=1e-3)


def test_activations_that_are_computed_twice_give_the_same_losses(
    base: Path, sums: Path, full: Path, tmp_path: Path
) -> None:
    recipe = SftRecipe(steps=12, learning_rate=3e-2, batch_size=8, gradient_checkpointing=True)
    out = tune(base, [sums], recipe, out=tmp_path / "out").out
    assert [line["loss"] for line in log_of(out)] == pytest.approx([line["loss"] for line in log_of(full)], rel=1e-4)


def test_bfloat16_is_for_the_computation_weights_still_train_in_float32(sums: Path, tmp_path: Path) -> None:
    # Steps of 1e-6 are lost on most weights that are kept in bfloat16, and on hardly any that are kept in float32.
    base = base_model(tmp_path / "base", dtype=torch.float32)
    recipe = SftRecipe(
        steps=4, learning_rate=1e-6, precision="bfloat16", lr_scheduler_type="constant", warmup_ratio=0.0
    )
    done = tune(base, [sums], recipe, out=tmp_path / "out")
    assert done.record["environment"]["computed_in"] == "bfloat16"
    before, after = weights(base)["lm_head.weight"], weights(done.out)["lm_head.weight"]
    assert (before != after).float().mean() > 0.9
    assert (before.bfloat16() != after.bfloat16()).float().mean() < 0.3


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [0, 0.5, 1, 1]), ("linear", [0, 0.5, 1, 0.5]), ("cosine", [0, 0.5, 1, 0.5])],
)
def test_the_rate_follows_its_schedule(
    base: Path, sums: Path, tmp_path: Path, schedule: Any, rates: list[float]
) -> None:
    recipe = SftRecipe(steps=4, learning_rate=1e-3, lr_scheduler_type=schedule, warmup_ratio=0.5)
    out = tune(base, [sums], recipe, out=tmp_path / "out").out
    assert [line["learning_rate"] for line in log_of(out)] == pytest.approx([1e-3 * rate for rate in rates])


def test_embeddings_norms_and_biases_are_not_decayed(base: Path, sums: Path, tmp_path: Path) -> None:
    from tuneport.tuning.loading import load_model
    from tuneport.tuning.prepare import prepare
    from tuneport.tuning.team import Team
    from tuneport.tuning.trainers import build_trainer

    prepared = prepare(base, [sums], SftRecipe(steps=1, weight_decay=0.1))
    trainer = build_trainer(prepared, load_model(prepared), tmp_path, Team(), TuningRun())
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    everything = {name for name, _ in trainer.model.named_parameters()}
    spared = {name for name in everything if "norm" in name or "embed" in name}
    assert len(spared) == 4
    assert decayed == everything - spared


def test_a_linear_layer_that_gives_more_than_one_tensor_gets_no_adapter() -> None:
    from transformers import Llama4TextConfig
    from transformers.models.falcon.modeling_falcon import FalconLinear
    from transformers.models.llama4.modeling_llama4 import Llama4Router

    from tuneport.tuning.trainers import gives_one_tensor

    assert gives_one_tensor(torch.nn.Linear(4, 3)) and gives_one_tensor(FalconLinear(4, 3))
    assert not gives_one_tensor(Llama4Router(Llama4TextConfig(hidden_size=4, num_local_experts=2)))


def test_no_parameter_is_dropped_in_training(tmp_path: Path, sums: Path) -> None:
    from tuneport.tuning.loading import load_model
    from tuneport.tuning.prepare import prepare

    base = base_model(tmp_path / "dropping", attention_dropout=0.5)
    model = load_model(prepare(base, [sums], SftRecipe(steps=1))).train()
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)
    out = tune(base, [sums], SftRecipe(steps=1), out=tmp_path / "out").out
    assert json.loads((out / "config.json").read_text())["attention_dropout"] == 0.5


def test_preferences_are_learned(base: Path, full: Path, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": " dog"} for row in sums()]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    recipe = DpoRecipe(steps=10, epochs=None, batch_size=8, learning_rate=1e-3, dpo_loss="sigmoid", dpo_beta=0.5)
    out = tune(full, [data], recipe, out=tmp_path / "out").out
    log = log_of(out)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "before the first step model and reference are one: log 2"
    assert log[-1]["loss"] < 0.5
    assert log[-1]["rewards/margins"] > log[1]["rewards/margins"]
    assert not same(weights(full), weights(out))


def test_a_verifiable_reward_is_raised(full: Path, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "answer": row["completion"].strip()} for row in sums(4)]
    data = write_rows(tmp_path / "prompts.jsonl", rows)
    recipe = GrpoRecipe(
        steps=30, batch_size=4, num_generations=16, max_completion_length=3, learning_rate=1e-2, kl_coef=0.0
    )
    out = tune(full, [data], recipe, out=tmp_path / "out").out
    rewards = [line["reward"] for line in log_of(out)]
    first, last = sum(rewards[:5]) / 5, sum(rewards[-15:]) / 15
    assert first < 0.12
    assert last > 2 * first


def test_a_users_reward_counts_by_its_weight_and_may_look_at_any_field(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rewards_of_a_test.py").write_text(
        "def level(prompts, completions, level, **_):\n    print('looked at')\n    return [float(value) for value in level]\n"
        "def broken(completions, **_):\n    return completions[7000]\n"
        "def short(completions, **_):\n    return [1.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    data = write_rows(
        tmp_path / "prompts.jsonl", [{"prompt": "1 + 1 =", "level": 3}, {"prompt": "1 + 2 =", "level": 5}]
    )
    choices = {"steps": 1, "batch_size": 2, "num_generations": 2, "max_completion_length": 2, "kl_coef": 0.0}
    recipe = GrpoRecipe(**choices, rewards=("0.5*rewards_of_a_test:level", "format=(?s).*"))
    out = tune(full, [data], recipe, out=tmp_path / "out").out
    assert log_of(out)[0]["reward"] == pytest.approx(0.5 * 4 + 1)
    printed = capsys.readouterr()
    assert printed.out == "" and "looked at" in printed.err, "stdout is for results"
    for name, words in (("broken", "failed with IndexError"), ("short", r"gave 1 value\(s\) for 4 completions")):
        with pytest.raises(TrainingError, match=words):
            tune(full, [data], GrpoRecipe(**choices, rewards=(f"rewards_of_a_test:{name}",)), out=tmp_path / name)


def test_prompts_that_fill_no_update_and_tokens_that_the_reference_lacks_are_refused(
    full: Path, base: Path, tmp_path: Path
) -> None:
    drawn = {"steps": 1, "num_generations": 2, "max_completion_length": 4, "rewards": ("format=.*",)}
    few = write_rows(tmp_path / "few.jsonl", [{"prompt": f"{n} + 1 ="} for n in range(3)])
    with pytest.raises(DataError, match=r"3 prompts fit, but an update needs 4.*batch_size of 3 or less"):
        tune(full, [few], GrpoRecipe(**drawn, batch_size=4), out=tmp_path / "out")
    spoken = write_rows(tmp_path / "spoken.jsonl", [{"prompt": [{"role": "user", "content": "1 + 1 ="}]}])
    with pytest.raises(UsageError, match=r"the reference .* has no rows for <\|im_start\|>"):
        tune(base, [spoken], GrpoRecipe(**drawn, batch_size=1), out=tmp_path / "out", chat_template="chatml")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out(full: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "the " * 70}, {"prompt": "1 + 1 ="}])
    recipe = GrpoRecipe(
        steps=1,
        batch_size=1,
        num_generations=2,
        max_completion_length=100,
        learning_rate=1e-6,
        kl_coef=0.1,
        rewards=("format=.*",),
    )
    done = tune(full, [data], recipe, out=tmp_path / "out")
    assert done.record["outcome"]["examples"]["without_answer"] == 1
    assert "1 example(s) are left out" in done.warnings[0]


@pytest.mark.parametrize("tokens", ["new", ("<|end|>",)], ids=["plain", "rows"])
def test_frozen_weights_in_bfloat16_beside_an_adapter_change_no_bit_of_a_loss(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: Any
) -> None:
    from tuneport.tuning import trainers

    recipe = SftRecipe(steps=6, learning_rate=3e-2, precision="bfloat16")
    lora, held = Lora(rank=4, tokens=tokens), []

    def seen(model: Any) -> None:
        narrow_frozen_weights(model)
        held.extend(name for name, weight in model.named_parameters() if weight.dtype == torch.bfloat16)

    monkeypatch.setattr(trainers, "narrow_frozen_weights", seen)
    narrow = tune(base, [sums], recipe, out=tmp_path / "narrow", lora=lora).out
    monkeypatch.setattr(trainers, "narrow_frozen_weights", lambda model: None)
    wide = tune(base, [sums], recipe, out=tmp_path / "wide", lora=lora).out
    assert len(held) == (8 if tokens == "new" else 7), "seven linear layers, and the head unless its rows are trained"
    assert not any("lora" in name or "embed" in name or "norm" in name for name in held)
    assert [line["loss"] for line in log_of(narrow)] == [line["loss"] for line in log_of(wide)]
    assert same(weights(narrow), weights(wide))
