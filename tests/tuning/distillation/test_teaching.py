"""Who answers what: refusals before anything is loaded, answers that are recorded once, runs that were killed in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command_results import Cli
from support.tiny_tuning import log_of, same, weights, write_rows

from tuneport.errors import CheckpointError, DataError, TakenError, UsageError
from tuneport.examples.questions import read_tasks
from tuneport.scoring.answers.answer_losses import LikeliestTokens
from tuneport.scoring.models import Loading, find_models, load
from tuneport.tuning.distillation import record_answers as recorder
from tuneport.tuning.distillation import recording
from tuneport.tuning.distillation.record_answers import record_answers
from tuneport.tuning.distillation.recording import Spoken
from tuneport.tuning.recipes import DistilRecipe
from tuneport.tuning.run import rehearse, tune

QUICK: dict[str, Any] = {"steps": 4, "learning_rate": 1e-2, "batch_size": 5, "max_completion_length": 8}


class KilledError(BaseException):
    """Nothing on the way turns it into words."""


def test_a_teacher_must_be_named_and_must_be_a_model(base: Path, prompts: Path, tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(UsageError) as caught:
        DistilRecipe()
    assert [fault.option for fault in caught.value.faults] == ["teacher"]
    with pytest.raises(CheckpointError, match=r"teacher: .*no such folder"):
        tune(base, [prompts], DistilRecipe(teacher="./nowhere"), out=tmp_path / "out")
    done = cli("tune", base, "--data", prompts, "--recipe", "distil", "--out", tmp_path / "out")
    assert done.status == 2 and "--teacher" in done.err


def test_messages_that_end_with_an_answer_are_refused(base: Path, teacher: Path, chats: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ends with an answer"):
        tune(base, [chats], DistilRecipe(teacher=teacher), out=tmp_path / "out")


def test_the_model_as_its_own_teacher_is_warned_about(base: Path, prompts: Path, tmp_path: Path) -> None:
    told = rehearse(base, data=[prompts], recipe="distil", teacher=base, out=tmp_path / "out")
    assert any("the model itself" in warning for warning in told["warnings"])
    assert told["teacher"]["memory"] > 0 and told["teacher"]["disk"] > 10 * 257 * 8 * 300
    assert told["seconds"]["answering"] > 0
    assert "teacher          base" in told.in_words()


def test_an_output_does_not_replace_the_teacher(base: Path, teacher: Path, prompts: Path, cli: Cli) -> None:
    given = (
        "tune",
        base,
        "--data",
        prompts,
        "--recipe",
        "distil",
        "--teacher",
        teacher,
        "--out",
        teacher,
        "--overwrite",
    )
    done = cli(*given)
    assert done.status == 1 and "an input" in done.err and (teacher / "tune.json").exists()


def test_answers_that_were_recorded_teach_what_their_model_teaches(
    base: Path, teacher: Path, prompts: Path, tmp_path: Path
) -> None:
    (seat,) = find_models([str(teacher)])
    model = load(seat, Loading(), lambda told: None)
    tasks = read_tasks([prompts], asked=True)
    record_answers(model, tasks, tmp_path / "said", longest=8, about={"teacher": "A + Δ"})
    by_model = tune(base, data=[prompts], recipe="distil", teacher=teacher, out=tmp_path / "one", **QUICK)
    by_record = tune(base, data=[prompts], recipe="distil", teacher=tmp_path / "said", out=tmp_path / "other", **QUICK)
    assert same(weights(by_model.out), weights(by_record.out))
    assert by_record.record["plan"]["teacher"]["name"] == "A + Δ"
    more = write_rows(tmp_path / "more.jsonl", [{"prompt": "the fox"}])
    with pytest.raises(DataError, match=r"no answer to 1 of 1 prompts"):
        tune(base, data=[more], recipe="distil", teacher=tmp_path / "said", out=tmp_path / "third", **QUICK)
    with pytest.raises(TakenError):  # another question in a folder that is not whole yet
        (tmp_path / "said" / recording.RECORD).unlink()
        record_answers(model, read_tasks([more], asked=True), tmp_path / "said")


def test_a_run_killed_while_the_teacher_answers_goes_on_where_it_was(
    base: Path, teacher: Path, prompts: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "LOT", 4)
    choices: dict[str, Any] = {"data": [prompts], "recipe": "distil", "teacher": teacher, "retain": [texts], **QUICK}
    unbroken = tune(base, out=tmp_path / "unbroken", **choices).out
    real, out, asked = recorder.write_lot, tmp_path / "killed", []

    def killed(path: Path, *given: Any) -> None:
        asked.append(path.name)
        if len(asked) in (2, 6):
            raise KilledError
        real(path, *given)

    monkeypatch.setattr(recorder, "write_lot", killed)
    for _ in range(2):  # in the second lot of answers, then in the second one of texts
        with pytest.raises(KilledError):
            tune(base, out=out, **choices)
    resumed = tune(base, out=out, **choices).out
    # Lots 0 and 1, killed; 1 and 2, and the texts' 0 and 1, killed; 1.
    assert asked == [f"lot-{number:05d}.safetensors" for number in (0, 1, 1, 2, 0, 1, 1)][: len(asked)]
    assert len(asked) == 7
    assert same(weights(resumed), weights(unbroken))
    assert tune(base, out=out, **choices).already_done
    assert [line["loss"] for line in log_of(resumed)] == [line["loss"] for line in log_of(unbroken)]


def test_a_lot_comes_back_as_it_was_and_rows_must_be_as_many_as_tokens(tmp_path: Path) -> None:
    found = LikeliestTokens(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    path, strings = recording.lot_path(tmp_path, 0), {0: "a"}
    said = Spoken("key", "a", ("a",), ended=True)
    recording.write_lot(path, [(said, found)], strings, [0])
    (heard,) = recording.read_recording(tmp_path).values()
    assert (heard.spoken, heard.strings, heard.ends) == (said, strings, {0})
    assert heard.expected.ids.tolist() == found.ids.tolist()
    recording.write_lot(path, [(replace(said, ended=False), found)], strings, [0])
    with pytest.raises(DataError, match="differ in number"):
        recording.read_recording(tmp_path)


def test_a_file_that_holds_no_answers_is_told(tmp_path: Path) -> None:
    recording.lot_path(tmp_path, 0).write_bytes(b"no answers")
    (tmp_path / recording.RECORD).write_text(json.dumps({"format": "another"}))
    for reading in (recording.read_recording, recording.about_of):
        with pytest.raises(DataError, match="again"):
            reading(tmp_path)
