"""A fine-tuning from end to end: what lies in the folder, and that a killed run ends where an unbroken one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ran import Cli
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tuneport
from tune import tiny_tuning
from tune.quick import QUICK
from tune.tiny_tuning import END, base_model, log_of, same, sums, weights, write_rows
from tuneport.errors import CheckpointError, OutputError, TrainingError, TuneportError, UsageError
from tuneport.tune.leakage import example_digest, read_digests
from tuneport.tune.recipes import DpoRecipe, GrpoRecipe, Lora, Recipe, Running, SftRecipe, recipe_of
from tuneport.tune.run import tune


@pytest.fixture(scope="module")
def adapter(base: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter."""
    return tune(base, [sums], QUICK, out=tmp_path_factory.mktemp("run") / "lora", lora=Lora(rank=4)).out


def test_the_output_is_a_checkpoint_in_the_starts_dtype_with_the_starts_own_manners(base: Path, full: Path) -> None:
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
    assert plan["recipe"]["sequence_length"] == 128
    assert plan["data"][0]["name"] == "sums.jsonl"
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
        assert card.data.to_dict() == {"library_name": library, "tags": tags}  # the model is a folder, no Hub id
        assert "trained for 12 steps" in card.text
        assert "| sums.jsonl | prompt-completion | 40 | 40 |" in card.text
        assert "| learning_rate | 0.03 |" in card.text
        assert "tuneport transfer --base base --tuned this-folder --onto NEW-VERSION" in card.text
        assert str(base.parent.parent) not in card.text
    assert "| lora rank | 4 |" in (adapter / "README.md").read_text()


def test_the_same_command_again_says_that_it_is_done_and_another_is_refused(base: Path, sums: Path, full: Path) -> None:
    before = (full / "tune.json").stat().st_mtime_ns
    assert tune(base, [sums], QUICK, out=full).already_done
    with pytest.raises(OutputError, match=r"another plan; what differs:(\n.*)*recipe\.steps \(then 12, now 13\)"):
        tune(base, [sums], SftRecipe(steps=13), out=full)
    assert (full / "tune.json").stat().st_mtime_ns == before


