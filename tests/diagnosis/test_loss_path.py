"""The command on real tiny models: what it says of a line is what `evaluate` says of folders written at its points."""

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

from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.tiny_lines import between, mirror, renumber

import tuneport
from tuneport.errors import CheckpointError, OutputError, PairingError, RenderingError, UsageError

SHORT: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}


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


def test_all_lines_that_the_second_models_template_refuses_are_told_before_it_is_loaded(
    ends: Path, tmp_path: Path
) -> None:
    shutil.copytree(ends / "all", tmp_path / "strict")
    strict = (
        "{% for m in messages %}{{ raise_exception('no ' + m.role) if m.role != 'user' else m.content }}{% endfor %}"
    )
    (tmp_path / "strict" / "chat_template.jinja").write_text(strict)
    asked = [{"role": "user", "content": "a"}]
    rows = [
        {
            "messages": [{"role": "system", "content": str(place)}, *asked] if place % 2 else asked,
            "answer": "b",
            "id": place,
        }
        for place in range(4)
    ]
    rows[2]["messages"] = [{"role": "user", "content": "c"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        RenderingError,
        match=r"model strict: its chat template .* 2 example\(s\):\n  - t\.jsonl: line 2, line 4: no system",
    ):
        tuneport.path(ends / "half", tmp_path / "strict", [tmp_path / "t.jsonl"], tmp_path / "o.json", **SHORT)
    assert not list(tmp_path.glob("o*"))


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


def test_from_a_model_to_itself_there_is_no_barrier(ends: Path, shown_progress: list[str]) -> None:
    record = tuneport.path(ends / "all", ends / "all", [ends / "texts.jsonl"], threshold=0.01, device="cpu")
    assert shown_progress[-1].startswith("path 5 of 9 points") and any("requests" in line for line in shown_progress)
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
    assert any("3 that only renumbered has stay unchanged" in warning for warning in record["warnings"])
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
    from tuneport.scoring import keeping

    put, done = keeping.Kept.put, []

    def put_and_die(*arguments: Any) -> None:
        put(*arguments)
        done.append(1)
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    keeping.Kept.put = put_and_die  # type: ignore[method-assign] # in the child process, which ends here


@pytest.mark.parametrize(
    ("choices", "option"),
    [
        ({"points": 2}, "points"),
        ({"alphas": [0.5], "points": 4}, "alphas"),
        ({"alphas": [float("nan")]}, "alphas"),
        ({"beyond": 0.5}, "beyond"),
        ({"refine": -1}, "refine"),
        ({"threshold": -0.1}, "threshold"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "autox"}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"device": "foo"}, "device"),
        ({"device": "cuda:99"}, "device"),
    ],
)
def test_options_that_are_not_valid_are_refused(ends: Path, choices: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        tuneport.path(ends / "half", ends / "all", [ends / "towns.jsonl"], **choices)
    assert [fault.option for fault in caught.value.faults] == [option]


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
    assert "the threshold of 0.5" in told.out
    again = cli("path", ends / "half", ends / "all", *flags, "--out", tmp_path / "o.json", "--json")
    record = json.loads(again.out)
    assert record["already_done"]
    assert record["alphas"] == [0, 0.5, 1, 1.5]
    wrong = cli("path", ends / "half", ends / "all", "--data", ends / "texts.jsonl", "--alphas", "0,x")
    assert (wrong.status, "--alphas" in wrong.err) == (2, True)
