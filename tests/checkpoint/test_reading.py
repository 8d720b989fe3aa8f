"""Weights are read from the very files whose headers were read, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import reading
from tuneport.errors import CheckpointError


def test_a_file_changed_between_its_header_and_its_weights_is_noticed(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    found = open_checkpoint(place, "base")
    os.utime(place / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed after"), reading(found):
        pass


def test_a_file_changed_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    with reading(open_checkpoint(place, "base")) as reader:
        reader.check_unchanged()
        os.utime(place / "model.safetensors", ns=(1, 1))
        with pytest.raises(CheckpointError, match="changed while"):
            reader.check_unchanged()


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    place = tiny.write_model(tmp_path / "m", tiny.llama(1))
    found = open_checkpoint(place, "base")
    (place / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"), reading(found):
        pass
