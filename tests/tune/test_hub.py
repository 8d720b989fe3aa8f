"""A model from the Hub: named by its id; nobody is asked for anything but its files, and nobody is told anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from families.loopback_hub import LoopbackHub


def test_a_hub_id_is_fetched_fine_tuned_and_named_and_nothing_else_goes_over_the_network(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    with LoopbackHub({"org/base": {"main": base}}) as hub:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and "proxy" not in name.lower() and name != "CI"
        }
        env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        choices = ["--steps", "2", "--save-every", "1", "--lora", "rank=2", "--chat-template", "chatml"]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tuneport", "tune", "org/base", "--data", str(chats), *choices),
                *("--out", str(tmp_path / "out"), "--json"),
            ],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        asked = {request.path for request in hub.requests}
    asked.discard("/api/agent-harnesses")  # a list of its own that the Hub's client keeps, once a day
    assert asked
    assert not [path for path in asked if "org/base" not in path], "only the model's own files are asked for"
    assert json.loads(done.stdout)["outcome"]["steps"] == 2
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert record["plan"]["model"]["name"] == "org/base"
    assert record["plan"]["model"]["revision"]
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "org/base"
    assert adapter["revision"] == record["plan"]["model"]["revision"]


def test_data_of_a_data_set_that_is_not_there_is_refused_before_a_model_is_loaded(base: Path, tmp_path: Path) -> None:
    with LoopbackHub({}) as hub:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", "tune", str(base), "--data", "org/rows", "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert "org/rows" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))