def test_overwrite_replaces_another_plans_output_and_nothing_that_is_read(
    base: Path, sums: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "tuned"
    flags = ["tune", base, "--data", sums, "--out", out, "--batch-size", "2"]
    assert cli(*flags, "--steps", "1").status == 0
    assert cli(*flags, "--steps", "2").status == 1
    ran = cli(*flags, "--steps", "2", "--overwrite")
    assert (ran.status, json.loads((out / "tune.json").read_text())["outcome"]["steps"]) == (0, 2), ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
    own = out / "mine.jsonl"
    shutil.copyfile(sums, own)
    ran = cli("tune", base, "--data", own, "--out", out, "--steps", "3", "--overwrite")
    assert ran.status == 1 and "mine.jsonl, which is read" in ran.err
    assert own.exists()


def test_two_runs_of_one_plan_give_the_same_bits(base: Path, sums: Path, full: Path, tmp_path: Path) -> None:
    again = tune(base, [sums], QUICK, out=tmp_path / "again").out
    assert same(weights(full), weights(again))
    assert [line["loss"] for line in log_of(again)] == [line["loss"] for line in log_of(full)]


def _tune_after_a_fork(*arguments: Any, **choices: Any) -> None:
    """In a forked child torch's pool of threads is made anew when first asked for, which several threads must not do at once.

    A model is loaded by several; one of them then met "Invalid thread pool!" (seen once in some ten runs).
    """
    torch.set_num_threads(1)
    tune(*arguments, **choices)


def _killed(out: Path, after: int, *arguments: Any, **choices: Any) -> None:
    """Run `tune` in a child process and kill it, unasked, once so many steps are logged."""
    child = multiprocessing.get_context("fork").Process(
        target=_tune_after_a_fork, args=arguments, kwargs={"out": out, **choices}
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
    steps=30, learning_rate=1e-2, batch_size=7, generations=2, answer_length=4, rewards=("format=.*[a-m ].*",)
)


@pytest.mark.parametrize(
    ("recipe", "lora"),
    [
        (recipe_of("sft", **LONG), None),
        (recipe_of("sft", **LONG), Lora(rank=4)),
        (recipe_of("dpo", **LONG), None),
        (DRAWN, None),
    ],
    ids=["full", "lora", "dpo", "grpo"],
)
def test_a_killed_run_goes_on_and_ends_with_the_weights_of_an_unbroken_one(
    base: Path, tmp_path: Path, recipe: Recipe, lora: Lora | None
) -> None:
    rows = [{**row, "chosen": row["completion"], "rejected": " dog"} for row in tiny_tuning.sums()]
    sums = write_rows(tmp_path / "rows.jsonl", rows)
    choices = {"lora": lora, "running": Running(save_every=7)}
    out = tmp_path / "killed"
    _killed(out, 20, base, [sums], recipe, **choices)
    partial = tmp_path / "killed.partial"
    assert not out.exists()
    assert any((folder / "whole").exists() for folder in (partial / "checkpoints").iterdir())
    # A checkpoint that was being written when the run was killed: there, but not whole.
    cut_short = partial / "checkpoints" / "checkpoint-59"
    cut_short.mkdir()
    (cut_short / "trainer_state.json").write_text("{")
    resumed = tune(base, [sums], recipe, out=out, **choices).out
    unbroken = tune(base, [sums], recipe, out=tmp_path / "unbroken", lora=lora).out
    assert same(weights(resumed), weights(unbroken))
    for name in ("step", "loss", "learning_rate", "tokens", *(["reward"] if recipe is DRAWN else [])):
        assert [line[name] for line in log_of(resumed)] == [line[name] for line in log_of(unbroken)]
    assert len({line["loss"] for line in log_of(unbroken)}) > recipe.steps / 2, "something was learned from each"
    assert not partial.exists()


def test_a_loss_that_is_no_number_stops_the_run_in_words(base: Path, sums: Path, tmp_path: Path) -> None:
    spoiled = base_model(tmp_path / "spoiled")
    for file in spoiled.glob("*.safetensors"):
        from safetensors.torch import save_file

        tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"At step 1 the loss is nan. Lower --learning-rate"):
        tune(spoiled, [sums], QUICK, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ({"model": "absent"}, TuneportError, "absent"),
        ({"recipe": SftRecipe(steps=1, sequence_length=129)}, UsageError, "above the context of base, which is 128"),
        ({"recipe": DpoRecipe()}, TuneportError, "dpo needs `prompt` and `chosen` and `rejected`"),
        ({"recipe": GrpoRecipe()}, TuneportError, "no text in `answer`"),
        ({"recipe": GrpoRecipe(answer_length=200)}, TuneportError, "leaves no room"),
        ({"recipe": SftRecipe(steps=1, batch_size=8, device_batch_size=3)}, UsageError, "does not divide"),
        ({"running": Running(report_to="trackio")}, UsageError, "pip install trackio"),
        ({"lora": Lora(rank=2, targets=("no_such_module",))}, TuneportError, "no_such_module"),
        ({"lora": Lora(rank=2, targets=("input_layernorm",))}, TrainingError, "is not supported"),
        ({"lora": Lora(rank=2, targets=("q_proj", "lm_head"))}, TrainingError, "Remove `'lm_head'`"),
        ({"out": "nowhere/out"}, OutputError, "does not exist"),
        ({"out": "."}, OutputError, "give another"),
    ],
)
def test_what_cannot_be_done_is_told_in_words_before_anything_is_made(
    base: Path, tmp_path: Path, choices: dict[str, Any], error: type[TuneportError], words: str
) -> None:
    data = write_rows(tmp_path / "data.jsonl", sums())
    if isinstance(choices.get("recipe"), GrpoRecipe) and choices["recipe"].answer_length == 200:
        data = write_rows(tmp_path / "data.jsonl", [{"prompt": "a", "answer": "b"}])
    given = {"model": base, "data": [data], "recipe": QUICK, "out": tmp_path / "out", **choices}
    if "out" in choices:
        given["out"] = base if choices["out"] == "." else tmp_path / choices["out"]
    with pytest.raises(error) as caught:
        tune(given.pop("model"), given.pop("data"), given.pop("recipe"), **given)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"], "another choice may take the place"


