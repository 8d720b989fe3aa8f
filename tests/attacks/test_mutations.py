"""Thousands of damaged models, adapters, diff vectors, manifests and journals through whole commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from support import tiny_checkpoints as tiny
from support.attacked_commands import ATTACKS, fault, make_inputs
from support.broken_disks import Drive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, drive: Drive) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"), drive)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_damaged_ends_in_words_or_changes_nothing(
    name: str, inputs: Path, drive: Drive, tmp_path: Path
) -> None:
    whole = tiny.contents(inputs)
    for seed in range(min(settings().max_examples, 300) // len(ATTACKS)):
        assert fault(name, seed, inputs, drive, tmp_path) is None
    assert tiny.contents(inputs) == whole


def test_undamaged_every_command_comes_to_its_end(inputs: Path, drive: Drive, tmp_path: Path) -> None:
    for name, attack in ATTACKS.items():
        place = shutil.copytree(inputs, tmp_path / name.replace(" ", "-"))
        ran = drive(attack.argv(place, inputs))
        assert ran.status == 0, (name, ran)
    assert json.loads((tmp_path / "go-on" / "begun" / "tuneport.json").read_text())["operation"] == "transfer"
