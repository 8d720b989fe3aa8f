"""Legacy pytorch_model*.bin files read as the same checkpoint, and what is more than weights is refused, not run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import reading
from tuneport.errors import CheckpointError


def as_bin(folder: Path, tensors: tiny.Tensors, shards: int = 1) -> Path:
    """The folder with its weights as pytorch_model*.bin."""
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    names, placed = sorted(tensors), {}
    for number in range(shards):
        file, mine = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin", names[number::shards]
        torch.save({name: tensors[name] for name in mine}, folder / file)
        placed.update(dict.fromkeys(mine, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_a_transfer_from_bin_files_gives_the_bytes_of_one_from_safetensors(
    cli: Cli, tmp_path: Path, shards: int
) -> None:
    extra = {"flags": torch.tensor([True, False]), "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 2)}
    base = {**tiny.llama(1), **extra}
    made = tiny.trio(tmp_path, base=base)
    for place, tensors in zip(made.paths, made.tensors.values(), strict=True):
        as_bin(place, tensors, shards)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 0, ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    assert not list((tmp_path / "out").glob("*.bin"))


def test_any_range_of_bytes_can_be_read(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(12, dtype=torch.float32).reshape(3, 4).T}  # not contiguous in the file
    place = as_bin(tiny.write_model(tmp_path / "m", {"a": torch.ones(1)}), tensors)
    found, whole = open_checkpoint(place, "base"), tiny.bits(tensors["a"])
    with reading(found) as reader:
        for start in range(0, 48, 5):
            for end in range(start, 49, 7):
                buffer = bytearray(end - start)
                reader.read_into(found.tensors["a"], start, memoryview(buffer))
                assert bytes(buffer) == whole[start:end]


class Trap:
    """What a malicious pickle does when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    mark, place = tmp_path / "ran", tmp_path / "m"
    place.mkdir()
    if how == "torch":
        torch.save({"a": Trap(mark)}, place / "pytorch_model.bin")
    else:
        (place / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap(mark)}))
    with pytest.raises(CheckpointError, match="plain weights"):
        open_checkpoint(place, "base")
    assert not mark.exists()


@pytest.mark.parametrize(
    "state",
    [{"model": {"a": torch.ones(1)}}, [torch.ones(1)], {1: torch.ones(1)}, {"a": torch.ones(1), 2: torch.ones(1)}],
    ids=["nested", "list", "numbered", "mixed names"],
)
def test_a_state_that_is_no_plain_dict_of_tensors_is_refused(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="state dict"):
        open_checkpoint(tmp_path, "base")


def test_a_truncated_file_ends_in_words(tmp_path: Path) -> None:
    torch.save(tiny.llama(1), tmp_path / "pytorch_model.bin")
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path, "base")
