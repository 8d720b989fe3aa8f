"""What a record holds, and what counts as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tuneport.studies.graph.graph import Parent, Step
from tuneport.studies.run import step_records

FAMILY = Step("family", "family", {"recipe": "versions", "size": "small", "seed": 0})
STEP = Step(
    "evaluate",
    "evaluate M4",
    {"suite": None, "settings": {"max_new_tokens": 24}, "seed": 0, "tasks.1": {"given": "gsm8k", "digest": None}},
    {"model": Parent(FAMILY, "M4"), "tasks.0": Parent(FAMILY, "questions.jsonl")},
    {"model": "M4"},
    {"tasks.1": "gsm8k"},
)


def test_a_record_read_again_is_the_same() -> None:
    record = step_records.ended(
        STEP, "done", measured={"tasks": {}}, outputs={"a": {"size": 1, "blake3": "x"}}, seconds=1.23456
    )
    assert step_records.read(record.content()) == record
    found = json.loads(record.content())
    assert (found["format"], found["seconds"]) == ("tuneport.record/1", 1.235)
    assert found["parents"]["model"] == {"name": "family", "identity": FAMILY.identity, "part": "M4"}
    assert found["command"] == (
        f"tuneport evaluate steps/{FAMILY.folder}/family/M4 --tasks steps/{FAMILY.folder}/family/questions.jsonl,gsm8k "
        f"--max-new-tokens 24 --out steps/{STEP.folder}/scores.json"
    )


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(step_records.ended(STEP, "done").in_json())


@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.binary(max_size=30))
def test_whatever_is_no_record_counts_for_nothing(changed: dict[str, Any], garbage: bytes) -> None:
    whole = step_records.ended(STEP, "done", outputs={"a": {"size": 1, "blake3": "x"}})
    assert step_records.read(garbage) is None
    assert step_records.read(whole.content()[:-9] + garbage[:3]) is None
    found = step_records.read(json.dumps(whole.in_json() | changed).encode())
    if found is not None:
        step_records.lost(found, {"a": 1})
        assert isinstance(found.digest, str)
        assert found.outcome in ("done", "failed", "dropped")


def test_outputs_are_every_finished_file_and_records_of_commands_have_no_digest(tmp_path: Path) -> None:
    for name in (
        "model/a.safetensors",
        "model/tuneport.json",
        "model.partial/b",
        "scores.json",
        "record.json",
        "error.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").touch()
    found = step_records.outputs_of(tmp_path)
    assert found == {
        "empty": {"size": 0, "blake3": blake3(b"").hexdigest()},
        "model/a.safetensors": {"size": 19, "blake3": blake3(b"model/a.safetensors").hexdigest()},
        "model/tuneport.json": None,
        "scores.json": None,
    }
    record = step_records.ended(STEP, "done", outputs=found)
    sizes = {"empty": 0, "model/a.safetensors": 19, "model/tuneport.json": 5, "scores.json": 7, "more": 1}
    assert step_records.lost(record, sizes) == []
    assert step_records.lost(record, {**sizes, "model/a.safetensors": 18}) == ["model/a.safetensors"]
    del sizes["scores.json"]
    assert step_records.lost(record, sizes) == ["scores.json"]


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        ({"a": None}, {"a": None}, []),
        ({"a": None}, {}, ["a"]),
        ({}, {"a": {"size": 1}}, ["a"]),
        ({"a": 1}, {"a": 2}, ["a"]),
    ],
)
def test_what_differs_between_two_lists_of_outputs(before: Any, now: Any, names: list[str]) -> None:
    assert step_records.different(before, now) == names
