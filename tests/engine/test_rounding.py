"""What rounding lost from Δ: in every way of making a tensor the figures that slow sums over the finished files give."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.tiny_adapters import Made
from support.written_manifests import by_name, manifest

from tuneport.checkpoint import floats
from tuneport.comparison.rounding import measure_rounding, rounded
from tuneport.diffvector.run import apply, diff, transfer
from tuneport.engine import arithmetic, budget, kernel
from tuneport.errors import DoubtError
from tuneport.pairing.name_rules import ScaleRule

pytestmark = pytest.mark.filterwarnings("error")
Sums = list[float]
Array = NDArray[Any]
ROLES = ("base", "tuned", "target")


def slowly(out: torch.Tensor, target: torch.Tensor, added: torch.Tensor, unmoved: torch.Tensor | None = None) -> Sums:
    """The four sums of a tensor, in float64 over whole tensors."""
    wide, unmoved = out.double(), target.double() if unmoved is None else unmoved.double()
    moves = added != 0
    error = (wide - target.double()) - added.double()
    counts = int(moves.sum()), int((moves & (wide == unmoved)).sum())
    return [float((added.double() ** 2).sum()), float((error**2).sum()), *map(float, counts)]


def assert_told(folder: Path, wanted: dict[str, Sums]) -> None:
    """The manifest has these figures for these tensors and in all, and null for all others."""
    for name, entry in by_name(folder).items():
        if name not in wanted:
            assert entry["rounding"] is None, name
            continue
        assert_figures(entry["rounding"], wanted[name])
    assert_figures(manifest(folder)["measures"]["rounding"], [math.fsum(c) for c in zip(*wanted.values(), strict=True)])


def assert_figures(told: dict[str, Any], sums: Sums) -> None:
    added, error, nonzero, unchanged = sums
    assert told["nonzero"] == nonzero
    assert told["unchanged"] == (unchanged / nonzero if nonzero else None)
    wanted = pytest.approx(math.sqrt(error / added), rel=1e-5, abs=1e-9) if added else None
    assert told["error"] == wanted


def deltas(made: tiny.Trio, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """What is to be added, in float32 (or float64 where it is in play)."""
    found = {}
    for name, target in made.tensors["target"].items():
        base, tuned = made.tensors["base"][name], made.tensors["tuned"][name]
        work = torch.float64 if torch.float64 in (base.dtype, tuned.dtype, target.dtype) else torch.float32
        difference = tuned.to(work) - base.to(work)
        found[name] = difference if scale == 1 else torch.tensor(scale, dtype=work) * difference
    return found


def of_all(made: tiny.Trio, out: Path, scale: float = 1.0) -> dict[str, Sums]:
    found, added = tiny.read_weights(out), deltas(made, scale)
    return {
        name: slowly(found[name], target, added[name], target.to(found[name].dtype))
        for name, target in made.tensors["target"].items()
    }


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_full_model(tmp_path: Path, dtype: torch.dtype, scale: float, rounding: Any) -> None:
    base = tiny.llama(1, dtype, hidden=32)
    made = tiny.trio(tmp_path, base, tiny.moved(base, 2, by=3e-3))
    transfer(*made.paths, tmp_path / "out", scale=scale, rounding=rounding)
    assert_told(tmp_path / "out", of_all(made, tmp_path / "out", scale))
    unchanged = manifest(tmp_path / "out")["measures"]["rounding"]["unchanged"]
    assert (unchanged > 0) is (dtype in (torch.bfloat16, torch.float16)), "the test sees what it is about"


@pytest.mark.parametrize("parents", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("to", ["bfloat16", "float16", "float32", "float64"])
def test_a_cast_and_parents_of_another_dtype(tmp_path: Path, parents: torch.dtype, to: str) -> None:
    whole = tiny.llama(1, torch.float32, hidden=32)
    tuned, target = tiny.moved(whole, 2, by=1e-3), tiny.moved(whole, 3, by=0.05)
    parts = [{n: v.to(parents) for n, v in part.items()} for part in (whole, tuned)]
    made = tiny.trio(tmp_path, parts[0], parts[1], target)
    transfer(*made.paths, tmp_path / "out", dtype=to)
    assert_told(tmp_path / "out", of_all(made, tmp_path / "out"))


def test_what_is_copied_or_dropped_is_null_and_a_tensor_that_was_not_trained_has_no_share(tmp_path: Path) -> None:
    base = tiny.llama(1)
    tuned = {**tiny.moved(base, 2), "model.norm.weight": base["model.norm.weight"]}
    made = tiny.trio(tmp_path, {**base, "gone": base["model.norm.weight"]}, {**tuned, "gone": tuned["lm_head.weight"][0]},
                     tiny.moved(base, 3))  # fmt: skip
    transfer(*made.paths, tmp_path / "out", rules=(ScaleRule("lm_head", 0.0),), drop="gone")
    wanted = of_all(made, tmp_path / "out")
    del wanted["lm_head.weight"]
    assert_told(tmp_path / "out", wanted)
    assert by_name(tmp_path / "out")["model.norm.weight"]["rounding"] == {
        "error": None, "unchanged": None, "nonzero": 0,
    }  # fmt: skip


def test_a_diff_rounds_nothing_onto_a_target(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    diff(made.base, made.tuned, tmp_path / "delta")
    assert_told_nothing(tmp_path / "delta")


def assert_told_nothing(folder: Path) -> None:
    assert manifest(folder)["measures"]["rounding"] is None
    assert all(entry["rounding"] is None for entry in by_name(folder).values())


def test_of_several_diff_vectors_it_is_their_sum_that_is_to_arrive(tmp_path: Path) -> None:
    base = tiny.llama(1)
    made = tiny.trio(tmp_path, base, tiny.moved(base, 2, by=5e-3))
    other = tiny.write_model(tmp_path / "other", tiny.moved(base, 9, by=5e-3))
    for place, tuned in enumerate((made.tuned, other)):
        diff(made.base, tuned, tmp_path / f"delta{place}")
    out = tmp_path / "out"
    apply([(tmp_path / "delta0", 1.0), (tmp_path / "delta1", -0.5)], made.target, out)
    second = tiny.read_weights(other)
    wanted = {}
    for name, target in made.tensors["target"].items():
        first = made.tensors["tuned"][name].float() - base[name].float()
        total = first + torch.tensor(-0.5) * (second[name].float() - base[name].float())
        wanted[name] = slowly(tiny.read_weights(out)[name], target, total)
    assert_told(out, wanted)


def test_applying_a_kept_diff_vector_tells_what_the_transfer_tells(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    diff(made.base, made.tuned, tmp_path / "delta")
    apply([(tmp_path / "delta", 0.5)], made.target, tmp_path / "in-two")
    transfer(*made.paths, tmp_path / "at-once", scale=0.5)
    one, other = (manifest(tmp_path / name)["measures"]["rounding"] for name in ("at-once", "in-two"))
    assert one == {**other, "error": pytest.approx(other["error"], rel=1e-5)}


def test_rows_that_are_matched_by_token(tmp_path: Path) -> None:
    """Rows that only the target has, and a new token's, take no difference."""
    words = {"base": tiny.WORDS[:18], "tuned": [*tiny.WORDS[:18], "new"], "target": ["x", "y", *tiny.WORDS[:18]]}
    whole, tensors, paths = tiny.llama(1, rows=20), {}, {}
    for place, (role, own) in enumerate(words.items()):
        moved = tiny.moved(whole, place, by=0.01)
        tensors[role] = {name: v[: len(own)] if v.shape[0] == 20 else v for name, v in moved.items()}
        paths[role] = tiny.write_model(
            tmp_path / role, tensors[role], words=own, settings=tiny.config(vocab_size=len(own))
        )
    transfer(paths["base"], paths["tuned"], paths["target"], tmp_path / "out")
    wanted = {}
    for name, out in tiny.read_weights(tmp_path / "out").items():
        base, tuned, target = (tensors[role][name] for role in ("base", "tuned", "target"))
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert out.shape[0] == 21, "one token was appended"
            base, tuned, target, out = base[:18], tuned[:18], target[2:], out[2:20]
        wanted[name] = slowly(out, target, tuned.float() - base.float())
    assert_told(tmp_path / "out", wanted)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_an_adapter(made: Made, tmp_path: Path, rounding: Any) -> None:
    adapter = made("two modules")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", scale=0.5, rounding=rounding)
    found, target = tiny.read_weights(tmp_path / "out"), tiny.read_weights(adapter.target)
    factors = tiny.read_weights(adapter.adapter)
    wanted = {}
    for name, value in target.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in factors:
            b, a = (factors[f"{stem}.lora_{part}.weight"].float() for part in "BA")
            product = torch.zeros(value.shape)
            for k in range(a.shape[0]):  # in the order of the rank, each product rounded by itself
                product += b[:, k, None] * a[k]
            wanted[name] = slowly(found[name], value, torch.tensor(0.5) * (product * (5 / 3)))
    assert len(wanted) == 4
    for name, entry in by_name(tmp_path / "out").items():
        if name in wanted:
            assert_figures(entry["rounding"], wanted[name])
        else:
            assert entry["rounding"] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_neither_workers_nor_pieces_nor_a_kill_change_a_figure(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.llama(1, dtype, hidden=96, rows=2000)
    made = tiny.trio(tmp_path, base, words=[f"w{i}" for i in range(2000)])
    found = []
    for place, (workers, pieces) in enumerate(((1, 8), (3, 1))):
        monkeypatch.setattr(budget, "PIECES", (pieces * kernel.BLOCK,))
        transfer(*made.paths, tmp_path / f"out{place}", workers=workers)
        found.append(manifest(tmp_path / f"out{place}"))
    assert found[0]["tensors"] == found[1]["tensors"] and found[0]["measures"] == found[1]["measures"]
    with pytest.raises(DoubtError):  # stops when everything is written; the next run takes all of it from the journal
        strictly(made, tmp_path / "again")
    partial = tmp_path / "again.partial" / "journal.jsonl"
    done = [json.loads(line) for line in partial.read_text().splitlines()]
    assert len([record for record in done if "leaf" in record]) == len(base)
    monkeypatch.setattr("tuneport.engine.run.compute_leaf", None)
    transfer(*made.paths, tmp_path / "again")
    again = manifest(tmp_path / "again")
    assert again["tensors"] == found[0]["tensors"]


def strictly(made: tiny.Trio, out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuneport.comparison.rounding.MOST", 1e-6)
        transfer(*made.paths, out, strict=True)


def test_a_journal_of_other_sums_is_computed_again(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    with pytest.raises(DoubtError):
        strictly(made, tmp_path / "out")
    journal = tmp_path / "out.partial" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if "leaf" in line:
            line["sums"] = line["sums"][:5]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    transfer(*made.paths, tmp_path / "out")
    assert_told(tmp_path / "out", of_all(made, tmp_path / "out"))


# ---- what is told


def lossy(where: Path, by: float = 1e-4) -> tiny.Trio:
    """A fine-tuning at a small rate, kept in float32, onto a bfloat16 target."""
    base = tiny.llama(1, torch.float32, hidden=32)
    target = {name: value.bfloat16() for name, value in tiny.moved(base, 3, by=0.05).items()}
    return tiny.trio(where, base, tiny.moved(base, 2, by=by), target)


def test_a_loss_is_told_in_the_run_the_manifest_and_the_card_and_its_advice_works(cli: Cli, tmp_path: Path) -> None:
    made = lossy(tmp_path)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 0
    lost = manifest(tmp_path / "out")["measures"]["rounding"]
    assert lost["error"] > 0.9 and lost["unchanged"] > 0.9
    assert f"rounding lost {lost['error']:.2g} of ‖Δ‖" in ran.out
    (warning,) = manifest(tmp_path / "out")["warnings"]
    assert warning in ran.err and "--dtype float32" in warning and "--rounding stochastic" in warning
    card = (tmp_path / "out" / "README.md").read_text()
    assert warning in card and f"{lost['error']:.6g}" in card and f"{lost['unchanged']:.6g}" in card
    refused = cli(*made.flags(tmp_path / "strict", "--strict"))
    assert refused.status == 1 and warning in refused.err and not (tmp_path / "strict").exists()
    for number, advice in enumerate((("--dtype", "float32"), ("--rounding", "stochastic"))):
        ran = cli(*made.flags(tmp_path / f"better{number}", "--strict", *advice))
        assert ran.status == 0, ran.err
    better = tiny.read_weights(tmp_path / "better1")
    kept, wanted = 0.0, 0.0
    for name, value in deltas(made).items():
        moved = better[name].double() - made.tensors["target"][name].double()
        kept += float((moved * value.double()).sum())
        wanted += float((value.double() ** 2).sum())
    # Unbiased: of Δ's own direction all arrives, within the noise of 2,800 roundings.
    assert abs(kept / wanted - 1) < 0.5 < lost["error"]
    assert manifest(tmp_path / "better0")["measures"]["rounding"]["error"] < 1e-3


def test_where_float32_itself_is_too_coarse_no_flag_is_named(tmp_path: Path) -> None:
    base = {name: torch.zeros_like(value) for name, value in tiny.llama(1, torch.float32).items()}
    tuned = {name: torch.full_like(value, 1e-9) for name, value in base.items()}
    made = tiny.trio(tmp_path, base, tuned, tiny.llama(3, torch.float32))
    outcome = transfer(*made.paths, tmp_path / "out")
    (warning,) = [text for text in outcome.warnings if "rounding" in text]
    assert "--dtype" not in warning and "--rounding" not in warning


def test_an_honest_fine_tuning_is_not_warned_of(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    assert transfer(*made.paths, tmp_path / "out").warnings == ()
    assert 0 < manifest(tmp_path / "out")["measures"]["rounding"]["error"] < 0.1


def test_one_nan_does_not_hide_what_the_others_lost(tmp_path: Path) -> None:
    made = lossy(tmp_path / "made")
    for place, value in ((0, math.nan), (1, math.inf)):
        made.tensors["tuned"]["lm_head.weight"][place, place] = value
    tiny.write_weights(made.tuned, made.tensors["tuned"])
    transfer(*made.paths, tmp_path / "out", allow_nonfinite=True)
    told = by_name(tmp_path / "out")["lm_head.weight"]["rounding"]
    assert told["nonzero"] == 24 * 32 - 2 and told["error"] > 0.9


# ---- the sums


@given(
    st.sampled_from(["BF16", "F32", "F16", "F64"]),
    st.integers(0, 3000) | st.sampled_from([kernel.BLOCK + 5]),
    st.sampled_from([1.0, -1.0, 0.1, 1e-30, 1e25]),
    st.integers(0, 2**32),
    st.sampled_from(["any bits", "calm", "tiny", "sparse", "zero"]),
    st.booleans(),
)
def test_kernel_and_numpy_count_the_same_and_measure_the_same(
    dtype: str, count: int, scale: float, seed: int, kind: str, compiled: bool
) -> None:
    made = np.random.default_rng(seed)
    parts = [drawn(dtype, count, kind, made) for _ in range(3)]
    if kind == "sparse":
        parts[1] = np.where(made.random(count) < 0.01, parts[1], parts[0])
    work = floats.working_dtype(dtype)
    base, tuned, target = (floats.widen(part, dtype, work) for part in parts)
    added = arithmetic.scaled(floats.difference(tuned, base), scale)
    out, sums = np.empty_like(parts[2]), kernel.no_sums()
    views = [memoryview(part).cast("B") if count else memoryview(bytearray()) for part in (*parts, out)]
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(kernel, "_compiled", None)
        kernel.transfer(*views, kernel.Dtypes(dtype, dtype, dtype, dtype, work), kernel.Addition(scale, 70_000, sums))
    stored = floats.widen(out, dtype, work)
    wanted = measure_rounding(stored, target, added, target)
    assert sums[8:].tolist() == wanted[2:].tolist()
    assert np.allclose(sums[6:8], wanted[:2], rtol=1e-5, atol=0, equal_nan=True)


def drawn(dtype: str, count: int, kind: str, made: np.random.Generator) -> Array:
    """Stored numbers; a tenth of them zero, of either sign."""
    if kind == "any bits":
        itemsize = np.dtype({"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype])
        return made.integers(0, 256, count * itemsize.itemsize, dtype=np.uint8).view(itemsize)
    size = {"calm": 0.02, "sparse": 0.02, "tiny": 1e-22, "zero": 0.0}[kind]
    values = (made.standard_normal(count) * size).astype(np.float32)
    where = made.random(count)
    values[where < 0.1] = 0
    values[where < 0.05] = -0.0
    return floats.narrow(values, dtype)


def test_nothing_to_add_is_nothing_lost() -> None:
    nothing = rounded([])
    assert (nothing.error, nothing.unchanged, nothing.nonzero) == (None, None, 0)
    assert rounded([[0.0, 0.0, 0.0, 0.0]]) == nothing


# ---- before the first byte
