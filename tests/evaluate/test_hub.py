"""Models and adapters by their Hub ids, from a Hub on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from families.loopback_hub import LoopbackHub
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def test_an_adapter_is_scored_by_its_hub_id_on_the_revision_that_it_was_trained_on(
    models: Path, towns: Path, tmp_path: Path
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
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "CI"}
        env = {name: value for name, value in kept.items() if "proxy" not in name.lower()}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        asked = ["org/adapter", "--tasks", str(towns), "--max-new-tokens", "4", "--out", str(tmp_path / "o.json")]
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", "evaluate", *asked, "--json"],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [model["model"] for model in record["models"]] == ["org/adapter"]
    assert record["models"][0]["tasks"]["towns"]["value"] == 1.0
