"""A checkpoint is told apart by what its headers say."""

from __future__ import annotations

import json
from pathlib import Path

from support import tiny_checkpoints as tiny

from tuneport.checkpoint.open_model import open_checkpoint


def test_the_identity_of_a_checkpoint_depends_on_headers_and_not_on_where_it_lies(tmp_path: Path) -> None:
    one = open_checkpoint(tiny.write_model(tmp_path / "x" / "m", tiny.llama(1)), "base").identity()
    same = open_checkpoint(tiny.write_model(tmp_path / "y" / "m", tiny.llama(1)), "base").identity()
    other = open_checkpoint(tiny.write_model(tmp_path / "z" / "m", tiny.llama(1, rows=25)), "base").identity()
    assert one == same
    assert one["digest"] != other["digest"]
    assert str(tmp_path) not in json.dumps(one)
