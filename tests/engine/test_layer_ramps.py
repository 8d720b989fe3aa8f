"""Ramps over layers, from each way of giving them to the bytes of the output and its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.written_manifests import by_name, manifest

import tuneport
from tuneport.errors import UsageError, VerificationError

LAYERS = 5
RAMP = r"layers\.=0.2..1.0"


def deep(seed: int, dtype: torch.dtype = torch.bfloat16) -> tiny.Tensors:
    """A model of five layers, each with experts."""
    made = torch.Generator().manual_seed(seed)
    tensors = dict(tiny.llama(seed, dtype))
    for layer in range(1, LAYERS):
        for name in list(tiny.llama(seed, dtype)):
            if ".layers.0." in name:
                shape = tensors[name].shape
                tensors[name.replace(".0.", f".{layer}.")] = torch.randn(shape, generator=made).to(dtype)
    for layer in range(LAYERS):
        for expert in range(2):
            name = f"model.layers.{layer}.mlp.experts.{expert}.w1.weight"
            tensors[name] = torch.randn((8, 8), generator=made).to(dtype)
    return tensors


def scale_by_hand(name: str, first: float = 0.2, last: float = 1.0, other: float = 1.0) -> float:
    if "layers." not in name:
        return other
    layer = int(name.split("layers.")[1].split(".")[0])
    return [first, first + (last - first) * 0.25, first + (last - first) * 0.5, first + (last - first) * 0.75, last][
        layer
    ]


def wanted(made: tiny.Trio, **ends: float) -> tiny.Tensors:
    parts = made.tensors
    return {
        name: tiny.formula(parts["base"][name], parts["tuned"][name], value, scale_by_hand(name, **ends))
        for name, value in parts["target"].items()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_ramp_on_the_command_line(cli: Cli, tmp_path: Path, dtype: torch.dtype) -> None:
    made = tiny.trio(tmp_path, base=deep(1, dtype), settings=tiny.config(num_hidden_layers=LAYERS))
    assert (ran := cli(*made.flags(tmp_path / "out", "--rule", RAMP))).status == 0, ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted(made))
    scales = {name: entry["scale"] for name, entry in by_name(tmp_path / "out").items()}
    assert scales == {name: scale_by_hand(name) for name in scales}
    (told,) = [entry for entry in manifest(tmp_path / "out")["decisions"] if entry["subject"] == "scale.model.layers"]
    assert told["choice"] == "0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1"
    parents = ["--base", made.base, "--tuned", made.tuned, "--onto", made.target]
    assert cli("verify", tmp_path / "out", *parents, "--full").status == 0


@pytest.mark.parametrize(
    "rules",
    [{r"layers\.": "0.2..1.0"}, {r"layers\.": (0.2, 1.0)}, [(r"layers\.", [0.2, 1.0])], RAMP, [RAMP]],
    ids=str,
)
def test_a_ramp_in_python(tmp_path: Path, rules: Any) -> None:
    made = tiny.trio(tmp_path, base=deep(1))
    tuneport.transfer(*made.paths, tmp_path / "out", rules=rules)
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), wanted(made))


def test_diff_and_apply_take_the_same_ramp(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=deep(1))
    assert cli("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "d").status == 0
    ran = cli("apply", f"{tmp_path / 'd'}=3", "--onto", made.target, "--out", tmp_path / "o", "--rule", RAMP)
    assert ran.status == 0, ran.err
    tiny.assert_same(tiny.read_weights(tmp_path / "o"), wanted(made, other=3.0))
    assert cli("verify", tmp_path / "o", "--diff", tmp_path / "d", "--onto", made.target, "--full").status == 0


def test_the_dry_run_shows_the_scale_of_every_layer(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=deep(1))
    ran = cli(*made.flags(tmp_path / "out", "--rule", "layers=1..-1", "--dry-run"))
    assert ran.status == 0
    assert "scale.model.layers: 0: 1, 1: 0.5, 2: 0, 3: -0.5, 4: -1 (--rule layers=1..-1)" in ran.out
    assert "1..-1 where /layers/" in ran.out
    told = cli(*made.flags(tmp_path / "out", "--rule", "layers=1..-1", "--dry-run", "--json")).json()
    assert any(entry["subject"] == "scale.model.layers" for entry in told["decisions"])


@pytest.mark.parametrize("value", ["0.2..", "..1", "0.2..x", "0..inf", "nan..1", "0.2..0.4..1"])
def test_a_ramp_that_is_none_is_a_fault_of_the_rule(tmp_path: Path, value: str) -> None:
    made = tiny.trio(tmp_path)
    with pytest.raises(UsageError) as caught:
        tuneport.transfer(*made.paths, tmp_path / "out", rules={"layers": value})
    assert [fault.option for fault in caught.value.faults] == ["rules"]


def test_a_ramp_over_more_than_layers_stops_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path / "in")
    ran = cli(*made.flags(tmp_path / "out", "--rule", ".=0.2..1"))
    assert ran.status == 2
    assert "lm_head.weight" in ran.err
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_verify_finds_a_ramp_that_was_changed_in_the_manifest(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=deep(1))
    tuneport.transfer(*made.paths, tmp_path / "out", rules=[RAMP])
    path = tmp_path / "out" / "tuneport.json"
    told = json.loads(path.read_text())
    assert told["plan"]["choices"]["rules"] == [{"pattern": r"layers\.", "scale": 0.2, "last": 1.0}]
    told["plan"]["choices"]["rules"][0]["last"] = 0.9
    path.write_text(json.dumps(told))
    with pytest.raises(VerificationError, match="scale"):
        tuneport.verify(tmp_path / "out", *made.paths)
    for broken in ("x", [1.0], {"a": 1}):
        told["plan"]["choices"]["rules"][0]["last"] = broken
        path.write_text(json.dumps(told))
        with pytest.raises(VerificationError):
            tuneport.verify(tmp_path / "out", *made.paths)
