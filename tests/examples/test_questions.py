"""One's own examples: what is read, and every fault told at once with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tuneport.errors import DataError
from tuneport.examples.questions import read_tasks


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def faults_of(path: Path, **choices: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_tasks([path], **choices)
    assert caught.value.exit_status == 1
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


def test_a_file_is_a_task_of_its_own_name_and_lines_are_its_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"prompt": "a", "answer": "b"}, "", {"prompt": "c", "answer": 4, "id": "x"})
    (task,) = read_tasks([path])
    assert (task.name, task.kind) == ("mine", "match")
    assert [(e.id, e.line, e.prompt, e.answer) for e in task.examples] == [("1", 1, "a", "b"), ("x", 3, "c", "4")]


def test_the_task_field_splits_a_file_into_named_tasks_of_each_kind(tmp_path: Path) -> None:
    rows = [
        {"task": "sums", "prompt": "1 + 1 =", "answer": "2"},
        {"task": "towns", "messages": [{"role": "user", "content": "where?"}], "answer": "here", "choices": ["here", "there"]},
        {"task": "prose", "text": "it was a dark night"},
        {"task": "sums", "prompt": "1 + 2 =", "answer": 3},
    ]  # fmt: skip
    tasks = read_tasks([write(tmp_path / "all.jsonl", *rows)])
    assert [(task.name, task.kind, len(task.examples)) for task in tasks] == [
        ("sums", "match", 2),
        ("towns", "choice", 1),
        ("prose", "loss", 1),
    ]


def test_the_right_choice_may_be_named_or_counted(tmp_path: Path) -> None:
    choices = ["red", "green", "blue"]
    rows = [{"prompt": str(n), "choices": choices, "answer": answer} for n, answer in enumerate(["green", 1, 0])]
    (task,) = read_tasks([write(tmp_path / "c.jsonl", *rows)])
    assert [example.answer for example in task.examples] == ["green", "green", "red"]


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.jsonl",
        {"prompt": "a", "answer": "b"},
        {"promt": "a", "answer": "b"},
        "{not json",
        {"prompt": "c"},
        {"prompt": "a", "answer": "other"},
        {"prompt": "d", "choices": ["x"], "answer": "x"},
        {"prompt": "e", "choices": ["x", "y"], "answer": "z"},
        {"messages": [{"role": "user"}], "answer": "f"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}], "answer": "s"},
        {"prompt": "g", "text": "g", "answer": "h"},
        {"text": "g", "answer": "h"},
        {"prompt": "i", "answer": True},
        ["a list"],
        {"prompt": "j", "answer": "k", "id": "1"},
        {"task": "prose", "text": "t"},
        {"task": "prose", "prompt": "l", "answer": "m"},
        {"prompt": "n", "answer": "o", "id": "\ud83d"},
    )
    found = faults_of(path)
    told = "\n".join(found)
    for line, word in (
        (2, "'promt'"), (2, "no question"), (3, "no JSON"), (4, "`answer` is missing"), (5, "the question of line 1 again"),
        (6, "two or more"), (7, "one of the choices"), (8, "no `role`"), (9, "put it into `answer`"), (10, "give one of"),
        (11, "takes no `answer`"), (12, "neither text nor a number"), (13, "is no object"), (14, "the id '1' of line 1"),
        (17, "half a character"),
    ):  # fmt: skip
        assert any(f"bad.jsonl:{line}:" in fault and word in fault for fault in found), (line, word, told)
    assert "line 16 differ" in told
    assert len(found) >= 15


def test_one_task_stands_in_one_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"task": "t", "prompt": "a", "answer": "b"})
    other = write(tmp_path / "other.jsonl", {"task": "t", "prompt": "c", "answer": "d"})
    with pytest.raises(DataError, match=r"other\.jsonl:1: the task 't' stands in one\.jsonl too; give one of"):
        read_tasks([one, other])
    (tmp_path / "sub").mkdir()
    same = write(tmp_path / "sub" / "one.jsonl", *({"task": "t", "prompt": q, "answer": "b"} for q in "efg"))
    with pytest.raises(DataError) as caught:
        read_tasks([one, same])
    head, told = str(caught.value).splitlines()
    assert "1 fault(s)" in head, "once, not for each line"
    assert f"one.jsonl:1: the task 't' stands in {one} too" in told, "where two files have one name, which of them"


def test_a_file_that_is_not_there_or_empty_or_not_text_is_told(tmp_path: Path) -> None:
    assert "cannot be read" in faults_of(tmp_path / "none.jsonl")[0]
    assert "holds no examples" in faults_of(write(tmp_path / "empty.jsonl", "", " "))[0]
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    assert "not UTF-8 (byte 12)" in faults_of(tmp_path / "latin.jsonl")[0]


def test_the_loss_of_choices_and_of_empty_answers_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.jsonl",
        {"prompt": "a", "choices": ["x", "y"], "answer": "x"},
        {"prompt": "b", "answer": ""},
    )
    assert [fault.partition(": ")[0] for fault in faults_of(path, loss=True)] == ["l.jsonl:1", "l.jsonl:2"]


anything = some.recursive(
    some.none() | some.booleans() | some.integers(-3, 3) | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = some.sampled_from(["task", "id", "prompt", "messages", "text", "answer", "choices", "meta", "role"])


@settings(max_examples=100)
@given(some.lists(some.dictionaries(fields, anything, max_size=5) | anything, max_size=5))
def test_whatever_stands_in_a_hostile_file_is_read_or_told_in_words(tmp_path: Path, rows: list[Any]) -> None:
    path = write(tmp_path / "any.jsonl", *rows)
    try:
        tasks = read_tasks([path])
    except DataError as error:
        assert "any.jsonl" in str(error)
    else:
        assert sum(len(task.examples) for task in tasks) == len(rows)
