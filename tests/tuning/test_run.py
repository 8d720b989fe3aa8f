"""A fine-tuning from end to end: what lies in the folder, and that a killed run ends where an unbroken one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import tiny_tuning
from support.command_results import Cli
from support.forked import tune_after_a_fork
from support.quick_tuning import QUICK
from support.tiny_tuning import END, base_model, log_of, same, sums, weights, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

import tuneport
from tuneport.errors import OutputError, TrainingError
from tuneport.examples.digests import example_digest, read_digests
from tuneport.tuning.recipes import DistilRecipe, GrpoRecipe, Lora, Recipe, SftRecipe, recipe_of
from tuneport.tuning.run import tune


def test_the_output_is_a_checkpoint_in_the_starts_dtype_with_the_starts_own_behaviour(base: Path, full: Path) -> None:
    before, after = weights(base), weights(full)
    assert {name: (t.dtype, t.shape) for name, t in before.items()} == {n: (t.dtype, t.shape) for n, t in after.items()}
    assert not any(torch.equal(before[name], after[name]) for name in before if "layernorm" not in name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (full / name).read_bytes() == (base / name).read_bytes()
    for name in ("config.json", "generation_config.json"):
        assert json.loads((full / name).read_text()) == json.loads((base / name).read_text())


def test_the_output_has_learned_that_answers_end(base: Path, full: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(full)
    ids = tokenizer([row["prompt"] + row["completion"] + END for row in sums(7)])["input_ids"]
    ended = {}
    for folder in (base, full):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            ended[folder] = [int(model(torch.tensor([row])).logits[0, -2].argmax()) == row[-1] for row in ids]
    assert not any(ended[base])
    assert all(ended[full])


def test_every_step_is_logged_with_loss_rate_tokens_and_seconds(full: Path) -> None:
    log = log_of(full)
    assert [line["step"] for line in log] == list(range(1, 13))
    assert [line["tokens"] for line in log] == sorted({line["tokens"] for line in log})
    assert [line["seconds"] for line in log] == sorted(line["seconds"] for line in log)
    # transformers' linear schedule: from 0 up over 3 % of the steps (here one), then down to 0 after the last.
    assert [line["learning_rate"] for line in log] == pytest.approx(
        [0.0, *(3e-2 * (12 - step) / 11 for step in range(1, 12))]
    )


def test_the_record_says_what_went_in_and_what_came_out_and_no_path(base: Path, sums: Path, full: Path) -> None:
    record = json.loads((full / "tune.json").read_text())
    plan, outcome = record["plan"], record["outcome"]
    assert plan["model"]["name"] == "base"
    assert plan["model"]["digest"].startswith("files:")
    assert plan["recipe"]["recipe"] == "sft"
    assert plan["recipe"]["max_length"] == 128
    assert plan["data"][0]["name"] == "sums"
    assert plan["data"][0]["rows"] == 40
    assert outcome["steps"] == 12
    assert outcome["tokens"] == log_of(full)[-1]["tokens"]
    assert record["environment"]["packages"]["trl"]
    for given in (base, sums):
        assert str(given.parent) not in (full / "tune.json").read_text()
    assert not [path.name for path in full.iterdir() if path.name in ("plan.json", "checkpoints")]


def test_what_was_trained_on_is_found_in_the_digests(full: Path) -> None:
    digests = read_digests(full / "tune-hashes.txt")
    assert all(example_digest(row["prompt"]) in digests for row in sums())
    assert example_digest("9 + 9 =") not in digests


def test_an_adapter_is_one_that_peft_loads_onto_the_start_and_names_it_without_a_path(
    base: Path, adapter: Path
) -> None:
    from peft import PeftModel

    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert config["lora_dropout"] == 0
    assert config["target_modules"] == sorted(config["target_modules"]), "a set has another order in every process"
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.tensor([[1, 2, 3]])
    plain = start(ids).logits
    tuned = PeftModel.from_pretrained(start, adapter)(ids).logits
    assert not torch.equal(plain, tuned)
    assert log_of(adapter)[-1]["loss"] < log_of(adapter)[0]["loss"]
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "log.jsonl",
        "tune-hashes.txt",
        "tune.json",
    ]


def test_the_card_says_what_was_done_and_how_it_goes_on_in_the_form_that_the_hub_reads(
    base: Path, full: Path, adapter: Path
) -> None:
    from huggingface_hub import ModelCard

    for folder, library, tags in (
        (full, "transformers", ["tuneport", "fine-tuning", "sft"]),
        (adapter, "peft", ["tuneport", "fine-tuning", "sft", "lora"]),
    ):
        card = ModelCard.load(folder / "README.md")
        assert card.data.to_dict() == {
            "library_name": library,
            "pipeline_tag": "text-generation",
            "tags": tags,
        }  # the model is a folder, no Hub id
        assert "trained for 12 steps" in card.text
        assert "| sums | prompt-completion | 40 | 40 |" in card.text
        assert "| learning_rate | 0.03 |" in card.text
        assert "tuneport transfer --base base --tuned this-folder --onto NEW-VERSION" in card.text
        assert str(base.parent.parent) not in card.text
    assert "| lora rank | 4 |" in (adapter / "README.md").read_text()


def test_the_same_command_again_says_that_it_is_done_and_another_is_refused(base: Path, sums: Path, full: Path) -> None:
    before = (full / "tune.json").stat().st_mtime_ns
    assert tune(base, [sums], QUICK, out=full).already_done
    with pytest.raises(OutputError, match=r"a different plan; differences:(\n.*)*recipe\.steps \(then 12, now 13\)"):
        tune(base, [sums], SftRecipe(steps=13), out=full)
    assert (full / "tune.json").stat().st_mtime_ns == before


def test_two_runs_of_one_plan_give_the_same_bits(base: Path, sums: Path, full: Path, tmp_path: Path) -> None:
    again = tune(base, [sums], QUICK, out=tmp_path / "again").out
    assert same(weights(full), weights(again))
    assert [line["loss"] for line in log_of(again)] == [line["loss"] for line in log_of(full)]


def _killed(out: Path, after: int, *arguments: Any, **choices: Any) -> None:
    """Run `tune` in a child process and kill it, unasked, once so many steps are logged."""
    child = multiprocessing.get_context("fork").Process(
        target=tune_after_a_fork, args=arguments, kwargs={"out": out, **choices}
    )
    child.start()
    log, deadline = out.with_name(f"{out.name}.partial") / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= after):
        assert child.is_alive() and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.002)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL


# Twelve passes over the data, or six: the order in which they come counts too.
LONG = {"steps": 60, "learning_rate": 1e-2, "batch_size": 8}
# A reward that a random model's answers earn now and then: else there is nothing to learn, and nothing to compare.
DRAWN = GrpoRecipe(
    steps=30,
    learning_rate=1e-2,
    batch_size=7,
    num_generations=2,
    max_completion_length=4,
    rewards=("format=.*[a-m ].*",),
)
# Its teacher is another random model, made where the run is.
TAUGHT = DistilRecipe(**{**LONG, "steps": 30}, teacher="teacher", max_completion_length=4)


@pytest.mark.parametrize(
    ("recipe", "lora"),
    [
        (recipe_of("sft", **LONG), None),
        (recipe_of("sft", **LONG), Lora(rank=4)),
        (recipe_of("dpo", **LONG), None),
        (DRAWN, None),
        (TAUGHT, None),
    ],
    ids=["full", "lora", "dpo", "grpo", "distil"],
)
def test_a_killed_run_goes_on_and_ends_with_the_weights_of_an_unbroken_one(
    base: Path, tmp_path: Path, recipe: Recipe, lora: Lora | None
) -> None:
    rows = [{**row, "chosen": row["completion"], "rejected": " dog"} for row in tiny_tuning.sums()]
    sums = write_rows(tmp_path / "rows.jsonl", rows)
    choices = {"lora": lora, "save_every": 7}
    if recipe is TAUGHT:
        recipe = replace(TAUGHT, teacher=base_model(tmp_path / "teacher", seed=5))
    out = tmp_path / "killed"
    _killed(out, 20, base, [sums], recipe, **choices)
    partial = tmp_path / "killed.partial"
    assert not out.exists()
    assert any((folder / "whole").exists() for folder in (partial / "checkpoints").iterdir())
    # A checkpoint that was being written when the run was killed: there, but not whole.
    cut_short = partial / "checkpoints" / "checkpoint-59"
    cut_short.mkdir()
    (cut_short / "trainer_state.json").write_text("{")
    (partial / ".tmpA1b2C3").write_bytes(b"weights that were being written, as safetensors names them until then")
    resumed = tune(base, [sums], recipe, out=out, **choices).out
    unbroken = tune(base, [sums], recipe, out=tmp_path / "unbroken", lora=lora).out
    assert same(weights(resumed), weights(unbroken))
    for name in ("step", "loss", "learning_rate", "tokens", *(["reward"] if recipe is DRAWN else [])):
        assert [line[name] for line in log_of(resumed)] == [line[name] for line in log_of(unbroken)]
    assert len({line["loss"] for line in log_of(unbroken)}) > recipe.steps / 2, "something was learned from each"
    assert not partial.exists()
    assert {path.name for path in resumed.iterdir()} == {path.name for path in unbroken.iterdir()}


def test_a_loss_that_is_no_number_stops_the_run_in_words(base: Path, sums: Path, tmp_path: Path) -> None:
    spoiled = base_model(tmp_path / "spoiled")
    for file in spoiled.glob("*.safetensors"):
        from safetensors.torch import save_file

        tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"At step 1 the loss is nan. Lower learning_rate"):
        tune(spoiled, [sums], QUICK, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_and_python_do_the_same(base: Path, sums: Path, full: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ["--steps", "12", "--learning-rate", "3e-2", "--batch-size", "8"]
    done = cli("tune", base, "--data", sums, *flags, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert done.json()["outcome"]["steps"] == 12
    assert same(weights(tmp_path / "out"), weights(full))
    assert callable(tuneport.tune)


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--learning-rate", "-1"], 2, "--learning-rate -1.0"),
        (["--dpo-beta", "1"], 2, "--dpo-beta 1.0"),
        (["--lora", "dora=true"], 2, "--lora"),
        (["--data", "absent.jsonl"], 1, "absent.jsonl: there is no such file"),
        (["--mix", "sums=7000"], 2, "there are 40 rows"),
        (["--eval-every", "3"], 2, "--tasks"),
    ],
)
def test_wrong_usage_is_told_apart_from_things_that_fail(
    base: Path, sums: Path, tmp_path: Path, cli: Cli, flags: list[str], status: int, words: str
) -> None:
    done = cli("tune", base, "--data", sums, "--steps", "1", *flags, "--out", tmp_path / "out")
    assert done.status == status
    assert words in done.err
    assert "Traceback" not in done.err


def test_tensorboard_shows_the_log_where_it_is_asked_for(base: Path, sums: Path, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tune(base, [sums], QUICK, out=tmp_path / "out", report_to="tensorboard").out
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [line["loss"] for line in log_of(out)]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged, rel=1e-4)
    assert same(weights(out), weights(full))


def test_steps_and_scoring_on_the_way_are_shown(
    base: Path, sums: Path, tmp_path: Path, shown_progress: list[str]
) -> None:
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": "one plus", "answer": " two"}])
    recipe = SftRecipe(steps=2, batch_size=4)
    tune(base, [sums], recipe, out=tmp_path / "out", eval_every=2, tasks=(str(asked),), max_new_tokens=2)
    assert shown_progress[-1].startswith("tune 2 of 2 steps") and "loss" in "".join(shown_progress)
    assert any(line.startswith("tune 2 of 2") and "evaluate 0 of 1 tasks" in line for line in shown_progress)
