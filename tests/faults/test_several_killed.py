"""A run of several fine-tunings that was killed goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.killed_runs import KILLED, SHARDS


@pytest.mark.parametrize("at", [8])
def test_a_killed_run_of_two_pairs_is_resumed_to_the_same_bytes(drive: Drive, tmp_path: Path, at: int) -> None:
    made = tiny.trio(tmp_path)
    tiny.write_model(tmp_path / "tuned2", tiny.moved(made.tensors["base"], 9, by=0.03))
    argv = made.flags(
        tmp_path / "whole", "--tuned", str(tmp_path / "tuned2"), "--scale", "1", "--scale", "0.5", *SHARDS
    )
    assert drive(argv).status == 0
    argv = [part.replace("whole", "out") if part.endswith("whole") else part for part in argv]
    assert drive(argv, call="pwrite", at=at, do="kill").status == KILLED
    other = ["0.6" if part == "0.5" else part for part in argv]
    assert drive(other).status == 1, "other scales are another run"
    assert drive(argv).status == 0
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.read_weights(tmp_path / "whole"))
