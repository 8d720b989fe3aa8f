"""What a run keeps for each tensor are columns of numbers, so that a hundred thousand tensors fit into the default bound."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.engine.budget import MIB, budget
from tuneport.engine.choices import Choices
from tuneport.engine.leaf_results import LeafResults
from tuneport.engine.plan import Plan
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.errors import OutputError

MOST_BYTES = 900  # three inputs, names, pairs, account, places of the output and results; they take 600


def write(folder: Path, number: int) -> Path:
    """A checkpoint of so many matrices of sixteen bytes."""
    folder.mkdir(parents=True)
    names = [f"model.layers.{i // 300}.mlp.experts.{i % 300}.down_proj.weight" for i in range(number)]
    entries = {
        name: {"dtype": "BF16", "shape": [4, 2], "data_offsets": [16 * i, 16 * i + 16]} for i, name in enumerate(names)
    }
    header = json.dumps(entries).encode()
    data = bytes(16 * number)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 24}))
    return folder


def planned(place: Path, number: int) -> Plan:
    roles = ("base", "tuned", "target")
    base, tuned, target = (open_checkpoint(write(place / str(number) / role, number), role) for role in roles)
    return plan_transfer(base, tuned, target, Choices())


def test_a_plan_and_its_results_take_less_than_a_kilobyte_for_each_tensor(tmp_path: Path) -> None:
    planned(tmp_path, 10)  # what is loaded and kept once
    held = []
    for number in (500, 2500):
        tracemalloc.start()
        plan = planned(tmp_path, number)
        results = LeafResults(plan.tasks, plan.slots)
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(results) == len(plan.account) == number
    assert (held[1] - held[0]) / 2000 < MOST_BYTES


def test_more_leaves_than_fit_are_refused_with_the_minimum() -> None:
    few = budget(4096 * MIB, 1)
    with pytest.raises(OutputError, match=r"needs at least \d+MiB"):
        budget(few.estimate, 1, leaves=10**6)
