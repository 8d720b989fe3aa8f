"""Models and adapters by their Hub ids, from a Hub on the loopback interface."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from support.command_results import Cli
from support.loopback_hub import LoopbackHub
from transformers import AutoModelForCausalLM


def test_an_adapter_is_scored_by_its_hub_id_on_the_revision_that_it_was_trained_on(
    models: Path, towns: Path, forked_with_models: Cli, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(models / "all", dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    named = {"base_model_name_or_path": "org/base", "revision": "good"}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    shutil.copytree(models / "none", tmp_path / "none")
    repositories = {
        "org/base": {"main": tmp_path / "none", "good": models / "all"},
        "org/adapter": {"main": tmp_path / "adapter"},
    }
    with LoopbackHub(repositories) as hub:
        asked = ["org/adapter", "--tasks", towns, "--max-new-tokens", "4", "--out", tmp_path / "o.json"]
        done = forked_with_models("evaluate", *asked, "--json", environment=hub.environment(tmp_path / "hf"))
    assert done.status == 0, done.err
    record = done.json()
    assert [model["model"] for model in record["models"]] == ["org/adapter"]
    assert record["models"][0]["tasks"]["towns"]["value"] == 1.0
