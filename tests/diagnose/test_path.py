"""The verb on real tiny models: what it says of a line is what `evaluate` says of folders written at its points."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import tiny
import tiny_scored
from ran import Cli

import tuneport
from diagnose.tiny_lines import between, mirror, renumber
from tuneport.errors import CheckpointError, OutputError, PairingError, UsageError
from tuneport.transfer.choices import Choices

SHORT: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in out.with_suffix(".examples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found
    return found


@pytest.fixture(scope="module")
def walked(ends: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """From `half` to `all` and beyond it, on questions."""
    out = tmp_path_factory.mktemp("walked") / "path.json"
    record = tuneport.path(
        ends / "half", ends / "all", [ends / "towns.jsonl"], out, beyond=1.5, threshold=0.05, **SHORT
    )
    return record, out


def test_losses_and_accuracies_are_those_of_folders_written_at_the_points(
    ends: Path, walked: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    record, _ = walked
    at = dict(zip(record["alphas"], zip(record["loss"], record["accuracy"], strict=True), strict=True))
    assert {0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5} < set(at)
    assert len(at) == 7 + 4
    a, b = ends / "half", ends / "all"
    folders = [a, b, between(a, b, tmp_path / "middle", 0.5), between(a, b, tmp_path / "beyond", 1.25)]
    asked = ([ends / "towns.jsonl"], tmp_path / "loss.json"), ([ends / "towns.jsonl"], tmp_path / "accuracy.json")
    losses = tuneport.evaluate(folders, *asked[0], loss=True, device="cpu")
    answers = tuneport.evaluate(folders, *asked[1], **SHORT)
    for alpha, loss, answer in zip((0, 1, 0.5, 1.25), losses["models"], answers["models"], strict=True):
        wanted = loss["tasks"]["towns"]["value"], answer["tasks"]["towns"]["value"]
        # The ends are the very models; the points between are rounded once more by the way over a folder.
        assert at[alpha][0] == pytest.approx(wanted[0], rel=1e-9 if alpha in (0, 1) else 1e-4)
        assert at[alpha][1] == wanted[1]
    assert (at[0.0][1], at[1.0][1]) == (0.5, 1.0)


def test_the_record_can_be_computed_again_from_the_outcomes_beside_it(walked: tuple[dict[str, Any], Path]) -> None:
    record, out = walked
    found = lines(out)
    assert len(found) == 12 * len(record["alphas"])
    by_point: dict[float, list[dict[str, Any]]] = {}
    for line in found:
        by_point.setdefault(line["alpha"], []).append(line)

    def mean(alpha: float, half: str | None = None) -> float:
        chosen = [line for line in by_point[alpha] if half in (None, line["half"])]
        return sum(line["loss"] * line["tokens"] for line in chosen) / sum(line["tokens"] for line in chosen)

    def rise(alpha: float, half: str | None = None) -> float:
        return mean(alpha, half) - (1 - alpha) * mean(0.0, half) - alpha * mean(1.0, half)

    assert record["loss"] == pytest.approx([mean(alpha) for alpha in record["alphas"]])
    assert record["halves"]["measuring"]["loss"] == pytest.approx([mean(a, "measuring") for a in record["alphas"]])
    assert record["rise"] == pytest.approx([rise(a) if a <= 1 else None for a in record["alphas"]])
    assert record["accuracy"] == [sum(line["right"] for line in by_point[alpha]) / 12 for alpha in record["alphas"]]
    inner = [alpha for alpha in record["alphas"] if 0 < alpha < 1]
    assert record["at"] == max(inner, key=lambda alpha: rise(alpha, "locating"))
    assert record["barrier"] == pytest.approx(rise(record["at"], "measuring"))
    assert record["interval"][0] <= record["barrier"] <= record["interval"][1]
    assert (record["n"], record["tokens"]) == (12, sum(line["tokens"] for line in by_point[0.0]))
    assert record["halves"]["locating"]["n"] == record["halves"]["measuring"]["n"] == 6
    assert json.loads(out.read_text(encoding="utf-8")) == {k: v for k, v in record.items() if k != "already_done"}


def test_a_record_names_its_inputs_by_digest_and_nothing_of_this_machine(
    ends: Path, walked: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    record, out = walked
    assert str(ends) not in out.read_text()
    assert str(ends) not in out.with_suffix(".examples.jsonl").read_text()
    choices = Choices(digest_inputs=True)
    manifest = tuneport.transfer(ends / "half", ends / "all", ends / "half", tmp_path / "t", choices).manifest
    base, tuned, _ = manifest["inputs"]
    assert (record["plan"]["a"]["digest"], record["plan"]["b"]["digest"]) == (base["digest"], tuned["digest"])


def test_the_same_again_is_already_done_and_anything_else_is_refused(
    ends: Path, walked: tuple[dict[str, Any], Path]
) -> None:
    record, out = walked
    same: dict[str, Any] = {"beyond": 1.5, "threshold": 0.05, **SHORT}
    os.utime(ends / "all" / "model.safetensors")  # touched, not changed
    again = tuneport.path(ends / "half", ends / "all", [ends / "towns.jsonl"], out, **same)
    assert again == {**record, "already_done": True}
    with pytest.raises(OutputError, match=r"settings\.threshold \(then 0\.05, now 0\.1\)"):
        tuneport.path(ends / "half", ends / "all", [ends / "towns.jsonl"], out, **{**same, "threshold": 0.1})


def test_where_configs_differ_the_line_is_asked_for_and_computed_by_the_second_ones(ends: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ends / "half", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    data = [ends / "texts.jsonl"]
    with pytest.raises(PairingError, match="rms_norm_eps"):
        tuneport.path(other, ends / "all", data, points=3, refine=0, device="cpu")
    record = tuneport.path(other, ends / "all", data, points=3, refine=0, device="cpu", allow_config=True)
    assert record["loss"] == tuneport.path(ends / "half", ends / "all", data, points=3, refine=0, device="cpu")["loss"]
    assert any("`rms_norm_eps` is 0.1 in A and 1e-06 in B" in warning for warning in record["warnings"])


def test_from_a_model_to_itself_there_is_no_barrier(ends: Path) -> None:
    record = tuneport.path(ends / "all", ends / "all", [ends / "texts.jsonl"], threshold=0.01, device="cpu")
    assert (record["data"], record["accuracy"], record["examples"]) == ("texts", None, None)
    assert record["alphas"] == [0, 0.25, 0.5, 0.75, 1]  # a straight line is not looked at more closely
    assert len(set(record["loss"])) == 1
    assert record["barrier"] == pytest.approx(0, abs=1e-12)
    assert record["connected"] is True


def test_between_a_function_and_its_mirror_image_lies_the_barrier_that_can_be_foreseen(
    ends: Path, tmp_path: Path
) -> None:
    other = mirror(ends / "all", tmp_path / "mirrored")
    record = tuneport.path(ends / "all", other, [ends / "towns.jsonl"], threshold=0.05, points=3, **SHORT)
    assert record["loss"][0] == pytest.approx(record["loss"][-1], rel=1e-4)
    assert (record["accuracy"][0], record["accuracy"][-1]) == (1.0, 1.0)
    # In the middle all 44 words are equally likely.
    middle = record["alphas"].index(0.5)
    assert record["loss"][middle] == pytest.approx(math.log(44), rel=1e-6)
    assert record["accuracy"][middle] == 0
    assert record["at"] == 0.5
    assert record["barrier"] == pytest.approx(math.log(44) - record["halves"]["measuring"]["loss"][0], rel=1e-3)
    assert record["connected"] is False
    assert len(record["alphas"]) == 3 + 4


def test_a_model_and_itself_with_renumbered_tokens_are_one_point(ends: Path, tmp_path: Path) -> None:
    other = renumber(ends / "all", tmp_path / "renumbered", 5)
    record = tuneport.path(ends / "all", other, [ends / "towns.jsonl"], **SHORT)
    assert record["loss"] == pytest.approx([record["loss"][0]] * len(record["loss"]), rel=1e-4)
    assert set(record["accuracy"]) == {1.0}
    assert record["rows"] == {"matched": 44, "only_a": 0, "only_b": 0}
    assert record["warnings"] == []


def test_tokens_that_only_one_model_has_are_told(ends: Path, tmp_path: Path) -> None:
    other = renumber(ends / "all", tmp_path / "renumbered", 5, inserted=3)
    record = tuneport.path(ends / "all", other, [ends / "towns.jsonl"], alphas=[0.5], loss_only=True, device="cpu")
    assert record["rows"] == {"matched": 44, "only_a": 0, "only_b": 3}
    assert any("3 that only renumbered has stay as they are" in warning for warning in record["warnings"])
    back = tuneport.path(other, ends / "all", [ends / "towns.jsonl"], alphas=[0.5], loss_only=True, device="cpu")
    assert back["rows"] == {"matched": 44, "only_a": 3, "only_b": 0}
    assert any("3 that only renumbered has are left out" in warning for warning in back["warnings"])
    assert back["loss"] == pytest.approx([back["loss"][-1]] * 3, rel=1e-4)
    assert record["alphas"] == [0, 0.5, 1]
    assert record["accuracy"] is None


def test_a_killed_run_goes_on_and_ends_with_the_same_record(
    ends: Path, walked: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    record, _ = walked
    out = tmp_path / "path.json"

    def run() -> dict[str, Any]:
        choices: dict[str, Any] = {"beyond": 1.5, "threshold": 0.05, **SHORT}
        return dict(tuneport.path(ends / "half", ends / "all", [ends / "towns.jsonl"], out, **choices))

    kept: list[int] = []
    for after in (3, 9, 1):
        child = os.fork()
        if not child:
            _die_after(after)
            run()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert [path.name for path in tmp_path.iterdir()] == ["path.json.partial"]
        kept.append(len(list((tmp_path / "path.json.partial").glob("0*-0*.json"))))
    assert kept == [3, 12, 13]
    assert run() == record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["path.examples.jsonl", "path.json"]


def _die_after(count: int) -> None:
    """End this process from outside, as it were, once it has kept so many results."""
    from tuneport.evaluate import keeping

    put, done = keeping.Kept.put, []

    def put_and_die(*arguments: Any) -> None:
        put(*arguments)
        done.append(1)
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    keeping.Kept.put = put_and_die  # type: ignore[method-assign] # in the child process, which ends here


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"points": 2}, "--points 2: give at least 3"),
        ({"alphas": [0.5], "points": 4}, "leave out --points"),
        ({"alphas": [float("nan")]}, "--alphas"),
        ({"beyond": 0.5}, "--beyond 0.5: give a number above 1"),
        ({"refine": -1}, "--refine -1"),
        ({"threshold": -0.1}, "--threshold -0.1"),
        ({"batch_size": 0}, "--batch-size 0"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(ends: Path, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tuneport.path(ends / "half", ends / "all", [ends / "towns.jsonl"], **choices)


def test_data_that_gives_no_one_curve_is_refused(ends: Path, tmp_path: Path) -> None:
    a, b = ends / "half", ends / "all"
    with pytest.raises(UsageError, match="mixes texts and questions"):
        tuneport.path(a, b, [ends / "towns.jsonl", ends / "texts.jsonl"])
    few = tiny_scored.write_rows(tmp_path / "few.jsonl", tiny_scored.rows()[:3])
    with pytest.raises(UsageError, match="3 examples; a barrier needs at least 4"):
        tuneport.path(a, b, [few])
    choices = [{"prompt": "where ?", "choices": ["in rome", "in oslo"], "answer": 0}]
    with pytest.raises(UsageError, match="choices"):
        tuneport.path(a, b, [tiny_scored.write_rows(tmp_path / "choices.jsonl", choices)])
    with pytest.raises(UsageError, match="No data"):
        tuneport.path(a, b, [])


def test_models_without_a_line_between_them_are_refused(ends: Path, tmp_path: Path) -> None:
    adapter = tiny.write_lora(tmp_path / "adapter", tiny.read_weights(ends / "all"), 2)
    for pair in ((ends / "all", adapter), (adapter, ends / "all")):
        with pytest.raises(PairingError, match="is a PEFT adapter"):
            tuneport.path(*pair, [ends / "towns.jsonl"])
    with pytest.raises(CheckpointError, match="no such folder"):
        tuneport.path(ends / "all", tmp_path / "nowhere", [ends / "towns.jsonl"])


def test_on_the_command_line_it_tells_curve_and_barrier(ends: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ["--data", ends / "texts.jsonl", "--alphas", "0.5,1.5", "--threshold", "0.5", "--device", "cpu"]
    told = cli("path", ends / "half", ends / "all", *flags, "--out", tmp_path / "o.json")
    assert told.status == 0, told.err
    assert "above the line" in told.out
    assert "against the threshold 0.5: " in told.out
    again = cli("path", ends / "half", ends / "all", *flags, "--out", tmp_path / "o.json", "--json")
    record = json.loads(again.out)
    assert record["already_done"]
    assert record["alphas"] == [0, 0.5, 1, 1.5]
    wrong = cli("path", ends / "half", ends / "all", "--data", ends / "texts.jsonl", "--alphas", "0,x")
    assert (wrong.status, "--alphas '0,x'" in wrong.err) == (2, True)
