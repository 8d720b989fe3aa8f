"""A model from the Hub: named by its id; nobody is asked for anything but its files, and nobody is told anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

from huggingface_hub import ModelCard
from support.command_results import Cli
from support.data_set_hub import DataSetHub
from support.loopback_hub import LoopbackHub
from support.pushing_hub import TOKEN, PushingHub
from support.tiny_tuning import write_rows


def test_a_hub_id_is_fetched_fine_tuned_and_named_and_nothing_else_goes_over_the_network(
    base: Path, chats: Path, forked_with_models: Cli, tmp_path: Path
) -> None:
    with LoopbackHub({"org/base": {"main": base}}) as hub:
        choices = ["--steps", "2", "--save-every", "1", "--lora", "rank=2", "--chat-template", "chatml"]
        done = forked_with_models(
            *("tune", "org/base", "--data", chats, *choices, "--out", tmp_path / "out", "--json"),
            environment=hub.environment(tmp_path / "hf"),
        )
        assert done.status == 0, done.err
        asked = {request.path for request in hub.requests}
    asked.discard("/api/agent-harnesses")  # a list of its own that the Hub's client keeps, once a day
    assert asked
    assert not [path for path in asked if "org/base" not in path], "only the model's own files are asked for"
    assert done.json()["outcome"]["steps"] == 2  # one object, and nothing of the libraries beside it
    assert done.err == ""
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert record["plan"]["model"]["name"] == "org/base"
    assert record["plan"]["model"]["revision"]
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "org/base"
    assert adapter["revision"] == record["plan"]["model"]["revision"]


def test_a_teacher_from_the_hub_is_named_with_its_revision(base: Path, forked_with_models: Cli, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "the fox"}, {"prompt": "a model"}])
    with LoopbackHub({"org/teacher": {"main": base}}) as hub:
        choices = ["--recipe", "distil", "--teacher", "org/teacher", "--steps", "1", "--max-completion-length", "4"]
        done = forked_with_models(
            *("tune", base, "--data", prompts, *choices, "--out", tmp_path / "out"),
            environment=hub.environment(tmp_path / "hf"),
        )
        assert done.status == 0, done.err
    teacher = json.loads((tmp_path / "out" / "tune.json").read_text())["plan"]["teacher"]
    assert teacher["name"] == "org/teacher" and teacher["revision"]


def test_a_fine_tuning_is_published_with_its_card_and_tells_nothing_of_the_machine(
    base: Path, chats: Path, forked_with_models: Cli, tmp_path: Path
) -> None:
    with PushingHub({"org/base": {"main": base}}, root=tmp_path / "hub") as hub:
        choices = ["--steps", "2", "--chat-template", "chatml", "--lora", "rank=2", "--out", tmp_path / "out"]
        done = forked_with_models(
            *("tune", "org/base", "--data", chats, *choices, "--push-to", "org/tuned", "--json"),
            environment=hub.environment(tmp_path / "hf", HF_TOKEN=TOKEN),
        )
        assert done.status == 0, done.err
        assert done.err == ""
        assert done.json()["published"]["repo"] == "org/tuned"
        pushed = hub.main("org/tuned")
    card = ModelCard.load(pushed / "README.md")
    assert card.data.base_model == ["org/base"]
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    revision = json.loads((pushed / "tune.json").read_text())["plan"]["model"]["revision"]
    assert f"tuneport transfer --base org/base@{revision} --tuned org/tuned" in card.text
    assert (pushed / "adapter_model.safetensors").exists()
    texts = {
        path.name: path.read_text() for path in pushed.iterdir() if path.suffix in (".md", ".json", ".jsonl", ".txt")
    }
    assert len(texts) >= 5
    for name, text in texts.items():
        assert TOKEN not in text and str(tmp_path) not in text and str(base.parent) not in text, name
        assert str(Path.home()) not in text and os.uname().nodename not in text, name


def test_a_share_of_a_data_set_is_fetched_chosen_and_named_by_its_commit(
    base: Path, forked_with_models: Cli, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    rows = [{"inputs": f"{n} + 1 =", "targets": f"{n + 1}", "language": "tr" if n % 2 else "en"} for n in range(40)]
    write_rows(tmp_path / "rows" / "train.jsonl", rows)
    data = "org/rows@main:train?language=tr&prompt:inputs&completion:targets"
    with DataSetHub({"org/rows": {"main": tmp_path / "rows"}}) as hub:
        choices = ["--mix", f"{data}=8", "--steps", "2", "--batch-size", "4", "--out", tmp_path / "out"]
        done = forked_with_models("tune", base, "--data", data, *choices, environment=hub.environment(tmp_path / "hf"))
        assert done.status == 0, done.err
        commit = hub.commit("org/rows", "main")
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    (told,), (origin,) = record["plan"]["data"], record["data"]
    assert (told["name"], told["revision"], told["rows"], told["of"]) == ("org/rows", commit, 8, 20)
    assert (told["form"], origin["name"]) == ("prompt-completion", data)


def test_data_of_a_data_set_that_is_not_there_is_refused_before_a_model_is_loaded(
    base: Path, forked_with_models: Cli, tmp_path: Path
) -> None:
    with LoopbackHub({}) as hub:
        asked = ("tune", base, "--data", "org/rows", "--out", tmp_path / "out")
        done = forked_with_models(*asked, environment=hub.environment(tmp_path / "hf"))
    assert done.status == 1
    assert "org/rows" in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("out*"))
