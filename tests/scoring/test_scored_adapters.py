"""Adapters are scored on the models that they adapt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support import tiny_scored
from transformers import AutoModelForCausalLM

import tuneport
from scoring.test_run import SHORT
from tuneport.errors import CheckpointError, RenderingError
from tuneport.scoring.models import find_models


def test_an_adapter_is_scored_on_the_model_it_adapts(models: Path, towns: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(models / "all", dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted.save_pretrained(tmp_path / "still")  # a new LoRA changes nothing
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=5.0)
    adapted.save_pretrained(tmp_path / "wild")
    record = tuneport.evaluate([tmp_path / "still", tmp_path / "wild"], [towns], tmp_path / "o.json", **SHORT)
    still, wild = (found["tasks"]["towns"]["value"] for found in record["models"])
    assert still == 1.0 > wild
    assert str(tmp_path) not in (tmp_path / "o.json").read_text()


def test_an_adapter_that_cannot_be_read_ends_in_words(models: Path, towns: Path, tmp_path: Path) -> None:
    for name, content in (("adapter_model.bin", b"pickled"), ("adapter_model.safetensors", b"cut short")):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(models / "all")}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="is a pickle; load the adapter with peft and save it again"):
        tuneport.evaluate([tmp_path / "adapter_model.bin"], [towns], tmp_path / "o.json", **SHORT)
    with pytest.raises(CheckpointError, match="It is truncated or not a safetensors file"):
        tuneport.evaluate([tmp_path / "adapter_model.safetensors"], [towns], tmp_path / "p.json", **SHORT)


def test_a_folder_with_a_model_and_an_adapter_is_neither(models: Path, towns: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "all", tmp_path / "both")
    (tmp_path / "both" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(CheckpointError, match=r"contains a model \(model\.safetensors\) and an adapter"):
        tuneport.evaluate([tmp_path / "both"], [towns], tmp_path / "o.json", **SHORT)


def test_an_adapters_base_lies_here_or_beside_it_or_is_told(models: Path, towns: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    for name, base in (("here", str(models / "all")), ("beside/it", "all"), ("lost", "gone"), ("upon", "here")):
        (tmp_path / name).mkdir()
        settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": base}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings))
        (tmp_path / name / "adapter_model.safetensors").touch()
    (tmp_path / "beside/all").symlink_to(models / "all")
    (one, other) = find_models([tmp_path / "here", tmp_path / "beside/it"])
    assert Path(one.source).resolve() == Path(other.source).resolve() == models / "all"
    with pytest.raises(CheckpointError, match=r"model lost: its base model was not found\. model gone: no such"):
        find_models([tmp_path / "lost"])
    with pytest.raises(CheckpointError, match="which is an adapter itself"):
        find_models([tmp_path / "upon"])


def test_a_template_comes_from_an_adapter_too_and_one_that_is_none_is_told(models: Path, tmp_path: Path) -> None:
    bare = tiny_scored.copy_model(models / "all", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    talk = [{"messages": [{"role": "user", "content": tiny_scored.question("anna")}], "answer": "in paris"}]
    asked = tiny_scored.write_rows(tmp_path / "talk.jsonl", talk)
    adapter = tmp_path / "adapter"
    tiny_scored.make_tokenizer().save_pretrained(adapter)
    settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(bare)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").touch()
    record = tuneport.evaluate([bare], [asked], tmp_path / "o.json", chat_template=adapter, **SHORT)
    assert record["models"][0]["tasks"]["talk"]["value"] == 1.0
    (tmp_path / "broken.jinja").write_text("{% for message")
    with pytest.raises(RenderingError, match="chat_template cannot be rendered: line 1 of the template"):
        tuneport.evaluate([bare], [asked], tmp_path / "p.json", chat_template=tmp_path / "broken.jinja", **SHORT)
