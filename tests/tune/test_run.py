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
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import tuneport
from tune import tiny_tuning
from tune.tiny_tuning import END, PADDED_ROWS, base_model, log_of, sums, write_rows
from tuneport.errors import CheckpointError, DataError, OutputError, TrainingError, TuneportError, UsageError
from tuneport.tune.leakage import example_digest, read_digests
from tuneport.tune.recipes import DpoRecipe, GrpoRecipe, Lora, Recipe, Running, SftRecipe, recipe_of
from tuneport.tune.run import tune

QUICK = SftRecipe(steps=12, learning_rate=3e-2, batch_size=8)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def full(base: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parameters, fine-tuned."""
    return tune(base, [sums], QUICK, out=tmp_path_factory.mktemp("run") / "full").out


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


def test_new_tokens_take_padded_rows_first_and_the_matrix_grows_only_when_they_run_out(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    rows = weights(base)["model.embed_tokens.weight"].shape[0]
    many = [f"<|new{place}|>" for place in range(PADDED_ROWS)]
    header = json.dumps({"end_of_turn": "<|new0|>", "tokens": [*many, "<|more|>"]})
    body = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|new0|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    (tmp_path / "many.jinja").write_text("{#- tuneport: " + header + " -#}\n" + body)
    for name, template, expected in (("few", "chatml", rows), ("many", str(tmp_path / "many.jinja"), rows + 1)):
        out = tune(base, [chats], SftRecipe(steps=2), out=tmp_path / name, chat_template=template).out
        assert weights(out)["model.embed_tokens.weight"].shape[0] == expected
        assert weights(out)["lm_head.weight"].shape[0] == expected
        assert AutoConfig.from_pretrained(out).vocab_size == expected
        tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
        end = tokenizer.eos_token_id
        assert tokenizer.convert_ids_to_tokens(end) in ("<|im_end|>", "<|new0|>")
        assert model.generation_config.eos_token_id == [end, AutoTokenizer.from_pretrained(base).eos_token_id]
        assert model.config.eos_token_id == end
        assert "assistant" in tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
        )


def test_a_fine_tuning_with_new_tokens_is_carried_to_another_version_by_their_strings(
    base: Path, chats: Path, tmp_path: Path, cli: Cli
) -> None:
    tuned = tune(base, [chats], SftRecipe(steps=2, learning_rate=1e-3), out=tmp_path / "t", chat_template="chatml").out
    other = base_model(tmp_path / "other", seed=1)
    done = cli("transfer", "--base", base, "--tuned", tuned, "--onto", other, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")]
    assert ids == [
        AutoTokenizer.from_pretrained(tuned).convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>")
    ]
    rows, taught = weights(tmp_path / "out")["lm_head.weight"], weights(tuned)["lm_head.weight"]
    assert torch.equal(rows[ids], taught[ids])
    assert tokenizer.eos_token == "<|im_end|>"


def test_an_adapter_learns_the_rows_of_new_tokens(base: Path, chats: Path, tmp_path: Path) -> None:
    out = tune(
        base, [chats], SftRecipe(steps=4, learning_rate=1e-2), out=tmp_path / "a", chat_template="chatml", lora=Lora(4)
    ).out
    from peft import PeftModel

    rows = [name for name in weights(out) if "trainable_tokens" in name]
    assert len(rows) == 2, "of the embedding and of the head"
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = start.lm_head.weight.detach().clone()
    merged = PeftModel.from_pretrained(start, out).merge_and_unload().lm_head.weight
    changed = (merged != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [
        AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>")
    ]
    assert (out / "chat_template.jinja").exists()
    assert "<|im_end|>" in AutoTokenizer.from_pretrained(out).get_vocab()


def test_an_adapter_that_is_carried_over_stops_where_its_template_ends_an_answer(
    base: Path, chats: Path, tmp_path: Path, cli: Cli
) -> None:
    tuned = tune(
        base, [chats], SftRecipe(steps=2, learning_rate=1e-2), out=tmp_path / "a", chat_template="chatml", lora=Lora(2)
    ).out
    other = base_model(tmp_path / "other", seed=1)
    done = cli("transfer", "--base", base, "--tuned", tuned, "--onto", other, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    stops = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_ids_to_tokens(stops) == ["<|im_end|>", AutoTokenizer.from_pretrained(base).eos_token]


@pytest.mark.parametrize("tokens", [1, PADDED_ROWS + 2], ids=["in padded rows", "in rows of their own"])
def test_the_code_on_an_adapters_card_loads_what_was_trained(
    base: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    named = json.dumps({"end_of_turn": "<|new0|>", "tokens": [f"<|new{n}|>" for n in range(tokens)]})
    template = tmp_path / "chat.jinja"
    body = "{% for m in messages %}{{ m.role + m.content + '<|new0|>' }}{% endfor %}"
    ask = "{% if add_generation_prompt %}assistant{% endif %}"
    template.write_text(f"{{#- tuneport: {named} -#}}\n{body}{ask}")
    recipe = SftRecipe(steps=2, learning_rate=1e-2)
    out = tune(base, [chats], recipe, out=tmp_path / "this-folder", chat_template=str(template), lora=Lora(2)).out
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    assert loaded["model"].generation_config.eos_token_id[0] == loaded["tokenizer"].convert_tokens_to_ids("<|new0|>")
    tuneport.transfer("base", out, "base", tmp_path / "whole")
    ids = torch.tensor([loaded["tokenizer"]("the fox <|new0|>")["input_ids"]])
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    with torch.no_grad():
        found, wanted = loaded["model"](ids).logits.float(), whole(ids).logits.float()
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)


def test_an_adapter_of_a_tied_model_is_scored_as_the_model_that_it_makes(chats: Path, tmp_path: Path, cli: Cli) -> None:
    tied = base_model(tmp_path / "tied", tied=True, dtype=torch.float32)
    recipe = SftRecipe(steps=4, learning_rate=3e-2)
    adapter = tune(tied, [chats], recipe, out=tmp_path / "a", chat_template="chatml", lora=Lora(2)).out
    tuneport.transfer(tied, adapter, tied, tmp_path / "whole")
    rows = [{"messages": [{"role": "user", "content": f"a fox {n}"}], "answer": f"jumps {n}"} for n in range(4)]
    asked = write_rows(tmp_path / "asked.jsonl", rows)
    out = tmp_path / "o.json"
    ran = cli("evaluate", adapter, tmp_path / "whole", "--tasks", asked, "--loss", "--device", "cpu", "--out", out)
    assert ran.status == 0, ran.err
    one, other = (m["tasks"]["asked"]["value"] for m in json.loads(out.read_text())["models"])
    assert one == pytest.approx(other, rel=1e-4)


def test_preferences_do_not_teach_an_adapter_new_tokens(base: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}]
    answers = [[{"role": "assistant", "content": said}] for said in "bc"]
    data = write_rows(tmp_path / "pairs.jsonl", [{"prompt": talk, "chosen": answers[0], "rejected": answers[1]}])
    with pytest.raises(UsageError, match="Teach them by sft first"):
        tune(base, [data], DpoRecipe(), out=tmp_path / "out", chat_template="chatml", lora=Lora(4))


def test_the_loss_is_the_same_by_either_way_through_the_head(
    base: Path, sums: Path, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuneport.tune import trainers

    monkeypatch.setattr(trainers, "SMALL_LOGITS", 0)
    out = tune(base, [sums], QUICK, out=tmp_path / "out").out
    for name in ("loss", "tokens", "grad_norm"):
        assert [line[name] for line in log_of(out)] == pytest.approx([line[name] for line in log_of(full)], rel=1e-3)


def test_accumulated_batches_give_the_update_of_one_large_batch(
    base: Path, sums: Path, full: Path, tmp_path: Path
) -> None:
    recipe = SftRecipe(steps=12, learning_rate=3e-2, batch_size=8, device_batch_size=2)
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
    recipe = SftRecipe(steps=4, learning_rate=1e-6, precision="bfloat16", schedule="constant", warmup_ratio=0.0)
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
    recipe = SftRecipe(steps=4, learning_rate=1e-3, schedule=schedule, warmup_ratio=0.5)
    out = tune(base, [sums], recipe, out=tmp_path / "out").out
    assert [line["learning_rate"] for line in log_of(out)] == pytest.approx([1e-3 * rate for rate in rates])


def test_embeddings_norms_and_biases_are_not_decayed(base: Path, sums: Path, tmp_path: Path) -> None:
    from tuneport.tune.prepare import prepare
    from tuneport.tune.team import Team
    from tuneport.tune.trainers import build_trainer, load_model

    prepared = prepare(base, [sums], SftRecipe(steps=1, weight_decay=0.1))
    trainer = build_trainer(prepared, load_model(prepared), tmp_path, Team(), Running())
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    everything = {name for name, _ in trainer.model.named_parameters()}
    spared = {name for name in everything if "norm" in name or "embed" in name}
    assert len(spared) == 4
    assert decayed == everything - spared


def test_no_parameter_is_dropped_in_training(tmp_path: Path, sums: Path) -> None:
    from tuneport.tune.prepare import prepare
    from tuneport.tune.trainers import load_model

    base = base_model(tmp_path / "dropping", attention_dropout=0.5)
    model = load_model(prepare(base, [sums], SftRecipe(steps=1))).train()
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)
    out = tune(base, [sums], SftRecipe(steps=1), out=tmp_path / "out").out
    assert json.loads((out / "config.json").read_text())["attention_dropout"] == 0.5


def test_tokens_that_generation_stops_at_already_are_left_as_they_are(tmp_path: Path, chats: Path) -> None:
    base = base_model(tmp_path / "base")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((base / name).read_text())
        settings["eos_token_id"] = [settings["eos_token_id"], 7]
        (base / name).write_text(json.dumps(settings))
    out = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "out", chat_template="tulu").out
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text()) == json.loads((base / name).read_text())


def test_an_end_that_generation_does_not_stop_at_is_told(tmp_path: Path, chats: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|pad|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    base = base_model(tmp_path / "base", template=template)
    done = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "out")
    assert any("does not stop" in words and "--end-token '<|pad|>'" in words for words in done.warnings)
    mended = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "mended", end_token="<|pad|>")
    assert not mended.warnings
    ids = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(["<|pad|>", END])
    assert json.loads((mended.out / "generation_config.json").read_text())["eos_token_id"] == ids


@pytest.mark.parametrize(("tied", "dtype"), [(True, torch.bfloat16), (False, torch.float32), (False, torch.float16)])
def test_tied_weights_stay_tied_and_each_dtype_is_kept(
    tmp_path: Path, sums: Path, tied: bool, dtype: torch.dtype
) -> None:
    base = base_model(tmp_path / "base", tied=tied, dtype=dtype, pad=False)
    out = tune(base, [sums], SftRecipe(steps=2, learning_rate=1e-2), out=tmp_path / "out").out
    assert weights(out).keys() == weights(base).keys()
    assert {tensor.dtype for tensor in weights(out).values()} == {dtype}
    assert AutoTokenizer.from_pretrained(out).pad_token is None, "what pads in training is not the model's business"
    assert "pad_token_id" not in json.loads((out / "generation_config.json").read_text())


@pytest.mark.parametrize(("asked", "dtype"), [("float32", torch.float32), ("fp16", torch.float16)])
def test_weights_can_be_stored_in_another_dtype_than_the_starts(
    base: Path, sums: Path, full: Path, tmp_path: Path, cli: Cli, asked: str, dtype: torch.dtype
) -> None:
    words = ["--steps", "12", "--learning-rate", "3e-2", "--batch-size", "8", "--dtype", asked]
    assert cli("tune", base, "--data", sums, "--out", tmp_path / "out", *words).status == 0
    kept = weights(tmp_path / "out")
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    if dtype is torch.float32:  # float16 would round twice
        assert same({name: tensor.to(torch.bfloat16) for name, tensor in kept.items()}, weights(full)), "same training"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((base / "config.json").read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["plan"]["dtype"] == config["dtype"]


def test_a_dtype_that_weights_cannot_be_stored_in_is_told(base: Path, sums: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--dtype 'int8': choose bfloat16, float16 or float32"):
        tune(base, [sums], QUICK, out=tmp_path / "out", dtype="int8")
    with pytest.raises(UsageError, match=r"an adapter \(--lora\) is always stored in float32"):
        tune(base, [sums], QUICK, out=tmp_path / "out", dtype="float32", lora=Lora(rank=2))


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


def test_a_disk_that_is_too_small_is_told_before_training(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"the disk has 1,000 free"):
        tune(base, [sums], QUICK, out=tmp_path / "out")


def test_preferences_are_learned(base: Path, full: Path, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": " dog"} for row in sums()]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    recipe = DpoRecipe(steps=10, epochs=None, batch_size=8, learning_rate=1e-3, loss="sigmoid", beta=0.5)
    out = tune(full, [data], recipe, out=tmp_path / "out").out
    log = log_of(out)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "before the first step model and reference are one: log 2"
    assert log[-1]["loss"] < 0.5
    assert log[-1]["rewards/margins"] > log[1]["rewards/margins"]
    assert not same(weights(full), weights(out))


def test_a_verifiable_reward_is_raised(full: Path, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "answer": row["completion"].strip()} for row in sums(4)]
    data = write_rows(tmp_path / "prompts.jsonl", rows)
    recipe = GrpoRecipe(steps=30, batch_size=4, generations=16, answer_length=3, learning_rate=1e-2, kl=0.0)
    out = tune(full, [data], recipe, out=tmp_path / "out").out
    rewards = [line["reward"] for line in log_of(out)]
    first, last = sum(rewards[:5]) / 5, sum(rewards[-15:]) / 15
    assert first < 0.12
    assert last > 2 * first


def test_a_users_reward_counts_by_its_weight_and_may_look_at_any_field(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewards_of_a_test.py").write_text(
        "def level(prompts, completions, level, **_):\n    return [float(value) for value in level]\n"
        "def broken(completions, **_):\n    return completions[7000]\n"
        "def short(completions, **_):\n    return [1.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    data = write_rows(
        tmp_path / "prompts.jsonl", [{"prompt": "1 + 1 =", "level": 3}, {"prompt": "1 + 2 =", "level": 5}]
    )
    choices = {"steps": 1, "batch_size": 2, "generations": 2, "answer_length": 2, "kl": 0.0}
    recipe = GrpoRecipe(**choices, rewards=("0.5*rewards_of_a_test:level", "format=(?s).*"))
    out = tune(full, [data], recipe, out=tmp_path / "out").out
    assert log_of(out)[0]["reward"] == pytest.approx(0.5 * 4 + 1)
    for name, words in (("broken", "failed with IndexError"), ("short", r"gave 1 value\(s\) for 4 completions")):
        with pytest.raises(TrainingError, match=words):
            tune(full, [data], GrpoRecipe(**choices, rewards=(f"rewards_of_a_test:{name}",)), out=tmp_path / name)


def test_prompts_that_fill_no_update_and_tokens_that_the_reference_lacks_are_refused(
    full: Path, base: Path, tmp_path: Path
) -> None:
    drawn = {"steps": 1, "generations": 2, "answer_length": 4, "rewards": ("format=.*",)}
    few = write_rows(tmp_path / "few.jsonl", [{"prompt": f"{n} + 1 ="} for n in range(3)])
    with pytest.raises(DataError, match=r"3 prompts fit, and an update takes 4.*--batch-size of 3 or less"):
        tune(full, [few], GrpoRecipe(**drawn, batch_size=4), out=tmp_path / "out")
    spoken = write_rows(tmp_path / "spoken.jsonl", [{"prompt": [{"role": "user", "content": "1 + 1 ="}]}])
    with pytest.raises(UsageError, match=r"the reference .* has no rows for <\|im_start\|>.*--kl 0"):
        tune(base, [spoken], GrpoRecipe(**drawn, batch_size=1), out=tmp_path / "out", chat_template="chatml")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out(full: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "the " * 70}, {"prompt": "1 + 1 ="}])
    recipe = GrpoRecipe(
        steps=1, batch_size=1, generations=2, answer_length=100, learning_rate=1e-6, kl=0.1, rewards=("format=.*",)
    )
    done = tune(full, [data], recipe, out=tmp_path / "out")
    assert done.record["outcome"]["examples"]["without_answer"] == 1
    assert "1 example(s) are left out" in done.warnings[0]


def test_tensorboard_shows_the_log_where_it_is_asked_for(base: Path, sums: Path, full: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tune(base, [sums], QUICK, out=tmp_path / "out", running=Running(report_to="tensorboard")).out
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [line["loss"] for line in log_of(out)]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged, rel=1e-4)
    assert same(weights(out), weights(full))


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
