"""Several fine-tunings in one pass: the bytes of `apply` with their diff vectors, and of the formula done slowly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.errors import DoubtError, PairingError, UsageError, VerificationError

HEAD = "lm_head.weight"


def several(where: Path, dtype: torch.dtype = torch.bfloat16, second: torch.dtype | None = None) -> tiny.Trio:
    """A trio, with a second fine-tuning of the same base in ``tuned2`` and a LoRA of it in ``lora``."""
    base = tiny.llama(1, dtype)
    made = tiny.trio(where, base=base)
    other = {name: value.to(second or dtype) for name, value in tiny.moved(base, 9, by=0.03).items()}
    tiny.write_model(where / "tuned2", other)
    tiny.write_lora(where / "lora", base, 4)
    return tiny.Trio(*made.paths, {**made.tensors, "tuned2": other})


def assert_same_model(one: Path, other: Path) -> None:
    """Every tensor byte and every small file but manifest and card, which tell how it was made."""
    told = ("tuneport.json", "README.md")
    left, right = ({n: c for n, c in tiny.contents(each).items() if n not in told} for each in (one, other))
    assert left == right and any(name.endswith(".safetensors") for name in left)


def added(target: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor, float]]) -> torch.Tensor:
    """target + Σ scale·(tuned − base) in numpy: each difference in its own working dtype, one rounding at the end."""
    wide = {torch.float64}
    work = np.float64 if wide & {target.dtype, *(part.dtype for pair in pairs for part in pair[:2])} else np.float32
    total = target.to(torch.float64).numpy().astype(work)
    for base, tuned, scale in pairs:
        own = np.float64 if wide & {target.dtype, base.dtype, tuned.dtype} else np.float32
        found = tuned.double().numpy().astype(own) - base.double().numpy().astype(own)
        total = total + (found.astype(work) if scale == 1 else work(scale) * found.astype(work))
    return torch.from_numpy(total).to(target.dtype)


def flags(where: Path, *tuned: str) -> list[str]:
    """`--base` once, each `--tuned`, and the target."""
    each = [part for name in tuned for part in ("--tuned", str(where / name))]
    return ["--base", str(where / "base"), *each, "--onto", str(where / "target")]


def taken(cli: Cli, where: Path, *tuned: str) -> list[str]:
    """A stored diff vector of each."""
    for name in tuned:
        ran = cli("diff", "--base", where / "base", "--tuned", where / name, "--out", where / f"d-{name}")
        assert ran.status == 0, ran.err
    return [str(where / f"d-{name}") for name in tuned]


@pytest.mark.parametrize("scales", [(1.0, 0.8), (-0.5, 2.0), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize(
    ("dtype", "second"),
    [
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.float64, None),
        (torch.bfloat16, torch.float64),
        (torch.bfloat16, torch.float32),
    ],
)
def test_two_pairs_give_the_bytes_of_the_formula_and_of_apply(
    cli: Cli, tmp_path: Path, dtype: torch.dtype, second: torch.dtype | None, scales: tuple[float, float]
) -> None:
    made = several(tmp_path, dtype, second)
    given = [part for scale in scales for part in ("--scale", str(scale))]
    ran = cli("transfer", *flags(tmp_path, "tuned", "tuned2"), *given, "--out", tmp_path / "at-once")
    assert ran.status == 0, ran.err
    vectors = [f"{at}={scale}" for at, scale in zip(taken(cli, tmp_path, "tuned", "tuned2"), scales, strict=True)]
    ran = cli("apply", *vectors, "--onto", made.target, "--out", tmp_path / "in-two")
    assert ran.status == 0, ran.err
    assert_same_model(tmp_path / "at-once", tmp_path / "in-two")
    each = list(zip(("tuned", "tuned2"), scales, strict=True))
    wanted = {
        name: added(
            value,
            [(made.tensors["base"][name], made.tensors[tuned][name], scale) for tuned, scale in each if scale],
        )
        for name, value in made.tensors["target"].items()
    }
    tiny.assert_same(tiny.read_weights(tmp_path / "at-once"), wanted)


def test_adapters_and_stored_vectors_are_added_in_the_same_pass(cli: Cli, tmp_path: Path) -> None:
    several(tmp_path)
    vectors = taken(cli, tmp_path, "tuned", "lora", "tuned2")
    given = [*flags(tmp_path, "tuned", "lora"), "--scale", "0.9", "--scale", "1", "--diff", f"{vectors[2]}=0.5"]
    assert (ran := cli("transfer", *given, "--out", tmp_path / "one", "--json")).status == 0, ran.err
    assert ran.json()["formula"] == "target + 0.9 · Δ1 + Δ2 + 0.5 · Δ(d-tuned2)"
    assert ran.json()["verdict"]["word"] == "uncertain"
    order = [f"{vectors[0]}=0.9", vectors[1], f"{vectors[2]}=0.5"]
    assert cli("apply", *order, "--onto", tmp_path / "target", "--out", tmp_path / "other").status == 0
    assert_same_model(tmp_path / "one", tmp_path / "other")
    manifest = json.loads((tmp_path / "one" / "tuneport.json").read_text())
    roles = ["base1", "tuned1", "base2", "tuned2", "diff", "target"]
    assert [entry["role"] for entry in manifest["inputs"]] == roles
    assert manifest["scales"] == [0.9, 1.0, 0.5] and manifest["measures"]["cosine"] is None
    assert set(manifest["roles"]["samples"]) == {"tuned1", "tuned2", "diff"}
    again = [*flags(tmp_path, "tuned", "lora"), "--diff", vectors[2], "--full"]
    assert (ran := cli("verify", tmp_path / "one", *again)).status == 0, ran.err
    # Whatever was applied is proved by the models that it was taken from, too.
    assert cli("verify", tmp_path / "other", *flags(tmp_path, "tuned", "lora", "tuned2"), "--full").status == 0


def test_the_order_and_the_number_of_parents_are_verified(tmp_path: Path) -> None:
    several(tmp_path)
    base, target = tmp_path / "base", tmp_path / "target"
    first, second = tmp_path / "tuned", tmp_path / "tuned2"
    out = tuneport.transfer([base, base], [first, second], target, tmp_path / "out", scale=[1, 0.8]).out
    assert tuneport.verify(out, base, [first, second], target, full=True).kind == "full"
    with pytest.raises(VerificationError, match="differs"):
        tuneport.verify(out, base, [second, first], target)
    with pytest.raises(VerificationError, match="2 tuned"):
        tuneport.verify(out, base, first, target)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"base": ["b", "b"], "tuned": ["t", "t", "t"]}, "base"),
        ({"base": ["b", "b"], "tuned": "t"}, "base"),
        ({"base": [], "tuned": "t"}, "base"),
        ({"base": "b", "tuned": ["t", "t"], "scale": [1, 2, 3]}, "scale"),
        ({"base": "b", "tuned": ["t", "t"], "scale": [1, 2], "diffs": ["d"]}, "scale"),
        ({"base": "b", "tuned": "t", "scale": "half"}, "scale"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_opened(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        tuneport.transfer(**given, onto="v2", out="out")
    assert [fault.option for fault in caught.value.faults] == [option]


def with_a_token(made: tiny.Trio, where: Path, seed: int) -> Path:
    """A fine-tuning of the base that adds a token."""
    moved = tiny.moved(made.tensors["base"], seed, by=0.03)
    grown = {n: torch.cat([v, v[:1] + 1]) if v.shape[0] == 24 and "proj" not in n else v for n, v in moved.items()}
    return tiny.write_model(where, grown, added=["<tool>"], settings=tiny.config(vocab_size=25))


@pytest.mark.parametrize("order", [("tuned", "grown"), ("grown", "tuned"), ("grown", "lora"), ("lora", "grown")])
def test_a_vocabulary_that_one_of_them_extends_grows_in_either_order(
    cli: Cli, tmp_path: Path, order: tuple[str, str]
) -> None:
    made = several(tmp_path)
    grown = tiny.read_weights(with_a_token(made, tmp_path / "grown", 7))
    ran = cli("transfer", *flags(tmp_path, *order), "--out", tmp_path / "one")
    assert ran.status == 0, ran.err
    assert cli("apply", *taken(cli, tmp_path, *order), "--onto", made.target, "--out", tmp_path / "two").status == 0
    assert_same_model(tmp_path / "one", tmp_path / "two")
    found, base = tiny.read_weights(tmp_path / "one")[HEAD], made.tensors["base"][HEAD]
    assert tiny.bits(found[24]) == tiny.bits(grown[HEAD][24])
    pairs = [
        (base, {"grown": grown[HEAD][:24], "tuned": made.tensors["tuned"][HEAD]}[name], 1.0)
        for name in order
        if name != "lora"
    ]
    assert tiny.bits(found[:24]) == tiny.bits(added(made.tensors["target"][HEAD], pairs))


def test_two_that_change_the_vocabulary_are_refused(tmp_path: Path) -> None:
    made = several(tmp_path)
    both = [with_a_token(made, tmp_path / f"grown{seed}", seed) for seed in (7, 8)]
    with pytest.raises(PairingError, match="grown7 and grown8"):
        tuneport.transfer(made.base, both, made.target, tmp_path / "out")


def test_a_rename_may_be_meant_for_one_of_them(tmp_path: Path) -> None:
    made = several(tmp_path)
    other = tiny.write_model(tmp_path / "own", {f"own.{n}": v for n, v in made.tensors["base"].items()})
    tuned = tiny.write_model(tmp_path / "own-tuned", {f"own.{n}": v for n, v in made.tensors["tuned2"].items()})
    renames = {r"^own\.": ""}
    bases = [made.base, other]
    out = tuneport.transfer(bases, [made.tuned, tuned], made.target, tmp_path / "out", renames=renames).out
    plain = tuneport.transfer(made.base, [made.tuned, tmp_path / "tuned2"], made.target, tmp_path / "plain").out
    tiny.assert_same(tiny.read_weights(out), tiny.read_weights(plain))
    with pytest.raises(UsageError):
        tuneport.transfer(bases, [made.tuned, tuned], made.target, tmp_path / "no", renames={"gone": ""})


def test_wrong_roles_are_told_of_the_pair_that_has_them(tmp_path: Path) -> None:
    made = several(tmp_path)
    stranger = tiny.write_model(tmp_path / "stranger", tiny.llama(77))
    other = tiny.write_model(tmp_path / "stranger-tuned", tiny.moved(tiny.llama(77), 4))
    found = tuneport.plan([made.base, stranger], [made.tuned, other], made.target)
    assert any(doubt["message"].startswith("stranger-tuned: ") for doubt in found["roles"]["doubts"])
    with pytest.raises(DoubtError, match="stranger-tuned"):
        tuneport.transfer([made.base, stranger], [made.tuned, other], made.target, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_a_plan_shows_every_pair_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    several(tmp_path)
    ran = cli("transfer", *flags(tmp_path, "tuned", "lora"), "--out", tmp_path / "out", "--dry-run", "--json")
    assert ran.status == 0 and ran.json()["formula"] == "target + Δ1 + Δ2"
    assert [entry["role"] for entry in ran.json()["inputs"]] == ["base1", "tuned1", "base2", "tuned2", "target"]
    assert {entry["subject"] for entry in ran.json()["decisions"]} >= {"Δ1: tokens", "Δ2: tokens"}
    assert not (tmp_path / "out").exists()


def test_nan_is_named_with_the_pair_that_brings_it(cli: Cli, tmp_path: Path) -> None:
    made = several(tmp_path)
    bad = {name: value.clone() for name, value in made.tensors["tuned2"].items()}
    bad[HEAD][3, 2] = torch.nan
    tiny.write_model(tmp_path / "tuned2", bad)
    ran = cli("transfer", *flags(tmp_path, "tuned", "tuned2"), "--out", tmp_path / "out")
    assert ran.status == 1 and "1 in tuned2" in ran.err and "tuned1" not in ran.err


def test_another_scale_is_another_run(cli: Cli, tmp_path: Path) -> None:
    made = several(tmp_path)
    (vector,) = taken(cli, tmp_path, "tuned")
    onto = ["--onto", made.target, "--out", tmp_path / "out"]
    assert cli("apply", f"{vector}=0.5", *onto).status == 0
    assert cli("apply", f"{vector}=0.7", *onto).status == 1
    assert (ran := cli("apply", f"{vector}=0.5", *onto)).status == 0 and "already done" in ran.out
    assert cli("apply", f"{vector}=0.7", *onto, "--overwrite").status == 0


def test_small_files_are_merged_one_after_another(cli: Cli, tmp_path: Path) -> None:
    made = several(tmp_path)
    for place in (made.base, made.tuned, made.target, tmp_path / "tuned2"):
        (place / "generation_config.json").write_text(json.dumps({"top_k": 5, "temperature": 1.0}))
    (made.tuned / "generation_config.json").write_text(json.dumps({"top_k": 6, "temperature": 1.0}))
    (tmp_path / "tuned2" / "generation_config.json").write_text(json.dumps({"top_k": 5, "temperature": 0.7}))
    (tmp_path / "tuned2" / "chat_template.jinja").write_text("{{ messages }}")
    assert cli("transfer", *flags(tmp_path, "tuned", "tuned2"), "--out", tmp_path / "one").status == 0
    written = json.loads((tmp_path / "one" / "generation_config.json").read_text())
    assert written == {"top_k": 6, "temperature": 0.7}
    assert (tmp_path / "one" / "chat_template.jinja").read_text() == "{{ messages }}"
    told = json.loads((tmp_path / "one" / "tuneport.json").read_text())["config_differences"]
    assert {entry["field"].rpartition(".")[2] for entry in told} >= {"top_k", "temperature"}
    vectors = taken(cli, tmp_path, "tuned", "tuned2")
    assert cli("apply", *vectors, "--onto", made.target, "--out", tmp_path / "two").status == 0
    assert_same_model(tmp_path / "one", tmp_path / "two")
