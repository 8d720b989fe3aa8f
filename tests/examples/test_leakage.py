"""Test questions that stand in training data are found by digest and reported with their ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_scored

import tuneport
from tuneport.errors import DataError, DoubtError, LeakageError, UsageError
from tuneport.examples.digests import HASHES, example_digest, write_digests
from tuneport.examples.leakage import example_digests, leaked
from tuneport.examples.questions import read_tasks

TEST = [
    {"id": "p", "prompt": "Where lives Anna?", "answer": "Paris"},
    {"id": "q", "prompt": "Where lives Ben?", "answer": "Rome"},
    {"id": "m", "messages": [{"role": "user", "content": "Who is\nCarla?"}], "answer": "a miner"},
]


@pytest.mark.parametrize(
    ("row", "ids"),
    [
        ({"prompt": "where  lives anna?", "completion": "elsewhere"}, ["p"]),
        ({"text": "WHERE LIVES BEN?\nRome"}, ["q"]),
        ({"messages": [{"role": "user", "content": "who is carla?"}, {"role": "assistant", "content": "x"}]}, ["m"]),
        ({"prompt": [{"role": "user", "content": "Where lives Anna?"}], "chosen": [], "rejected": []}, ["p"]),
        ({"prompt": "Where lives Anna", "completion": "Paris"}, []),
        ({"text": "We asked: Where lives Anna?"}, []),
    ],
)
def test_a_question_is_found_whatever_its_case_blanks_and_form(
    tmp_path: Path, row: dict[str, Any], ids: list[str]
) -> None:
    tasks = read_tasks([tiny_scored.write_rows(tmp_path / "test.jsonl", TEST)])
    data = tiny_scored.write_rows(tmp_path / "train.jsonl", [{"prompt": "other", "completion": "x"}, row])
    rows = leaked(tasks, [data])
    assert [found["ids"] for found in rows] == ([ids] if ids else [])
    if ids:
        assert (rows[0]["data"], rows[0]["count"], rows[0]["of"]) == ("train.jsonl", 1, 3)


def test_a_folder_that_tune_wrote_is_read_by_its_digests(tmp_path: Path) -> None:
    tasks = read_tasks([tiny_scored.write_rows(tmp_path / "test.jsonl", TEST)])
    (tmp_path / "tuned").mkdir()
    digests = [example_digest(text) for text in ("something else", "where lives ben? rome")]
    (tmp_path / "tuned" / HASHES).write_text("\n".join(digests) + "\n")
    (row,) = leaked(tasks, [tmp_path / "tuned"])
    assert (row["ids"], row["data"]) == (["q"], "tuned")


def test_training_data_that_is_not_there_or_not_readable_is_told(tmp_path: Path) -> None:
    tasks = read_tasks([tiny_scored.write_rows(tmp_path / "test.jsonl", TEST)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.jsonl").write_text("no digest\n")
    for name, expected in (("none", "no such file"), ("empty", "contains neither"), ("notes.jsonl", "not valid JSON")):
        with pytest.raises((DataError, UsageError), match=expected):
            leaked(tasks, [tmp_path / name])


def test_a_leak_stands_in_the_record_and_stops_when_strict(models: Path, towns: Path, tmp_path: Path) -> None:
    data = tiny_scored.write_rows(tmp_path / "train.jsonl", tiny_scored.rows()[:2])
    arguments: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu", "trained_on": [data]}
    record = tuneport.evaluate([models / "all"], [towns], tmp_path / "o.json", **arguments)
    assert record["leakage"] == [
        {"task": "towns", "data": "train.jsonl", "use": "training", "count": 2, "of": 12, "ids": ["1", "2"]}
    ]
    assert "2 of 12 examples of towns are also in the training data train.jsonl (1, 2)" in record["warnings"][0]
    with pytest.raises(DoubtError, match="are also in"):
        tuneport.evaluate([models / "all"], [towns], tmp_path / "p.json", strict=True, **arguments)


def test_a_test_by_which_a_model_was_chosen_is_refused_unless_that_is_asked_for(
    models: Path, towns: Path, tmp_path: Path
) -> None:
    (task,) = read_tasks([towns])
    chosen = [digest for example in task.examples[:3] for digest in example_digests(example)]
    (tmp_path / "tuned").mkdir()
    write_digests(tmp_path / "tuned" / HASHES, [example_digest("something else")], chosen)
    arguments: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu", "trained_on": [tmp_path / "tuned"]}
    with pytest.raises(LeakageError, match=r"3 of 12 examples of towns were used for selection.*tuned.*\(1, 2, 3\)"):
        tuneport.evaluate([models / "all"], [towns], tmp_path / "o.json", **arguments)
    assert not list(tmp_path.glob("o.json*")), "nothing was scored"
    record = tuneport.evaluate([models / "all"], [towns], tmp_path / "o.json", allow_selection=True, **arguments)
    assert [(row["use"], row["ids"]) for row in record["leakage"]] == [("selection", ["1", "2", "3"])]
    assert "were used for selection" in record["warnings"][0]


def test_what_tune_left_beside_a_model_is_looked_into_without_being_named(
    models: Path, towns: Path, tmp_path: Path
) -> None:
    (task,) = read_tasks([towns])
    digests = [sorted(example_digests(example)) for example in task.examples]
    tuned = tiny_scored.copy_model(models / "all", tmp_path / "tuned")
    write_digests(tuned / HASHES, digests[0])
    arguments: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}
    record = tuneport.evaluate([models / "all", tuned], [towns], tmp_path / "o.json", **arguments)
    assert [(row["data"], row["use"], row["ids"]) for row in record["leakage"]] == [("tuned", "training", ["1"])]
    assert leaked([task], [tuned], models=[tuned]) == record["leakage"], "named or not, it is told once"
    write_digests(tuned / HASHES, digests[0], digests[1])
    with pytest.raises(LeakageError, match=r"1 of 12 examples of towns were used for selection.*tuned.*\(2\)"):
        tuneport.evaluate([tuned], [towns], tmp_path / "p.json", **arguments)


def test_a_task_of_the_harness_is_known_by_its_name_where_a_curve_was_read_on_it(models: Path, tmp_path: Path) -> None:
    (tmp_path / HASHES).write_text("")
    record = {"selection": [{"task": "gsm8k", "data": None}, {"task": "towns", "data": "towns.jsonl", "examples": 12}]}
    (tmp_path / "tune.json").write_text(json.dumps(record))
    (row,) = leaked([], [tmp_path], ["arc_easy", "gsm8k", "towns"])
    assert (row["task"], row["use"], row["count"]) == ("gsm8k", "selection", None)
    with pytest.raises(LeakageError, match="gsm8k was used for selection"):
        tuneport.evaluate([models / "all"], ["gsm8k"], tmp_path / "o.json", trained_on=[tmp_path])