def test_a_model_that_needs_code_of_its_own_is_refused_without_running_or_asking(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(base, foreign)
    config = json.loads((foreign / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (foreign / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (foreign / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(TuneportError, match="foreign"):
        tune(foreign, [sums], QUICK, out=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_model_without_tokenizer_files_is_refused_in_words(base: Path, sums: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"bare: transformers cannot read its tokenizer \(files: none\)"):
        tune(tmp_path / "bare", [sums], QUICK, out=tmp_path / "out")


def test_a_disk_that_is_too_small_is_told_before_training(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"the disk has 1,000 free"):
        tune(base, [sums], QUICK, out=tmp_path / "out")


def test_evaluation_on_the_way_writes_a_curve_and_changes_no_weight(
    base: Path, sums: Path, full: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tuneport.evaluate")
    rows = [{"prompt": row["prompt"], "answer": row["completion"].strip()} for row in tiny_tuning.sums(8)]
    test = write_rows(tmp_path / "test.jsonl", rows)
    out = tune(base, [sums], QUICK, out=tmp_path / "out", running=Running(eval_every=5, tasks=(str(test),))).out
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [5, 10, 12]
    assert all(point["tasks"]["test"]["n"] == 8 for point in curve)
    assert same(weights(out), weights(full))


def test_what_a_curve_is_read_on_is_noted_as_selection_and_told_where_it_is_trained_on(
    base: Path, sums: Path, tmp_path: Path, cli: Cli
) -> None:
    rows = [{"prompt": f"{n} + 1 =", "answer": "9"} for n in (5, 20, 30)]  # the first stands in the training data
    (tmp_path / "curve").mkdir()
    curve = write_rows(tmp_path / "curve" / "held-out.jsonl", rows)
    running = Running(eval_every=2, tasks=(str(curve),), max_new_tokens=4)
    done = tune(base, [sums], SftRecipe(steps=2), out=tmp_path / "out", running=running)
    (warning,) = (warning for warning in done.warnings if "curve" in warning)
    assert "1 of 3 examples of held-out (held-out.jsonl)" in warning and "training data (1)" in warning
    assert done.record["selection"] == [{"task": "held-out", "data": "held-out.jsonl", "examples": 3}]
    selected = read_digests(done.out / "tune-hashes.txt", selection=True)
    assert {example_digest(row["prompt"]) for row in rows} <= selected
    assert example_digest("20 + 1 =") not in read_digests(done.out / "tune-hashes.txt")

    asked = ["--trained-on", done.out, "--max-new-tokens", "4", "--device", "cpu", "--out", tmp_path / "scores.json"]
    refused = cli("evaluate", done.out, "--tasks", curve, *asked)
    assert refused.status == 1 and "3 of 3 examples of held-out were used for selection" in refused.err
    assert cli("evaluate", done.out, "--tasks", curve, *asked, "--allow-selection").status == 0
    others = write_rows(tmp_path / "test.jsonl", [{"prompt": "40 + 1 =", "answer": "41"}])
    fresh = cli("evaluate", done.out, "--tasks", others, *asked, "--overwrite")
    assert fresh.status == 0 and "selection" not in fresh.err, fresh.err


def test_faults_of_a_curves_examples_are_told_before_anything_is_trained(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    wrong = write_rows(tmp_path / "test.jsonl", [{"prompt": "1 + 1 ="}])
    with pytest.raises(UsageError, match=r"test\.jsonl:1"):
        tune(base, [sums], QUICK, out=tmp_path / "out", running=Running(eval_every=5, tasks=(str(wrong),)))
    assert not list(tmp_path.glob("out*"))


def _too_large(queue: Any, *arguments: Any, **choices: Any) -> None:
    """Fine-tune where no file may grow beyond 20 KB, and say what came of it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        _tune_after_a_fork(*arguments, **choices)
    except Exception as error:
        queue.put((type(error).__name__, str(error)))
    else:
        queue.put(("nothing", ""))


@pytest.mark.parametrize("save_every", [3, 500], ids=["checkpoint", "model"])
def test_a_file_that_cannot_be_written_is_told_in_words_and_the_run_goes_on_later(
    base: Path, sums: Path, full: Path, tmp_path: Path, save_every: int
) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    out, running = tmp_path / "out", Running(save_every=save_every)
    child = context.Process(
        target=_too_large, args=(queue, base, [sums], QUICK), kwargs={"out": out, "running": running}
    )
    child.start()
    kind, words = queue.get()
    child.join()
    assert kind == "OutputError", words
    assert "it goes on from the last whole checkpoint" in words
    assert not out.exists()
    assert same(weights(tune(base, [sums], QUICK, out=out, running=running).out), weights(full))


def test_the_dry_run_says_what_would_happen_and_does_nothing(base: Path, sums: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("tune", base, "--data", sums, "--steps", "20", "--out", tmp_path / "out", "--dry-run", "--json")
    told = done.json()
    assert done.status == 0
    assert (told["steps"], told["epochs"], told["examples"]["examples"]) == (20, 4.0, 40)
    assert told["tokens"] == 4 * told["examples"]["tokens"]
    one, four = told["memory_per_device"]["1"], told["memory_per_device"]["4"]
    assert one["gradients"] == 4 * told["parameters"]
    assert one["optimizer"] == 8 * told["parameters"]
    assert four["total"] < one["total"]
    assert told["start"] is None
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_knows_a_transferred_start(base: Path, full: Path, sums: Path, tmp_path: Path, cli: Cli) -> None:
    other = base_model(tmp_path / "other", seed=1)
    assert cli("transfer", "--base", base, "--tuned", full, "--onto", other, "--out", tmp_path / "moved").status == 0
    told = cli("tune", tmp_path / "moved", "--data", sums, "--out", tmp_path / "out", "--dry-run")
    assert "already fine-tuned by transfer (target + (tuned − base)" in told.out.replace("\n", " ")


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
        (["--beta", "1"], 2, "--recipe sft has no --beta"),
        (["--lora", "dora=true"], 2, "--lora"),
        (["--data", "absent.jsonl"], 1, "absent.jsonl: no such file"),
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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer.json", '{"version": 1}', "broken: transformers cannot read its tokenizer"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}', "hidden_size"),
    ],
)
def test_a_model_whose_files_are_damaged_is_refused_in_words(
    base: Path, sums: Path, tmp_path: Path, name: str, content: str, told: str
) -> None:
    shutil.copytree(base, tmp_path / "broken")
    (tmp_path / "broken" / name).write_text(content)
    with pytest.raises(CheckpointError, match=told):
        tune(tmp_path / "broken", [sums], QUICK, out=tmp_path / "out")


def test_an_adapter_is_no_start_and_the_way_on_is_told(base: Path, adapter: Path, sums: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is an adapter.*--base base --tuned lora --onto base"):
        tune(adapter, [sums], QUICK, out=tmp_path / "out")


def test_tensorboard_shows_the_log_where_it_is_asked_for(base: Path, sums: Path, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tune(base, [sums], QUICK, out=tmp_path / "out", running=Running(report_to="tensorboard")).out
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [line["loss"] for line in log_of(out)]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged, rel=1e-4)
    assert same(weights(out), weights(full))


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ((), "the examples are `messages`, and the model has no chat template"),
        (("no-such-task",), "the harness has no task 'no-such-task'"),
        (("gsm8k",), "The task gsm8k: Its data is not in the cache"),
    ],
)
def test_a_curve_that_cannot_be_read_is_told_before_anything_is_trained(
    base: Path, sums: Path, tmp_path: Path, tasks: tuple[str, ...], told: str
) -> None:
    talk = write_rows(tmp_path / "talk.jsonl", [{"messages": [{"role": "user", "content": "a"}], "answer": "b"}])
    with pytest.raises(TuneportError, match=told):
        tune(base, [sums], QUICK, out=tmp_path / "out", running=Running(eval_every=5, tasks=tasks or (str(talk),)))
    assert not list(tmp_path.glob("out*"))
