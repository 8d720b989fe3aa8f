"""A distillation from end to end: its loss against full distributions in numpy, what it learns, adapters, texts that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_tuning import base_model, log_of, same, weights, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuneport.errors import CheckpointError, UsageError
from tuneport.examples.digests import example_digest, read_digests
from tuneport.tuning.distillation import record_answers
from tuneport.tuning.recipes import DistilRecipe, Lora
from tuneport.tuning.run import tune


def recipe_for(teacher: Path, **choices: object) -> DistilRecipe:
    given = {"steps": 12, "learning_rate": 2e-2, "batch_size": 8, "max_completion_length": 8, **choices}
    return DistilRecipe(teacher=teacher, **given)  # type: ignore[arg-type]  # choices of several types


def slow_answers(teacher: Path, prompts: Path) -> list[list[int]]:
    """Prompt and greedy answer of each row, end included, as transformers generates them."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(teacher),
        AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32),
    )
    found = []
    for line in prompts.read_text().splitlines():
        ids = tokenizer(json.loads(line)["prompt"], return_tensors="pt").input_ids
        found.append((ids.shape[1], model.generate(ids, max_new_tokens=9, do_sample=False)[0].tolist()))
    return [[start, *ids] for start, ids in found]


def slow_kl(teacher: Path, student: Path, answers: list[list[int]]) -> float:
    """The mean KL over the tokens of all answers, from full softmaxes in numpy."""
    models = [AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (teacher, student)]
    nats: list[float] = []
    for start, *ids in answers:
        with torch.no_grad():
            logits = [model(torch.tensor([ids])).logits[0, start - 1 : -1].double().numpy() for model in models]
        theirs, own = (each - np.log(np.exp(each).sum(axis=1, keepdims=True)) for each in logits)
        nats += (np.exp(theirs) * (theirs - own)).sum(axis=1).tolist()
    return float(np.mean(nats))


