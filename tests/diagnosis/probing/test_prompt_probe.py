"""A probe says of target + Δ in memory what `evaluate` says of the folder that `transfer` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import torch
from support import tiny_scored
from support.command_results import Cli
from support.probed_models import Asked
from support.tiny_lines import renumber
from support.tiny_models import edit_json

import tuneport
from tuneport.diagnosis.pair_comparison import Ranking
from tuneport.errors import CheckpointError, DataError, UsageError

SHORT: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def probe(asked: Asked) -> dict[str, Any]:
    return dict(tuneport.compare(*asked.models, probe=asked.towns, retain=asked.texts, **SHORT)["probe"])


def test_figures_are_those_of_evaluate_on_the_folder_that_transfer_writes(
    asked: Asked, probe: dict[str, Any], tmp_path: Path
) -> None:
    out = tuneport.transfer(*asked.models, tmp_path / "out").out
    folders = [asked.tuned, asked.target, out]
    roles = ("source", "target", "carried")
    scores = tuneport.evaluate(folders, asked.towns, tmp_path / "scores.json", dtype="float32", **SHORT)
    lines = [json.loads(line) for line in (tmp_path / "scores.examples.jsonl").read_text().splitlines()]
    said = [[line["said"] for line in lines if line["model"] == model["model"]] for model in scores["models"]]
    for role, model in zip(roles, scores["models"], strict=True):
        assert probe["answers"]["accuracy"][role]["value"] == model["tasks"]["towns"]["value"]
    assert probe["answers"]["gain"]["value"] == 0.5
    for role, other in (("target", said[1]), ("carried", said[2])):
        alike = sum(one == another for one, another in zip(said[0], other, strict=True)) / len(other)
        assert probe["prompts"]["alike"][role]["value"] == alike
    rows = [{**row, "answer": words} for row, words in zip(tiny_scored.rows(), said[0], strict=True)]
    answers = tiny_scored.write_rows(tmp_path / "answers.jsonl", rows)
    losses = tuneport.evaluate(folders, answers, dtype="float32", loss=True, device="cpu")
    for role, model in zip(roles, losses["models"], strict=True):
        assert probe["prompts"]["loss"][role]["value"] == pytest.approx(model["tasks"]["towns"]["value"], rel=1e-5)
    kept = tuneport.evaluate(folders[1:], asked.texts, dtype="float32", device="cpu")
    for role, model in zip(roles[1:], kept["models"], strict=True):
        assert probe["retain"][role]["value"] == pytest.approx(model["tasks"]["texts"]["value"], rel=1e-5)
    compared = kept["comparisons"][0]
    assert probe["retain"]["rise"]["value"] == pytest.approx(compared["difference"], rel=1e-4)
    assert probe["retain"]["rise"]["interval"] == pytest.approx(compared["interval"], rel=0.05)


def test_kl_is_that_of_whole_distributions(asked: Asked, probe: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked.tuned)
    one, other = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (asked.tuned, asked.target)
    )
    found = []
    for row in tiny_scored.rows():
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([prompt + tokenizer(row["answer"], add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            p, q = (model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for model in (one, other))
        found.append((p.exp() * (p - q)).sum(-1))
    told = probe["prompts"]["kl"]["target"]
    assert told["value"] == pytest.approx(float(torch.cat(found).mean()), rel=1e-4)
    assert (told["tokens"], told["prompts"]) == (24, 12)


def test_section_3_2s_condition_is_a_sentence_with_figures(probe: dict[str, Any]) -> None:
    answers = probe["answers"]
    assert answers["source_over_target"]["value"] == 0.5
    assert answers["condition"].startswith(
        "The old tuned model is still better than the new base: 100.0% against 50.0%"
    )


def test_prompts_without_answers_are_asked_and_nothing_is_written(asked: Asked, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for each in asked.models for path in each.iterdir()}
    found = tuneport.compare(*asked.models, probe=asked.prompts, out=tmp_path / "found.json", **SHORT)
    assert found["probe"]["answers"] is None
    assert found["probe"]["retain"] is None
    assert found["probe"]["prompts"]["n"] == 12
    assert json.loads((tmp_path / "found.json").read_text())["probe"]["prompts"] == found["probe"]["prompts"]
    assert before == {path: path.stat().st_mtime_ns for each in asked.models for path in each.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_tokens_of_a_renumbered_vocabulary_are_paired_by_their_strings(
    asked: Asked, probe: dict[str, Any], tmp_path: Path
) -> None:
    target = renumber(asked.target, tmp_path / "renumbered", 3)
    found = tuneport.compare(asked.base, asked.tuned, target, probe=asked.towns, retain=asked.texts, **SHORT)["probe"]
    for role in ("target", "carried"):
        assert found["prompts"]["kl"][role]["tokens"] == 24
        assert found["prompts"]["kl"][role]["value"] == pytest.approx(probe["prompts"]["kl"][role]["value"], rel=0.02)
        assert found["prompts"]["loss"][role]["value"] == pytest.approx(
            probe["prompts"]["loss"][role]["value"], rel=0.02
        )


def test_a_target_without_a_template_speaks_the_one_that_comes_along(asked: Asked, tmp_path: Path) -> None:
    base, target = (Path(shutil.copytree(each, tmp_path / each.name)) for each in (asked.base, asked.target))
    for folder in (base, target):
        (folder / "chat_template.jinja").unlink()
    rows = [{"messages": [{"role": "user", "content": tiny_scored.question(name)}]} for name in tiny_scored.NAMES]
    prompts = tiny_scored.write_rows(tmp_path / "chat.jsonl", rows)
    found = tuneport.compare(base, asked.tuned, target, probe=prompts, **SHORT)["probe"]["prompts"]
    assert found["alike"]["carried"]["value"] == 1.0
    assert found["loss"]["carried"]["value"] < found["loss"]["target"]["value"]


def test_several_targets_are_probed_in_rank_order(asked: Asked, shown_progress: list[str]) -> None:
    found = tuneport.compare(asked.base, asked.tuned, [asked.target, asked.base], probe=asked.prompts, **SHORT)
    assert isinstance(found, Ranking)
    assert [each["inputs"][-1]["name"] for each in found] == ["half", "target"]
    assert found[0]["probe"]["prompts"]["alike"]["carried"]["value"] == 1.0
    assert any(line.startswith("probe 5 of 5 models") for line in shown_progress)


def test_an_adapter_is_asked_as_the_model_that_it_makes(asked: Asked, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(asked.base), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(asked.base / name, tmp_path / "merged")
    one, other = (
        tuneport.compare(asked.base, tmp_path / name, asked.target, probe=asked.prompts, **SHORT)["probe"]["prompts"]
        for name in ("adapter", "merged")
    )
    assert one["loss"]["source"]["value"] == pytest.approx(other["loss"]["source"]["value"], rel=1e-4)
    assert one["loss"]["carried"]["value"] == pytest.approx(other["loss"]["carried"]["value"], rel=0.02)


# ---- what stands against it


def test_a_pair_that_a_transfer_refuses_is_compared_and_not_probed(asked: Asked, tmp_path: Path) -> None:
    tuned = Path(shutil.copytree(asked.tuned, tmp_path / "other"))
    edit_json(tuned / "config.json", {"rms_norm_eps": 0.5})
    found = tuneport.compare(asked.base, tuned, asked.target, probe=asked.prompts, **SHORT)
    assert found["probe"] is None
    assert found["verdict"]["word"] == "unlikely"


def test_prompts_that_fill_the_context_are_told_by_line(asked: Asked, tmp_path: Path) -> None:
    rows = [{"prompt": "where"}, {"prompt": "where " * 60}]
    prompts = tiny_scored.write_rows(tmp_path / "long.jsonl", rows)
    with pytest.raises(DataError, match=r"long\.jsonl: line 2: the prompt has 60 tokens"):
        tuneport.compare(*asked.models, probe=prompts, **SHORT)


def test_a_file_without_prompts_says_what_a_prompt_needs(asked: Asked) -> None:
    with pytest.raises(DataError, match="a prompt needs `prompt`, or `messages`"):
        tuneport.compare(*asked.models, probe=asked.texts, **SHORT)


def test_a_model_that_transformers_cannot_load_is_named(asked: Asked, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(each, tmp_path / each.name)) for each in asked.models]
    for folder in folders:
        edit_json(folder / "config.json", {"model_type": "nothing-known", "architectures": ["NothingKnown"]})
    with pytest.raises(CheckpointError, match="model tuned"):
        tuneport.compare(*folders, probe=asked.prompts, **SHORT)


def test_without_the_extra_the_line_that_installs_it_is_told_first(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneport.scoring.models.missing", lambda *names: list(names))
    with pytest.raises(UsageError, match=r"tuneport\[models\]"):
        tuneport.compare("none", "none", "none", probe=asked.prompts)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"onto": "c", "diffs": "d", "probe": "p.jsonl"}, "probe"),
        ({"base": "a", "tuned": "b", "onto": "c", "match": "x"}, "match"),
        ({"base": "a", "tuned": "b", "onto": "c", "device": "cpu"}, "device"),
        ({"base": "a", "tuned": "b", "onto": "c", "retain": "t.jsonl", "max_new_tokens": 3}, "max_new_tokens"),
        ({"base": "a", "tuned": "b", "onto": "c", "retain": "t.jsonl", "device": "gpu"}, "device"),
    ],
)
def test_options_that_need_prompts_are_named(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as raised:
        tuneport.compare(**given)
    assert [fault.option for fault in raised.value.faults] == [option]


def test_the_command_shows_a_row_for_each_measure_and_the_condition(asked: Asked, cli: Cli) -> None:
    base, tuned, target = map(str, asked.models)
    models = ["--base", base, "--tuned", tuned, "--onto", target]
    flags = ["--probe", str(asked.towns), "--retain", str(asked.texts), "--device", "cpu", "--max-new-tokens", "4"]
    ran = cli("compare", *models, *flags)
    assert ran.status == 0
    for words in (
        "loss of the tuned model's answers",
        "KL from the tuned model",
        "loss of the texts to keep",
        "is still better",
    ):
        assert words in ran.out


def test_a_stored_diff_vector_can_be_asked_what_the_target_keeps(
    asked: Asked, probe: dict[str, Any], tmp_path: Path
) -> None:
    tuneport.diff(asked.base, asked.tuned, tmp_path / "diff")
    found = tuneport.compare(onto=asked.target, diffs=tmp_path / "diff", retain=asked.texts, device="cpu")["probe"]
    assert found["prompts"] is None
    assert found["retain"] == probe["retain"]
