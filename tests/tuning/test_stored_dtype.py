"""What the last cast takes from what was learned is what sums over whole tensors say, and is told where it is much."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.tiny_tuning import weights

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import FLAGS
from tuneport.tuning import stored_dtype
from tuneport.tuning.stored_dtype import as_stored, cast_loss


def learned(start: tiny.Tensors, by: float) -> tiny.Tensors:
    """Float32 weights as a training leaves them."""
    return tiny.moved({name: tensor.float() for name, tensor in start.items()}, 9, by=by)


def slowly(state: torch.Tensor, start: torch.Tensor, stored: torch.Tensor) -> dict[str, Any]:
    """The figures of one tensor, in float64."""
    added = (state.float() - start.float()).double()
    error = (stored.double() - start.double()) - added
    moves = added != 0
    same = stored == start.to(stored.dtype)
    return {
        "error": pytest.approx(float(error.norm() / added.norm()), rel=1e-6),
        "unchanged": int((moves & same).sum()) / int(moves.sum()),
        "nonzero": int(moves.sum()),
    }


@pytest.mark.parametrize("piece", [7, stored_dtype.PIECE])
@pytest.mark.parametrize("asked", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_tensor_is_measured_against_the_start(
    tmp_path: Path, dtype: torch.dtype, asked: str | None, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_dtype, "PIECE", piece)
    start = tiny.llama(1, dtype)
    state = learned(start, by=1e-3)
    opened = open_checkpoint(tiny.write_model(tmp_path / "start", start, shards=2), "start")
    stored = as_stored(state, opened, asked)
    loss = cast_loss(state, stored, opened).record()
    assert loss["unmeasured"] == [] and loss["tensors"].keys() == start.keys()
    for name, figures in loss["tensors"].items():
        assert figures == slowly(state[name], start[name], stored[name]), name
    flat = [torch.cat([part[name].flatten() for name in sorted(start)]) for part in (state, start, stored)]
    assert {key: loss[key] for key in ("error", "unchanged", "nonzero")} == slowly(flat[0], flat[1], flat[2])
    assert (loss["error"] == 0) is (dtype is torch.float32 and asked is None)


def test_tied_tensors_count_once_new_rows_not_at_all_and_what_the_start_lacks_is_named(tmp_path: Path) -> None:
    start = tiny.llama(1)
    del start["lm_head.weight"]
    state = learned(start, by=1e-3)
    grown = torch.cat([state["model.embed_tokens.weight"], torch.randn(3, 8)])
    state |= {"model.embed_tokens.weight": grown, "lm_head.weight": grown, "score.weight": torch.randn(2, 8)}
    opened = open_checkpoint(tiny.write_model(tmp_path / "start", start), "start")
    stored = as_stored(dict(sorted(state.items())), opened, None)
    loss = cast_loss(state, stored, opened)
    assert loss.unmeasured == ("score.weight",) and loss.tensors.keys() == start.keys()
    assert loss.whole.nonzero == sum(int((state[n].float()[: len(t)] != t.float()).sum()) for n, t in start.items())
    name = "model.embed_tokens.weight"
    assert asdict(loss.tensors[name]) == slowly(grown[:24], start[name], stored[name][:24])


def test_where_nothing_was_learned_there_is_no_share(tmp_path: Path) -> None:
    start = tiny.llama(1)
    state = {name: tensor.float() for name, tensor in start.items()}
    opened = open_checkpoint(tiny.write_model(tmp_path / "start", start), "start")
    loss = cast_loss(state, as_stored(state, opened, None), opened)
    assert asdict(loss.whole) == {"error": None, "unchanged": None, "nonzero": 0} and loss.warnings == ()


def test_what_float16_has_no_room_for_is_told(tmp_path: Path) -> None:
    start = tiny.llama(1)
    state = learned(start, by=1e-3)
    state["model.norm.weight"][2] = 70_000.0
    state["lm_head.weight"][0, 0] = math.inf  # of the training, not of the cast
    opened = open_checkpoint(tiny.write_model(tmp_path / "start", start), "start")
    loss = cast_loss(state, as_stored(state, opened, "float16"), opened)
    assert loss.record()["infinite"] == {"model.norm.weight": 1}
    assert "`model.norm.weight`: 1" in loss.warnings[0] and "--dtype bfloat16 or float32" in FLAGS.message(
        loss.warnings[0]
    )
    assert cast_loss(state, as_stored(state, opened, "bfloat16"), opened).warnings == ()


def test_small_steps_kept_in_bfloat16_are_told_of_and_the_advice_keeps_them(
    base: Path, sums: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ["--data", sums, "--steps", "3", "--learning-rate", "1e-6", "--batch-size", "4", "--out", tmp_path / "out"]
    ran = cli("tune", base, *words)
    assert ran.status == 0, ran.err
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    lost = record["rounding"]
    assert lost["error"] > 0.9 and lost["unmeasured"] == [] and lost["tensors"].keys() == weights(base).keys()
    (warning,) = [text for text in record["outcome"]["warnings"] if "loses much of what was learned" in text]
    assert warning in ran.err and "--dtype float32" in warning
    card = (tmp_path / "out" / "README.md").read_text()
    assert warning in card and f"Storing the weights lost {lost['error']:.2g} of ‖Δ‖" in card
    assert f"rounding lost {lost['error']:.2g} of ‖Δ‖" in ran.out
    again = cli("tune", base, *words)
    assert "already done" in again.out and warning in again.err
    better = cli("tune", base, *words, "--dtype", "float32", "--overwrite")
    assert better.status == 0 and "takes much" not in better.err
    kept = json.loads((tmp_path / "out" / "tune.json").read_text())["rounding"]
    assert (kept["error"], kept["nonzero"]) == (0, lost["nonzero"])
    learned = [weights(tmp_path / "out")[name] - tensor.float() for name, tensor in weights(base).items()]
    assert kept["nonzero"] == sum(int(torch.count_nonzero(delta)) for delta in learned)
    assert math.isclose(kept["unchanged"], 0)


def test_an_adapter_is_stored_as_it_was_trained(adapter: Path) -> None:
    assert json.loads((adapter / "tune.json").read_text())["rounding"] is None
