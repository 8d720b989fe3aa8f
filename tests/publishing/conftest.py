"""A Hub to push to, and models whose transfer is pushed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.push_shop import Shop
from support.pushing_hub import PushingHub


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    return tiny.trio(tmp_path_factory.mktemp("models"), shards=(1, 1, 1))


@pytest.fixture
def shop(made: tiny.Trio, forked: Cli, tmp_path: Path) -> Iterator[Shop]:
    with PushingHub(root=tmp_path / "hub") as hub:
        yield Shop(hub, made, tmp_path, forked)
