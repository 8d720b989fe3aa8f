"""`apply` says whether the target is a parent of the diff vector, descends from one by its own manifest, or is a stranger."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.diffvector import target_lineage


@pytest.fixture
def taken(tmp_path: Path) -> tiny.Trio:
    """A trio, and the diff vector of its first two in ``delta``."""
    made = tiny.trio(tmp_path)
    tuneport.diff(made.base, made.tuned, tmp_path / "delta")
    return made


def lineage(target: Path, vector: Path | None = None) -> dict[str, Any]:
    (found,) = tuneport.plan(onto=target, diffs=vector or target.parent / "delta")["lineage"]
    assert isinstance(found, dict)
    return found


def test_a_parent_is_known_by_the_digests_of_its_tensors_wherever_it_lies(taken: tiny.Trio, tmp_path: Path) -> None:
    for role, place in (("base", taken.base), ("tuned", taken.tuned)):
        copy = Path(shutil.copytree(place, tmp_path / f"copy-of-{role}"))
        tiny.write_weights(copy, taken.tensors[role], shards=2)
        found = lineage(copy)
        assert (found["kin"], found["parent"], found["by"], found["tensors"]) == ("parent", role, "tensors", 6)


def test_one_other_element_makes_a_stranger(taken: tiny.Trio, tmp_path: Path) -> None:
    moved = {name: value.clone() for name, value in taken.tensors["base"].items()}
    moved["lm_head.weight"][0, 0] += 1
    assert lineage(tiny.write_model(tmp_path / "almost", moved))["kin"] == "stranger"
    assert lineage(taken.target)["kin"] == "stranger"


def test_of_a_large_target_those_tensors_are_read_first_in_which_the_parents_differ(
    taken: tiny.Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_lineage, "MOST_BYTES", 20)
    partly = {**taken.tensors["base"], "model.norm.weight": taken.tensors["tuned"]["model.norm.weight"]}
    other = tiny.write_model(tmp_path / "partly", partly)
    tuneport.diff(taken.base, other, tmp_path / "small")
    assert lineage(taken.base, tmp_path / "small") | {"role": "", "name": ""} == {
        "role": "", "name": "", "kin": "parent", "parent": "base", "by": "tensors", "tensors": 1
    }  # fmt: skip
    assert lineage(other, tmp_path / "small")["parent"] == "tuned"


@pytest.mark.parametrize(("digests", "by"), [(True, "tensors"), (False, "headers")])
def test_a_descendant_names_a_parent_in_its_own_manifest(
    taken: tiny.Trio, tmp_path: Path, digests: bool, by: str
) -> None:
    child = tuneport.transfer(taken.base, taken.tuned, taken.target, tmp_path / "child", digest_inputs=digests).out
    found = lineage(child)
    assert (found["kin"], found["parent"], found["by"]) == ("descendant", "base", by)
    (child / "tuneport.json").unlink()
    assert lineage(child)["kin"] == "stranger"


def test_the_run_its_manifest_and_the_dry_run_say_so(cli: Cli, taken: tiny.Trio, tmp_path: Path) -> None:
    argv = ["apply", tmp_path / "delta", "--onto", taken.base, "--out", tmp_path / "out"]
    words = "the target is the base of delta (by the digests of 6 tensors)"
    assert words in cli(*argv, "--dry-run").out
    assert (ran := cli(*argv)).status == 0 and words in ran.out, ran.err
    assert json.loads((tmp_path / "out" / "tuneport.json").read_text())["lineage"][0]["kin"] == "parent"
    assert cli("verify", tmp_path / "out", "--diff", tmp_path / "delta", "--onto", taken.base, "--full").status == 0


def test_a_damaged_manifest_of_a_target_is_an_error_in_words(cli: Cli, taken: tiny.Trio, tmp_path: Path) -> None:
    (taken.target / "tuneport.json").write_text("{")
    ran = cli("apply", tmp_path / "delta", "--onto", taken.target, "--out", tmp_path / "out")
    assert ran.status == 1 and "tuneport.json" in ran.err and "Traceback" not in ran.err
