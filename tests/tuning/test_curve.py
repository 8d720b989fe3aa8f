"""Evaluation on the way: it changes no weight, and whatever it is read on counts as selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_tuning
from support.command_results import Cli
from support.quick_tuning import QUICK
from support.tiny_tuning import same, weights, write_rows

import tuneport
from tuneport.errors import DataError, TuneportError, UsageError
from tuneport.examples.digests import example_digest, read_digests
from tuneport.tuning.recipes import SftRecipe, TuningRun
from tuneport.tuning.run import tune


def test_evaluation_on_the_way_writes_a_curve_and_changes_no_weight(
    base: Path, sums: Path, full: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    rows = [{"prompt": row["prompt"], "answer": row["completion"].strip()} for row in tiny_tuning.sums(8)]
    test = write_rows(tmp_path / "test.jsonl", rows)
    out = tune(base, [sums], QUICK, out=tmp_path / "out", eval_every=5, tasks=(str(test),)).out
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [5, 10, 12]
    assert all(point["tasks"]["test"]["n"] == 8 for point in curve)
    assert same(weights(out), weights(full))


def test_what_counts_in_an_answer_is_what_evaluate_counts(base: Path, sums: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 8, "device": "cpu", "allow_selection": True}
    questions = write_rows(
        tmp_path / "test.jsonl", [{"prompt": row["prompt"], "answer": "?"} for row in tiny_tuning.sums(8)]
    )
    tuneport.evaluate([base], [questions], tmp_path / "said.json", **asked)
    said = [json.loads(line)["said"] for line in (tmp_path / "said.examples.jsonl").read_text().splitlines()]
    rows = [{"prompt": row["prompt"], "answer": text[0]} for row, text in zip(tiny_tuning.sums(8), said, strict=True)]
    test = write_rows(tmp_path / "test.jsonl", rows)  # of what the model says, its first letter is right
    for match, right in ((r"^(.)", 1.0), (None, 0.0)):
        running = TuningRun(eval_every=1, tasks=(str(test),), match=match, max_new_tokens=8)
        nothing = SftRecipe(steps=1, learning_rate=1e-12)
        out = tune(base, [sums], nothing, out=tmp_path / f"out-{right}", **vars(running)).out
        (point,) = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
        assert point["tasks"]["test"]["value"] == right


def test_an_expression_that_is_none_is_told_before_anything_is_trained(base: Path, sums: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.jsonl", [{"prompt": "1 + 1 =", "answer": "2"}])
    with pytest.raises(UsageError, match=r"match='\('"):
        tune(base, [sums], QUICK, out=tmp_path / "out", eval_every=1, tasks=(str(test),), match="(")
    with pytest.raises(UsageError, match="applies to answers"):
        TuningRun(match="x")
    assert not list(tmp_path.glob("out*"))


def test_what_a_curve_is_read_on_is_noted_as_selection_and_told_where_it_is_trained_on(
    base: Path, sums: Path, tmp_path: Path, cli: Cli
) -> None:
    rows = [{"prompt": f"{n} + 1 =", "answer": "9"} for n in (5, 20, 30)]  # the first stands in the training data
    (tmp_path / "curve").mkdir()
    curve = write_rows(tmp_path / "curve" / "held-out.jsonl", rows)
    running = TuningRun(eval_every=2, tasks=(str(curve),), max_new_tokens=4)
    done = tune(base, [sums], SftRecipe(steps=2), out=tmp_path / "out", **vars(running))
    (warning,) = (warning for warning in done.warnings if "curve" in warning)
    assert "1 of 3 examples of held-out (held-out.jsonl)" in warning and "training data (1)" in warning
    assert done.record["selection"] == [{"task": "held-out", "data": "held-out.jsonl", "examples": 3}]
    selected = read_digests(done.out / "tune-hashes.txt", selection=True)
    assert {example_digest(row["prompt"]) for row in rows} <= selected
    assert example_digest("20 + 1 =") not in read_digests(done.out / "tune-hashes.txt")

    asked = ["--trained-on", done.out, "--max-new-tokens", "4", "--device", "cpu", "--out", tmp_path / "scores.json"]
    refused = cli("evaluate", done.out, "--tasks", curve, *asked)
    assert refused.status == 1 and "3 of 3 examples of held-out were used for selection" in refused.err
    assert cli("evaluate", done.out, "--tasks", curve, *asked, "--allow-selection").status == 0
    others = write_rows(tmp_path / "test.jsonl", [{"prompt": "40 + 1 =", "answer": "41"}])
    fresh = cli("evaluate", done.out, "--tasks", others, *asked, "--overwrite")
    assert fresh.status == 0 and "selection" not in fresh.err, fresh.err


def test_faults_of_a_curves_examples_are_told_before_anything_is_trained(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    wrong = write_rows(tmp_path / "test.jsonl", [{"prompt": "1 + 1 ="}])
    with pytest.raises(DataError, match=r"test\.jsonl has the column `prompt`; an example needs"):
        tune(base, [sums], QUICK, out=tmp_path / "out", eval_every=5, tasks=(str(wrong),))
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ((), "the examples are `messages`, but the model has no chat template"),
        (("no-such-task",), "the harness has no task of this name"),
        (("gsm8k",), "The task gsm8k: Its data is not in the cache"),
    ],
)
def test_a_curve_that_cannot_be_read_is_told_before_anything_is_trained(
    base: Path, sums: Path, tmp_path: Path, tasks: tuple[str, ...], told: str
) -> None:
    talk = write_rows(tmp_path / "talk.jsonl", [{"messages": [{"role": "user", "content": "a"}], "answer": "b"}])
    with pytest.raises(TuneportError, match=told):
        tune(base, [sums], QUICK, out=tmp_path / "out", eval_every=5, tasks=tasks or (str(talk),))
    assert not list(tmp_path.glob("out*"))