@pytest.fixture(scope="module")
def distilled(base: Path, teacher: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All prompts in each of a few updates."""
    recipe = recipe_for(teacher, batch_size=10, steps=25, warmup_ratio=0.0)
    return tune(base, [prompts], recipe, out=tmp_path_factory.mktemp("run") / "distilled", dtype="float32").out


def test_the_loss_is_the_mean_kl_over_the_answers_tokens(
    base: Path, teacher: Path, prompts: Path, distilled: Path
) -> None:
    answers = slow_answers(teacher, prompts)
    assert {ids[-1] for ids in answers} == {AutoTokenizer.from_pretrained(base).eos_token_id}, "all of them end"
    assert log_of(distilled)[0]["loss"] == pytest.approx(slow_kl(teacher, base, answers), rel=1e-4)


def test_the_student_comes_near_to_the_teacher_and_says_what_it_says(
    teacher: Path, prompts: Path, distilled: Path
) -> None:
    answers = slow_answers(teacher, prompts)
    assert slow_kl(teacher, distilled, answers) < 0.1 * log_of(distilled)[0]["loss"]
    assert sum(one == other for one, other in zip(answers, slow_answers(distilled, prompts), strict=True)) >= 8


def test_record_card_and_digests_say_who_taught_what_and_no_path(teacher: Path, prompts: Path, distilled: Path) -> None:
    record = json.loads((distilled / "tune.json").read_text())
    assert record["plan"]["teacher"]["name"] == "teacher" and record["plan"]["teacher"]["digest"].startswith("files:")
    learned, log = record["outcome"]["distillation"], log_of(distilled)
    assert learned["first_kl"] == log[0]["loss"] and learned["last_kl"] < learned["first_kl"]
    assert (learned["answers"], learned["empty"], learned["left_out"], learned["as_text"]) == (10, 0, 0, 0)
    assert "the distribution of teacher" in (distilled / "README.md").read_text()
    for file in ("tune.json", "README.md"):
        assert str(teacher.parent) not in (distilled / file).read_text()
    asked = json.loads(prompts.read_text().splitlines()[0])["prompt"]
    assert example_digest(asked) in read_digests(distilled / "tune-hashes.txt")
    assert not [path.name for path in distilled.iterdir() if path.is_dir()]


def test_accumulated_batches_give_the_update_of_one_large_batch(
    base: Path, teacher: Path, prompts: Path, distilled: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(teacher, batch_size=10, steps=25, warmup_ratio=0.0, per_device_train_batch_size=5)
    out = tune(base, [prompts], recipe, out=tmp_path / "out", dtype="float32").out
    for one, other in zip(log_of(out)[:5], log_of(distilled), strict=False):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)


def test_an_adapter_learns_from_a_teacher_and_an_adapter_teaches(
    base: Path, adapter: Path, prompts: Path, tmp_path: Path
) -> None:
    taught = json.loads((adapter / "adapter_config.json").read_text())
    assert taught["base_model_name_or_path"] == "base"  # found beside the adapter's folder
    beside = tmp_path / "adapters"
    beside.mkdir()
    (beside / "base").symlink_to(base)
    (beside / "adapter").mkdir()
    for file in adapter.iterdir():
        (beside / "adapter" / file.name).write_bytes(file.read_bytes())
    out = tune(base, [prompts], recipe_for(beside / "adapter"), out=tmp_path / "out", lora=Lora(rank=4)).out
    log = log_of(out)
    assert (out / "adapter_model.safetensors").exists() and log[-1]["loss"] < log[0]["loss"]


def test_texts_that_are_kept_pull_the_model_to_its_start(
    base: Path, teacher: Path, prompts: Path, texts: Path, tmp_path: Path
) -> None:
    kept = {}
    for weight in (1e-6, 3.0):
        recipe = recipe_for(teacher, retain=(texts,), retain_weight=weight)
        done = tune(base, [prompts], recipe, out=tmp_path / str(weight))
        kept[weight] = done.record["outcome"]["distillation"]["last_retain_kl"]
        first = log_of(done.out)[0]
        assert first["retain_kl"] == pytest.approx(0, abs=1e-5)
        assert first["loss"] == pytest.approx(first["answer_kl"], rel=1e-4)
    assert kept[3.0] < 0.5 * kept[1e-6]
    assert example_digest("the quick brown fox 0") in read_digests(tmp_path / "3.0" / "tune-hashes.txt")


def test_texts_may_be_kept_as_another_model_has_them(
    base: Path, full: Path, teacher: Path, prompts: Path, texts: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(teacher, retain=(texts,), retain_from=base, retain_weight=3.0)
    done = tune(full, [prompts], recipe, out=tmp_path / "out")
    log = log_of(done.out)
    assert log[0]["retain_kl"] > 1e-3, "the start is not the model that is kept"
    assert log[-1]["retain_kl"] < log[0]["retain_kl"]
    assert done.record["plan"]["retain_from"]["name"] == "base"
    with pytest.raises(UsageError, match="needs"):
        recipe_for(teacher, retain_from=base)
    with pytest.raises(CheckpointError, match=r"nowhere"):
        tune(
            full, [prompts], recipe_for(teacher, retain=(texts,), retain_from=tmp_path / "nowhere"), out=tmp_path / "o"
        )


def test_messages_are_asked_through_each_models_own_template(base: Path, tmp_path: Path) -> None:
    shout = "{% for m in messages %}the {{ m['content'] }}: {% endfor %}"
    shouting = base_model(tmp_path / "teacher", seed=3, template=shout)
    student = base_model(tmp_path / "student", template=shout.replace("the", "a"))
    spoken = write_rows(
        tmp_path / "spoken.jsonl", [{"messages": [{"role": "user", "content": "fox"}], "answer": "dog"}]
    )
    done = tune(student, [spoken], recipe_for(shouting, steps=2), out=tmp_path / "out", end_token="<|end|>")
    assert done.record["plan"]["data"][0]["form"] == "asked-messages"
    assert any("`answer`" in warning for warning in done.warnings)
    assert not same(weights(student), weights(done.out))


def test_a_student_that_cuts_answers_otherwise_is_told_and_learns(prompts: Path, tmp_path: Path) -> None:
    talking, student = base_model(tmp_path / "talking", seed=5), base_model(tmp_path / "student")
    file = student / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"]["merges"] = document["model"]["merges"][:30]
    file.write_text(json.dumps(document))
    done = tune(student, [prompts], recipe_for(talking, steps=8), out=tmp_path / "out")
    learned, log = done.record["outcome"]["distillation"], log_of(done.out)
    assert 0 < learned["left_out"] + learned["as_text"] < learned["tokens"]
    assert any("are other tokens in the model's tokenizer" in warning for warning in done.warnings)
    assert log[-1]["loss"] < log[0]["loss"]


def test_of_a_large_vocabulary_the_likeliest_tokens_are_learned_with_the_rest_as_one(
    base: Path, teacher: Path, prompts: Path, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_answers, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(record_answers, "KEPT", 8)
    recipe = recipe_for(teacher, batch_size=10, steps=25, warmup_ratio=0.0)
    log, full = log_of(tune(base, [prompts], recipe, out=tmp_path / "out").out), log_of(distilled)
    assert 0.5 * full[0]["loss"] < log[0]["loss"] <= full[0]["loss"] + 1e-5
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]
