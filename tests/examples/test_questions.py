"""One's own examples: what is read, and every fault told at once with its line."""

from __future__ import annotations

import json
import re
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
    told = str(caught.value).splitlines()
    return [line.removeprefix("  - ") for line in told[1:] or told]


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
        {"task": "prose", "text": "t"},
        {"task": "prose", "prompt": "l", "answer": "m"},
        {"prompt": "n", "answer": "o", "id": "\ud83d"},
    )
    found = faults_of(path)
    told = "\n".join(found)
    for line, word in (
        (2, "no question"), (3, "is not valid JSON"), (4, "`answer` is missing"),
        (6, "two or more"), (7, "one of the choices"), (8, "no `role`"), (9, "move it to `answer`"), (10, "give exactly one of"),
        (11, "`answer` is not used"), (12, "must be a string or a number"), (13, "is a JSON list"), (15, "these differ"),
        (16, "half a character"),
    ):  # fmt: skip
        assert any(re.search(rf"bad\.jsonl: lines? (\d+, )*{line}[,:]", fault) and word in fault for fault in found), (
            line,
            word,
            told,
        )
    assert len(found) >= 13


def test_many_lines_with_one_fault_are_one_sentence(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "answer": True if n > 2 else "a"} for n in range(50)]
    (told,) = faults_of(write(tmp_path / "bad.jsonl", *rows))
    assert told == "bad.jsonl: lines 4, 5, 6, 7, 8 and 42 more: `answer` must be a string or a number."


def test_what_stands_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "answer": "b"},
        {"prompt": "c", "answer": "d"},
        {"prompt": "a", "answer": "b"},
        {"prompt": "c", "answer": "other"},
        {"prompt": "e", "answer": "f", "id": "1"},
        {"prompt": "g", "answer": "h", "id": "1 (2)"},
    ]
    (task,) = read_tasks([write(tmp_path / "t.jsonl", *rows)])
    assert [(e.id, e.prompt, e.answer) for e in task.examples] == [
        ("1", "a", "b"),
        ("2", "c", "d"),
        ("1 (2)", "e", "f"),
        ("1 (2) (2)", "g", "h"),
    ]
    for number, (count, words, where) in enumerate(
        ((1, "counts once", "line 3"), (1, "another answer", "line 4"), (2, "the id of another", "lines 5, 6"))
    ):
        told = task.warnings[number]
        assert f"{count} example(s)" in told and words in told and where in told, told


def test_one_task_stands_in_one_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"task": "t", "prompt": "a", "answer": "b"})
    other = write(tmp_path / "other.jsonl", {"task": "t", "prompt": "c", "answer": "d"})
    with pytest.raises(DataError, match=r"other\.jsonl: line 1: the task 't' is also in one\.jsonl; give one of"):
        read_tasks([one, other])
    (tmp_path / "sub").mkdir()
    same = write(tmp_path / "sub" / "one.jsonl", *({"task": "t", "prompt": q, "answer": "b"} for q in "efg"))
    with pytest.raises(DataError) as caught:
        read_tasks([one, same])
    assert f"one.jsonl: line 1: the task 't' is also in {one};" in str(caught.value), "which of two of one name"


def test_a_file_that_is_not_there_or_empty_or_not_text_is_told(tmp_path: Path) -> None:
    assert "there is no such file" in faults_of(tmp_path / "none.jsonl")[0]
    assert "contains no examples" in faults_of(write(tmp_path / "empty.jsonl", "", " "))[0]
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    assert "line 1: is not UTF-8 text" in faults_of(tmp_path / "latin.jsonl")[0]


def test_the_loss_of_choices_and_of_empty_answers_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.jsonl",
        {"prompt": "a", "choices": ["x", "y"], "answer": "x"},
        {"prompt": "b", "answer": ""},
    )
    assert [fault.partition(": ")[0] for fault in faults_of(path, loss=True)] == ["l.jsonl", "l.jsonl"]


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
        told = sum(len(task.examples) for task in tasks)
        assert told == len(rows) or any(task.warnings for task in tasks)
