"""A model from the Hub: named by its id; nobody is asked for anything but its files, and nobody is told anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from data_set_hub import DataSetHub
from families.loopback_hub import LoopbackHub
from huggingface_hub import ModelCard
from pushing_hub import TOKEN, PushingHub

from tune.tiny_tuning import write_rows


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
    assert json.loads(done.stdout)["outcome"]["steps"] == 2  # one object, and nothing of the libraries beside it
    assert done.stderr == ""
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert record["plan"]["model"]["name"] == "org/base"
    assert record["plan"]["model"]["revision"]
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "org/base"
    assert adapter["revision"] == record["plan"]["model"]["revision"]


def test_a_fine_tuning_is_published_with_its_card_and_tells_nothing_of_the_machine(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    with PushingHub({"org/base": {"main": base}}, root=tmp_path / "hub") as hub:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "CI"}
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
        choices = ["--steps", "2", "--chat-template", "chatml", "--lora", "rank=2", "--out", str(tmp_path / "out")]
        command = ["tune", "org/base", "--data", str(chats), *choices, "--push-to", "org/tuned", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", *command],
            capture_output=True,
            text=True,
            env=kept | own,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert json.loads(done.stdout)["published"]["repo"] == "org/tuned"
        pushed = hub.main("org/tuned")
    card = ModelCard.load(pushed / "README.md")
    assert card.data.base_model == ["org/base"]
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    revision = json.loads((pushed / "tune.json").read_text())["plan"]["model"]["revision"]
    assert f"tuneport transfer --base org/base@{revision} --tuned this-folder" in card.text
    assert (pushed / "adapter_model.safetensors").exists()
    texts = {
        path.name: path.read_text() for path in pushed.iterdir() if path.suffix in (".md", ".json", ".jsonl", ".txt")
    }
    assert len(texts) >= 5
    for name, text in texts.items():
        assert TOKEN not in text and str(tmp_path) not in text and str(base.parent) not in text, name
        assert str(Path.home()) not in text and os.uname().nodename not in text, name


def test_a_share_of_a_data_set_is_fetched_chosen_and_named_by_its_commit(base: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rows = [{"inputs": f"{n} + 1 =", "targets": f"{n + 1}", "language": "tr" if n % 2 else "en"} for n in range(40)]
    write_rows(tmp_path / "rows" / "train.jsonl", rows)
    data = "org/rows@main:train?language=tr&prompt:inputs&completion:targets"
    with DataSetHub({"org/rows": {"main": tmp_path / "rows"}}) as hub:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        choices = ["--mix", f"{data}=8", "--steps", "2", "--batch-size", "4", "--out", str(tmp_path / "out")]
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", "tune", str(base), "--data", data, *choices],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        commit = hub.commit("org/rows", "main")
    (told,) = json.loads((tmp_path / "out" / "tune.json").read_text())["plan"]["data"]
    assert (told["name"], told["revision"], told["rows"], told["of"]) == (data, commit, 8, 20)
    assert (told["form"], told["ignored_fields"]) == ("prompt-completion", ["language"])


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
