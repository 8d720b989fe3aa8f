"""Numbers at the end of their range: what is written verifies, and no sum of them ends a run in a traceback."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.comparison.model_roles import MatrixSums, pooled_cosines, together

HUGE = {name: value.double() * 1e155 for name, value in tiny.llama(1).items()}
VECTOR, OTHER = "model.norm.weight", "model.layers.0.input_layernorm.weight"


def with_first(tensors: tiny.Tensors, **values: float) -> tiny.Tensors:
    """A copy in which the first element of the vectors is another."""
    found = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, value in values.items():
        found[{"norm": VECTOR, "other": OTHER, "matrix": "lm_head.weight"}[name]].view(-1)[0] = value
    return found


SINGLE = tiny.llama(1, torch.float32)
CASES = {
    "infinity in the target's vector": (SINGLE, tiny.moved(SINGLE, 2), with_first(SINGLE, norm=math.inf)),
    "both infinities in one matrix": (
        SINGLE,
        with_first(SINGLE, matrix=math.inf),
        with_first(SINGLE, matrix=-math.inf),
    ),
    "one infinity in each of two tensors": (
        with_first(SINGLE, norm=0, other=0),
        with_first(SINGLE, norm=math.inf, other=math.inf),
        with_first(SINGLE, norm=1, other=-1),
    ),
    "NaN everywhere in one": (SINGLE, {**SINGLE, VECTOR: SINGLE[VECTOR] * math.nan}, tiny.moved(SINGLE, 3)),
    "float64 whose squares overflow": (HUGE, tiny.moved(HUGE, 2, by=0.0) | {VECTOR: HUGE[VECTOR] * 2}, HUGE),
    "float64 whose sums of squares overflow": (
        {name: torch.zeros_like(value) for name, value in HUGE.items()},
        {name: torch.full_like(value, 6e152) for name, value in HUGE.items()},
        HUGE,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", ["1", "-0.5"])
def test_what_is_written_verifies_from_its_parents_and_from_its_diff_vector(
    cli: Cli, tmp_path: Path, case: str, scale: str
) -> None:
    made = tiny.trio(tmp_path, *CASES[case])
    out, delta, applied = (tmp_path / name for name in ("out", "delta", "applied"))
    done = cli(*made.flags(out, "--scale", scale, "--allow-nonfinite", "--json"))
    assert done.status == 0, done.err
    json.loads(done.out, parse_constant=pytest.fail)  # no NaN, no Infinity: JSON has no words for them
    json.loads((out / "tuneport.json").read_text(), parse_constant=pytest.fail)
    assert cli("verify", out, *made.flags(out)[1:7], "--full").status == 0
    parents = ["--base", str(made.base), "--tuned", str(made.tuned)]
    assert cli("diff", *parents, "--out", delta, "--allow-nonfinite").status == 0
    assert cli("verify", delta, *parents, "--full").status == 0
    assert cli("apply", f"{delta}={scale}", "--onto", made.target, "--out", applied, "--allow-nonfinite").status == 0
    assert cli("verify", applied, "--diff", delta, "--onto", made.target, "--full").status == 0
    assert tiny.contents(applied).keys() == tiny.contents(out).keys()


def test_a_generation_setting_that_is_infinite_verifies(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    (made.tuned / "generation_config.json").write_text('{"min_p": Infinity, "top_k": 3}')
    assert cli(*made.flags(tmp_path / "out")).status == 0
    assert cli("verify", tmp_path / "out", *made.flags(tmp_path / "out")[1:7], "--full").status == 0


def test_sums_of_infinities_are_not_measured() -> None:
    parts = [MatrixSums(4, diff=math.inf, base=1.0), MatrixSums(4, diff=-math.inf, base=2.0)]
    found = together(parts)
    assert math.isnan(found.diff) and found.base == 3.0
    large = MatrixSums(4, 1e308, 1e308, 1e308, 1e308, 1e308, 1e308)
    assert pooled_cosines([large, large]) == (None, None)
