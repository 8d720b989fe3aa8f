"""Links in folders of others lead to nothing outside them: not into an output, a diff vector, a push or a fine-tuning."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.errors import PublishError, TuneportError
from tuneport.publishing.push import publish

SECRET = "hf_SECRET"
SMALL = ("LICENSE", "NOTICE.txt", "chat_template.jinja", "modeling_x.py", "merges.txt", "generation_config.json")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path / "secret"


def holds_it(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("role", ["tuned", "target"])
def test_a_link_out_of_a_models_folder_stops_the_run_and_is_named(
    cli: Cli, tmp_path: Path, secret: Path, role: str, name: str
) -> None:
    made = tiny.trio(tmp_path)
    (getattr(made, role) / name).symlink_to(os.path.relpath(secret, getattr(made, role)))
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1 and name in ran.err and "link leads out of the folder" in ran.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_links_within_a_folder_and_to_another_disks_weights_are_followed(cli: Cli, tmp_path: Path) -> None:
    made, disk = tiny.trio(tmp_path), tmp_path / "disk"
    disk.mkdir()
    for path in made.paths:
        for weights in path.glob("*.safetensors"):
            shutil.move(weights, disk / f"{path.name}-{weights.name}")
            weights.symlink_to(disk / f"{path.name}-{weights.name}")
    (made.target / "LICENSE").write_text("free")
    (made.target / "COPYING").symlink_to("LICENSE")
    assert cli(*made.flags(tmp_path / "out")).status == 0
    assert (tmp_path / "out" / "COPYING").read_text() == "free" and not (tmp_path / "out" / "COPYING").is_symlink()


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer_config.json", "LICENSE"])
def test_a_link_out_of_an_adapters_folder_stops_the_run(cli: Cli, tmp_path: Path, secret: Path, name: str) -> None:
    made = tiny.trio(tmp_path)
    adapter = tiny.write_lora(tmp_path / "lora", made.tensors["base"], 2)
    (adapter / name).unlink(missing_ok=True)
    (adapter / name).symlink_to(secret)
    ran = cli("transfer", "--base", made.base, "--tuned", adapter, "--onto", made.target, "--out", tmp_path / "out")
    assert ran.status == 1 and name in ran.err and SECRET not in ran.err


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json"])
def test_an_index_or_a_config_that_is_a_link_out_is_not_read(cli: Cli, tmp_path: Path, secret: Path, name: str) -> None:
    made = tiny.trio(tmp_path)
    (made.target / name).unlink(missing_ok=True)
    (made.target / name).symlink_to(secret)
    for ran in (cli(*made.flags(tmp_path / "out")), cli("inspect", made.target)):
        assert ran.status == 1 and name in ran.err and SECRET not in ran.err


def test_a_link_out_of_a_diff_vector_stops_the_run(cli: Cli, tmp_path: Path, secret: Path) -> None:
    made, diff = tiny.trio(tmp_path), tmp_path / "diff"
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", diff).status == 0
    (diff / "tuned" / "LICENSE").symlink_to(secret)
    ran = cli("apply", diff, "--onto", made.target, "--out", tmp_path / "out")
    assert ran.status == 1 and "LICENSE" in ran.err and not (tmp_path / "out").exists()
    assert "tuned/LICENSE is in the folder, but not in the manifest" in cli("verify", diff).err
    shutil.move(diff / "tuned", tmp_path / "elsewhere")
    (diff / "tuned").symlink_to(tmp_path / "elsewhere")
    assert cli("apply", diff, "--onto", made.target, "--out", tmp_path / "out").status == 1


def test_verify_sees_links_pipes_and_what_lies_behind_them(cli: Cli, tmp_path: Path, secret: Path) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    assert cli(*made.flags(out)).status == 0
    (out / "modeling_x.py").symlink_to(secret)
    (out / "nowhere").symlink_to("not here")
    (out / "folder").symlink_to(tmp_path)
    os.mkfifo(out / "pipe")
    ran = cli("verify", out)
    assert ran.status == 1
    for name in ("modeling_x.py", "nowhere", "folder", "pipe"):
        assert f"{name} is in the folder, but not in the manifest" in ran.err
    config = (out / "config.json").read_bytes()
    (out / "config.json").unlink()
    (tmp_path / "config.json").write_bytes(config)
    (out / "config.json").symlink_to(tmp_path / "config.json")
    assert "config.json" in cli("verify", out).err


@pytest.mark.parametrize("name", ["LICENSE", "tensorboard/x", "config.json", "model.safetensors", "README.md"])
def test_nothing_from_elsewhere_is_published(
    cli: Cli, tmp_path: Path, secret: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    monkeypatch.setattr("tuneport.publishing.commit.look_at", lambda *given: pytest.fail("it got as far as the Hub"))
    assert cli(*made.flags(out)).status == 0
    tuned = shutil.copytree(made.tuned, tmp_path / "a-tuning")
    plan = {"format": "tuneport.tune/1", "model": {"name": "base"}, "recipe": {"recipe": "sft"}}
    (tuned / "tune.json").write_text(json.dumps({"plan": plan, "outcome": {"steps": 4}}))
    for folder in (out, tuned):
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            shutil.move(place, tmp_path / "kept")
            place.symlink_to(tmp_path / "kept")
        else:
            place.symlink_to(secret)
        with pytest.raises(PublishError, match="which are not published"):
            publish(folder, "me/it")
        place.unlink()
        os.mkfifo(place)
        with pytest.raises(TuneportError):
            publish(folder, "me/it")


def test_what_a_manifest_lists_is_not_read_through_a_link(cli: Cli, tmp_path: Path, secret: Path) -> None:
    made, out = tiny.trio(tmp_path), tmp_path / "out"
    assert cli(*made.flags(out)).status == 0
    (out / "tuneport.json").rename(tmp_path / "manifest.json")
    (out / "tuneport.json").symlink_to(tmp_path / "manifest.json")
    ran = cli("verify", out)
    assert ran.status == 1 and "tuneport.json" in ran.err and holds_it(out) == []
