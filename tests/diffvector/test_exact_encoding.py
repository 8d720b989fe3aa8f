"""Diff vectors stored as chunks: small, the same bytes as a transfer, the same files however they came about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny

import tuneport
from tuneport.checkpoint.encoded import encoded_tensors
from tuneport.diffvector.vector import open_diff
from tuneport.engine import budget
from tuneport.errors import TuneportError
from tuneport.output.encoded_folder import EncodedFolder

WIDE = 700  # rows of 1,000: more than two chunks


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Llama with a matrix of several chunks, a tensor that was not changed, and −0.0 where there was 0.0."""
    base = tiny.llama(1)
    drawn = torch.Generator().manual_seed(0)
    base["model.layers.0.mlp.big.weight"] = torch.randn(WIDE, 1000, generator=drawn).bfloat16()
    base["model.layers.0.input_layernorm.weight"][0] = 0.0
    tuned = tiny.moved(base, 2)
    tuned["model.norm.weight"] = base["model.norm.weight"].clone()
    tuned["model.layers.0.input_layernorm.weight"][0] = -0.0
    return tiny.trio(tmp_path_factory.mktemp("trio"), base=base, tuned=tuned)


@pytest.fixture(scope="module")
def vector(trio: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vector") / "diff"
    tuneport.diff(*trio.paths[:2], out)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("tuneport.json", "README.md")
    }


def test_apply_writes_the_bytes_of_transfer(trio: Any, vector: Path, tmp_path: Path) -> None:
    tuneport.transfer(*trio.paths, tmp_path / "out")
    tuneport.apply(vector, trio.paths[2], tmp_path / "applied")
    assert files(tmp_path / "out") == files(tmp_path / "applied")


def test_the_manifest_and_the_card_of_both_encodings_are_of_the_same_numbers(
    trio: Any, vector: Path, tmp_path: Path
) -> None:
    tuneport.diff(*trio.paths[:2], tmp_path / "plain", encoding="float32")
    one, other = (json.loads((place / "tuneport.json").read_text()) for place in (vector, tmp_path / "plain"))
    assert one["encoding"] == "exact" and "encoding" not in other
    assert one["tensors"] == other["tensors"] and one["diff"] == other["diff"]
    size, plain = (sum(map(len, files(place).values())) for place in (vector, tmp_path / "plain"))
    assert size < 0.4 * plain


@pytest.mark.parametrize(("workers", "piece"), [(1, 2**18), (3, 2**18), (2, 5_000)])
def test_files_are_the_same_for_any_number_of_workers_and_any_piece(
    trio: Any, vector: Path, tmp_path: Path, workers: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "PIECES", (piece,))
    tuneport.diff(*trio.paths[:2], tmp_path / "again", workers=workers)
    assert files(tmp_path / "again") == files(vector)


def test_shards_are_decoded_like_one_file(trio: Any, vector: Path, tmp_path: Path) -> None:
    tuneport.diff(*trio.paths[:2], tmp_path / "sharded", shard_size="1MB")
    assert len(list((tmp_path / "sharded").glob("diff-*.safetensors"))) > 1
    tuneport.apply(vector, trio.paths[2], tmp_path / "one")
    tuneport.apply(tmp_path / "sharded", trio.paths[2], tmp_path / "other")
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_an_unchanged_tensor_takes_nearly_nothing(vector: Path) -> None:
    stored = open_diff(vector).stored
    assert stored.encoded is not None
    norm = stored.encoded.stored["model.norm.weight"]
    assert norm.nbytes == encoded_tensors.ENTRY.itemsize  # a chunk of no bytes


def test_inspect_and_verify_know_it(trio: Any, vector: Path) -> None:
    told = tuneport.inspect(vector)
    assert told["encoding"] == "exact" and 0 < told["bits_per_parameter"] < 16
    assert tuneport.verify(vector).kind == "integrity only"
    assert tuneport.verify(vector, *trio.paths[:2], full=True).kind == "full"


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_flipped_bit_is_refused_by_the_tensors_name(trio: Any, vector: Path, tmp_path: Path, place: float) -> None:
    shutil.copytree(vector, tmp_path / "diff")
    file = tmp_path / "diff" / "diff.safetensors"
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header))] ^= 4
    file.write_bytes(content)
    with pytest.raises(TuneportError, match=r"model\.layers|lm_head|embed"):
        tuneport.apply(tmp_path / "diff", trio.paths[2], tmp_path / "out")
    with pytest.raises(TuneportError):
        tuneport.verify(tmp_path / "diff")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.update({"lm_head.weight": torch.zeros(3, dtype=torch.uint8)}),
        lambda tensors: tensors.update({"lm_head.weight": torch.zeros(24, 8)}),
        lambda tensors: tensors["lm_head.weight"][-12:].fill_(255),
    ],
    ids=["shorter than its table", "not bytes", "lengths that lead out of it"],
)
def test_tables_that_do_not_fit_are_refused(
    trio: Any, vector: Path, tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    shutil.copytree(vector, tmp_path / "diff")
    tensors = load_file(vector / "diff.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "diff" / "diff.safetensors", {"format": "pt"})
    with pytest.raises(TuneportError, match="lm_head"):
        tuneport.apply(tmp_path / "diff", trio.paths[2], tmp_path / "out")


def test_a_killed_run_goes_on_and_ends_in_the_same_files(
    trio: Any, vector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, count = EncodedFolder._put, 0

    def fails_after_some(self: EncodedFolder, *given: Any) -> None:
        nonlocal count
        count += 1
        if count == 6:
            raise OSError(28, "No space left on device")
        put(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(EncodedFolder, "_put", fails_after_some)
        with pytest.raises((TuneportError, OSError)):
            tuneport.diff(*trio.paths[:2], tmp_path / "diff", workers=1)
    again: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(EncodedFolder, "_put", lambda self, *given: (again.append(1), put(self, *given))[1])
        tuneport.diff(*trio.paths[:2], tmp_path / "diff", workers=1)
    assert files(tmp_path / "diff") == files(vector)
    assert 0 < len(again) < 9
    assert {path.name for path in (tmp_path / "diff").iterdir()} == {path.name for path in vector.iterdir()}


def test_the_same_call_again_says_already_done_and_a_cut_file_is_noticed(
    trio: Any, vector: Path, tmp_path: Path
) -> None:
    shutil.copytree(vector, tmp_path / "diff", copy_function=shutil.copy2)
    assert tuneport.diff(*trio.paths[:2], tmp_path / "diff").already_done
    file = tmp_path / "diff" / "diff.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TuneportError, match="missing or has another size"):
        tuneport.diff(*trio.paths[:2], tmp_path / "diff")


def test_numbers_of_float32_and_float16_parents_come_back(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.float16):
        made = tiny.trio(tmp_path / str(dtype), base=tiny.llama(1, dtype))
        tuneport.diff(*made.paths[:2], tmp_path / f"{dtype}-diff")
        tuneport.transfer(*made.paths, tmp_path / f"{dtype}-out")
        tuneport.apply(tmp_path / f"{dtype}-diff", made.paths[2], tmp_path / f"{dtype}-applied")
        assert files(tmp_path / f"{dtype}-out") == files(tmp_path / f"{dtype}-applied")


def test_base_and_diff_restore_the_tuned_model(trio: Any, vector: Path, tmp_path: Path) -> None:
    tuneport.apply(vector, trio.paths[0], tmp_path / "restored")
    restored, tuned = load_file(tmp_path / "restored" / "model.safetensors"), trio.tensors["tuned"]
    for name, tensor in tuned.items():
        np.testing.assert_array_equal(restored[name].float().numpy(), tensor.float().numpy())
