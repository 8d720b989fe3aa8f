"""What is carried over while something goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive


@pytest.fixture
def small(tmp_path: Path) -> tiny.Trio:
    """Two shards of three small tensors each in the output, inputs in different shards."""
    (tmp_path / "in").mkdir()
    (tmp_path / "at").mkdir()
    return tiny.trio(tmp_path / "in", shards=(1, 2, 1))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    """One tensor of three leaves of many pieces, and small ones around it."""
    base = {
        **tiny.llama(1),
        "model.layers.0.mlp.down_proj.weight": tiny.llama(7, rows=700_000)["model.embed_tokens.weight"],
    }
    return tiny.trio(tmp_path_factory.mktemp("large"), base=base)


@pytest.fixture(scope="module")
def unbroken(
    drive: Drive, large: tiny.Trio, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, int]]:
    """An unbroken run of the large ones, and how many calls it makes."""
    place = tmp_path_factory.mktemp("unbroken")
    counts = place / "counts.json"
    ran = drive(large.flags(place / "out", "--workers", "1"), under=str(place), counts=str(counts))
    assert ran.status == 0, ran.err
    return tiny.outcome(place / "out"), json.loads(counts.read_text())
