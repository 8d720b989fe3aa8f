"""A folder becomes a checkpoint: what is there is read with bounds, what is not is said in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import reading
from tuneport.errors import CheckpointError


def test_names_shapes_dtypes_and_bytes_are_those_of_the_official_reader(tmp_path: Path) -> None:
    tensors = {
        **tiny.llama(1),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4, dtype=torch.float16),
        "flags": torch.tensor([True, False]),
        "ids": torch.arange(5),
    }
    tiny.write_model(tmp_path / "m", tensors, shards=3)
    found = open_checkpoint(tmp_path / "m", "base")
    assert sorted(found.tensors) == sorted(tensors)
    with reading(found) as reader:
        for name, tensor in tensors.items():
            stored = found.tensors[name]
            assert stored.shape == tuple(tensor.shape)
            buffer = bytearray(stored.nbytes)
            reader.read_into(stored, 0, memoryview(buffer))
            assert bytes(buffer) == tiny.bits(tensor)
    assert found.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert found.config["model_type"] == "llama"


@pytest.mark.parametrize("spec", ["nowhere/at/all", "./nothing", "/nothing", "~nosuchuser/x", "a\0b", "x" * 5000])
def test_a_place_that_is_no_model_is_said_in_words(cli: Cli, tmp_path: Path, spec: str) -> None:
    ran = cli("inspect", spec)
    assert ran.status == 1
    assert ran.err.startswith("tuneport: ") and "Traceback" not in ran.err


def test_an_empty_name_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.write_model(tmp_path / "m", tiny.llama(1)))
    with pytest.raises(CheckpointError):
        open_checkpoint("", "base")


def test_a_file_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    with pytest.raises(CheckpointError, match="pass the folder"):
        open_checkpoint(place / "model.safetensors", "base")


def test_an_unfinished_output_is_no_checkpoint(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "out.partial", tiny.llama(1))
    (place / "journal.jsonl").write_text("{}\n")
    with pytest.raises(CheckpointError, match="unfinished"):
        open_checkpoint(place, "base")


@pytest.mark.parametrize("left", ["plan.json", "tune.json", "adapt.json", "rungs"])
def test_what_tune_and_adapt_have_not_finished_is_no_checkpoint_even_with_weights_in_it(
    left: str, tmp_path: Path
) -> None:
    folder = tiny.write_model(tmp_path / "out.partial", tiny.llama(1))
    assert open_checkpoint(folder, "base").tensors, "the name alone proves nothing"
    (folder / left).mkdir()
    for place in (folder, Path(f"{folder}/../out.partial")):
        with pytest.raises(CheckpointError, match="unfinished"):
            open_checkpoint(place, "base")
    folder.rename(tmp_path / "out")
    assert open_checkpoint(tmp_path / "out", "base").tensors


@pytest.mark.parametrize(
    "content",
    ["", "[]", "nonsense", '{"vocab_size": ' + "9" * 6000 + "}", "[" * 100_000, '{"a":' * 100_000],
    ids=["empty", "list", "a JSON object", "6000 digits", "deep", "deep maps"],
)
def test_a_damaged_config_ends_in_words(tmp_path: Path, content: str) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    (place / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(place, "base")


def test_every_prefix_of_a_file_is_refused(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", {"a": torch.ones(4)})
    whole = (place / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        (place / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(place, "base")
