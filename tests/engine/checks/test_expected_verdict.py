"""A transfer says the word that `compare` says, from the sums of its one pass; a dry run from the sample that it takes anyway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

import tuneport
from tuneport.engine import run as engine_run
from tuneport.engine.checks.conclusion import conclude
from tuneport.engine.manifest import Conclusion


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_word_and_reasons_of_a_run_and_of_its_plan_are_those_of_compare(tmp_path: Path, dtype: torch.dtype) -> None:
    base = tiny.llama(1, dtype, hidden=48)
    made = tiny.trio(tmp_path, base)
    wanted = tuneport.compare(*made.paths)["verdict"]
    plan = tuneport.plan(*made.paths)
    ran = tuneport.transfer(*made.paths, tmp_path / "out")
    assert ran.verdict == wanted == plan["verdict"]
    assert tuneport.transfer(*made.paths, tmp_path / "out").verdict is None  # already done: nothing was measured


def test_a_stranger_is_unlikely_in_the_dry_run_and_after_the_run(tmp_path: Path, cli: Cli) -> None:
    base = tiny.llama(1, hidden=48)
    made = tiny.trio(tmp_path, base, target=tiny.llama(9, hidden=48))
    for flags in (["--dry-run"], []):
        ran = cli(*made.flags(tmp_path / "out"), *flags)
        assert ran.status == 0
        told = [line for line in ran.out.splitlines() if line.startswith("verdict: unlikely. strangers:")]
        assert len(told) == 1
    assert "verdict" not in json.loads((tmp_path / "out" / "tuneport.json").read_text())


def test_the_figures_of_a_run_are_those_of_compare_where_rows_meet_by_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.llama(1, torch.float32)
    words = [f"w{index}" for index in range(24)]
    target = tiny.moved(base, 3, by=0.05)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        target[name] = torch.cat([target[name][4:].flip(0), torch.ones(2, 8)])
    paths = (
        tiny.write_model(tmp_path / "base", base),
        tiny.write_model(tmp_path / "tuned", tiny.moved(base, 2)),
        tiny.write_model(
            tmp_path / "target", target, words=[*reversed(words[4:]), "n0", "n1"], settings=tiny.config(vocab_size=22)
        ),
    )
    wanted = tuneport.compare(*paths)["measures"]
    found: list[Conclusion] = []
    monkeypatch.setattr(engine_run, "conclude", lambda *given: found.append(conclude(*given)) or found[-1])
    tuneport.transfer(*paths, tmp_path / "out")
    figures = found[0].totals.figures
    of_rows = {"cosine_base_target"}  # the run's square of the target holds rows without a partner: left out
    for name, value in wanted.items():
        if isinstance(value, float) and name not in of_rows:
            assert figures[name] == pytest.approx(value, rel=1e-9), name
