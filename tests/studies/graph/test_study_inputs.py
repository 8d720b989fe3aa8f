"""What a study takes from outside: found beside its file, and known by what it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny

from tuneport.errors import StudyError
from tuneport.studies.graph import study_inputs
from tuneport.studies.graph.graph import Step
from tuneport.studies.graph.study_inputs import Inputs


def kept(record: dict[str, object]) -> bytes:
    return json.dumps(record).encode()


def test_a_model_is_known_by_weights_and_sidecars_and_not_by_its_card(tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "v1", tiny.llama(0))
    first = Inputs(tmp_path).model("v1")
    assert first.given == "v1" and first.place == str(tmp_path / "v1")
    (tmp_path / "v1" / "README.md").write_text("a card")
    assert Inputs(tmp_path).model("v1").digest == first.digest
    config = json.loads((tmp_path / "v1" / "config.json").read_text())
    (tmp_path / "v1" / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert Inputs(tmp_path).model("v1").digest != first.digest
    tiny.write_model(tmp_path / "v1", tiny.llama(1))
    assert Inputs(tmp_path).model("v1").digest != first.digest


def test_what_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_model(tmp_path / "v1", tiny.llama(0))
    (tmp_path / "mine.jsonl").write_text("{}\n")
    first = Inputs(tmp_path)
    digests = first.model("v1").digest, first.data("mine.jsonl").digest
    assert str(tmp_path) not in json.dumps(first.record())

    def read(file: Path) -> str:
        raise AssertionError(f"{file} was read again")

    with monkeypatch.context() as patched:
        patched.setattr(study_inputs, "_file_digest", read)
        again = Inputs.kept(tmp_path, kept(first.record()))
        assert (again.model("v1").digest, again.data("mine.jsonl").digest) == digests
        assert again.record() == first.record()
    (tmp_path / "mine.jsonl").write_text("[]\n")
    os.utime(tmp_path / "mine.jsonl", ns=(1, 1))
    changed = Inputs.kept(tmp_path, kept(first.record()))
    assert changed.data("mine.jsonl").digest != digests[1] and changed.model("v1").digest == digests[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"v1": 3}', b'{"v1": {"files": {}, "digest": 1}}', None])
def test_a_damaged_list_of_digests_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    tiny.write_model(tmp_path / "v1", tiny.llama(0))
    digest = Inputs.kept(tmp_path, content).model("v1").digest
    assert digest == Inputs(tmp_path).model("v1").digest


def test_names_of_the_hub_and_of_tasks_stand_as_they_are_written(tmp_path: Path) -> None:
    taken = Inputs(tmp_path)
    assert taken.model("org/model@main").choice == {"given": "org/model@main", "digest": None}
    assert taken.data("gsm8k").place == "gsm8k"
    assert taken.data("x" * 5000).digest is None and taken.data("a\0b").digest is None, "no name is an error"


def test_a_path_of_this_machine_is_not_spelled_out(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}\n")
    found = Inputs(tmp_path / "elsewhere").data(str(tmp_path / "mine.jsonl"))
    assert found.given == "mine.jsonl" and found.place == str(tmp_path / "mine.jsonl") and found.digest is not None


def test_a_folder_that_is_no_model_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    with pytest.raises(StudyError, match="v1"):
        Inputs(tmp_path).model("v1")


def test_the_same_examples_in_another_format_are_the_same_step_and_others_are_another(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"prompt": "a", "answer": 7}\n{"prompt": "b", "answer": "8"}\n')
    (tmp_path / "test.csv").write_text("question,answer,level\na,7,easy\nb,8,hard\n")
    (tmp_path / "other.csv").write_text("question,answer\na,7\nb,9\n")
    taken = Inputs(tmp_path)

    def identity(spec: str) -> str:
        thing = taken.data(spec, questions=True)
        assert thing.given == spec and thing.place == f"{tmp_path}/{spec}"
        return Step("evaluate", "evaluate M1", {"tasks.0": thing.choice}).identity

    named = "csv?prompt:question"
    assert identity("test.jsonl") == identity(f"test.{named}") != identity(f"other.{named}")
    rows = [taken.data(spec).digest for spec in ("test.jsonl", "test.csv")]
    assert rows[0] != rows[1], "to train on, other columns are other data"
    assert Inputs(tmp_path, taken.record()).data("test.jsonl", questions=True) == taken.data(
        "test.jsonl", questions=True
    )
    (tmp_path / "torn.csv").write_text("prompt,answer\na\n")
    with pytest.raises(StudyError, match=r"torn\.csv: line 2"):
        taken.data("torn.csv", questions=True)
