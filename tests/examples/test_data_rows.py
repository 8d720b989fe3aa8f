"""The same examples in every format give the same rows, the same digests, and the same words where something is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tuneport.errors import DataError, UsageError
from tuneport.examples.questions import digest_of_task, read_tasks
from tuneport.examples.training_data import Share, read_sources

Rows = list[dict[str, Any]]


def as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_cells(rows: Rows, separator: str = ",") -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    told = io.StringIO(newline="")
    writer = csv.DictWriter(told, names, delimiter=separator)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
    return told.getvalue().encode()


def as_columns(rows: Rows) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def as_parquet(rows: Rows) -> bytes:
    told = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(as_columns(rows)), told)
    return told.getvalue()


FORMATS: Mapping[str, Callable[[Rows], bytes]] = {
    "rows.jsonl": as_lines,
    "rows.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "list/rows.json": lambda rows: json.dumps(rows).encode(),
    "lines/rows.json": lambda rows: b"\xef\xbb\xbf" + as_lines(rows),
    "columns/rows.json": lambda rows: json.dumps(as_columns(rows), indent=1).encode(),
    "frame/rows.json": lambda rows: (pandas.DataFrame(as_columns(rows)).to_json() or "").encode(),
    "rows.csv": as_cells,
    "bom/rows.csv": lambda rows: b"\xef\xbb\xbf" + as_cells(rows),
    "rows.csv.gz": lambda rows: gzip.compress(as_cells(rows)),
    "rows.tsv": lambda rows: as_cells(rows, "\t"),
    "rows.parquet": as_parquet,
}


def everywhere(rows: Rows, folder: Path) -> dict[str, Any]:
    """The rows in every format: files, and tables in Python."""
    found: dict[str, Any] = {}
    for name, written in FORMATS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(rows))
        found[name] = folder / name
    found["pandas"] = pandas.DataFrame(as_columns(rows))
    found["datasets"] = datasets.Dataset.from_dict(as_columns(rows))
    return found


text = some.text(some.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
awkward = some.sampled_from(
    ["007", "NA", "null", "NaN", "1e3", "2024-01-01", "true", '"', 'a"b', "a\nb", "a\r\nb", "a,b;c\td", " ", "[1]", "½"]
)
asked = some.lists(
    some.fixed_dictionaries(
        {"prompt": text | awkward, "answer": text | awkward}, optional={"task": some.sampled_from(["one", "two"])}
    ),
    min_size=2,
    max_size=6,
)


@settings(max_examples=40)
@given(asked)
def test_questions_are_the_same_from_every_format(tmp_path: Path, rows: Rows) -> None:
    found = {}
    for name, data in everywhere(rows, tmp_path).items():
        named = [{**row, "task": row.get("task", "rows")} for row in rows] if name in ("pandas", "datasets") else None
        given = (
            data
            if named is None
            else type(data)(pandas.DataFrame(named))
            if name == "pandas"
            else datasets.Dataset.from_list(named)
        )
        found[name] = [digest_of_task(task) for task in read_tasks([given])]
    assert all(digests == found["rows.jsonl"] for digests in found.values()), found


@settings(max_examples=40)
@given(
    some.lists(
        some.fixed_dictionaries({"prompt": text | awkward, "completion": text | awkward}), min_size=1, max_size=6
    )
)
def test_rows_to_train_on_are_the_same_from_every_format(tmp_path: Path, rows: Rows) -> None:
    rows = [{**row, "completion": f"{row['completion']}!"} for row in rows]  # an answer of blanks alone is refused
    rows = [{**row, "prompt": f"{row['prompt']}?"} for row in rows]
    for name, data in everywhere(rows, tmp_path).items():
        (source,) = read_sources([data], "sft", [], 0)
        assert list(source.rows) == rows, name
        assert source.record() == {**source.record(), "rows": len(rows), "form": "prompt-completion"}
        if name not in ("pandas", "datasets"):
            (first,) = read_sources([tmp_path / "rows.jsonl"], "sft", [], 0)
            assert source.record() == first.record(), name


def test_messages_choices_and_missing_values_are_the_same_from_every_format(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "short"}, {"role": "user", "content": "where?"}]
    rows = [
        {"messages": talk, "answer": "here", "choices": ["here", "there"], "id": "a", "task": "rows"},
        {"messages": talk[1:], "answer": "1", "choices": ["no", "yes", "one"], "id": "b", "task": "rows"},
    ]
    tasks = {name: read_tasks([data])[0] for name, data in everywhere(rows, tmp_path).items()}
    assert {digest_of_task(task) for task in tasks.values()} == {digest_of_task(tasks["rows.jsonl"])}
    assert [example.answer for example in tasks["rows.csv"].examples] == ["here", "yes"]
    named = {"messages": [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b"}]}
    for data in everywhere([named, named], tmp_path / "more").values():
        (source,) = read_sources([data], "sft", [], 0)
        assert source.rows[0] == {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_columns_are_named_in_one_way_for_every_format(tmp_path: Path) -> None:
    rows = [{"q": f"q{n}", "a": f"a{n}", "level": "hard" if n % 2 else "easy", "prompt": "not this"} for n in range(6)]
    for name, data in everywhere(rows, tmp_path).items():
        if name in ("pandas", "datasets"):
            (task,) = read_tasks([data], columns={"prompt": "q", "answer": "a"})
            assert [example.prompt for example in task.examples] == [f"q{n}" for n in range(6)]
        else:
            (task,) = read_tasks([f"{data}?prompt:q&answer:a&level=hard"])
            assert [(e.prompt, e.answer, e.id) for e in task.examples] == [
                ("q1", "a1", "1"),
                ("q3", "a3", "2"),
                ("q5", "a5", "3"),
            ]
            (same,) = read_tasks([data], columns={"prompt": "q", "answer": "a"})
            assert len(same.examples) == 6
        (source,) = read_sources([data], "sft", [Share("rows" if task.file != "table" else "table", 2)], 0, {"prompt": "q", "completion": "a"})  # fmt: skip
        assert (len(source.rows), source.available) == (2, 6)


def refused(data: Any, **choices: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_tasks([data], **choices)
    return str(caught.value)


def test_a_file_of_other_columns_is_one_sentence_that_works_when_followed(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "solution": f"a{n}", "category": "sums"} for n in range(50)]
    for name, data in everywhere(rows, tmp_path).items():
        if name in ("pandas", "datasets"):
            continue
        told = refused(data)
        assert "\n" not in told
        label = Path(name).name
        assert (
            f"{label} has the columns `question`, `solution`, `category`; an example needs `prompt` and `answer`"
            in told
        )
        remedy = told.split("'")[1]
        assert remedy == f"{label}?prompt:question&answer:solution"
        (task,) = read_tasks([f"{data.parent}/{remedy}"])
        assert len(task.examples) == 50
        assert task.notes == (f"{label}: ignored columns: `category`.",)
        (by_category,) = read_tasks([f"{data.parent}/{remedy}&task:category"])
        assert (by_category.name, by_category.notes) == ("sums", ())
        with pytest.raises(
            DataError, match=r"sft needs .* Name its columns: '\S+\?prompt:question&completion:solution'"
        ):
            read_sources([data], "sft", [], 0)


def test_a_column_or_field_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,answer,choises\na,b,c\n")
    assert (
        refused(f"{tmp_path}/t.csv?prompt:quest")
        == "t.csv: there is no column `quest`; there are `prompt`, `answer`, `choises`."
    )
    with pytest.raises(UsageError) as caught:
        read_tasks([f"{tmp_path}/t.csv?promt:prompt"])
    assert caught.value.faults[0].option == "tasks"
    (task,) = read_tasks([tmp_path / "t.csv"])
    assert task.notes == ("t.csv: ignored columns: `choises` (did you mean `choices`?).",)
    for wrong in ("?prompt", "?prompt:a&prompt:b", "?&"):
        with pytest.raises(UsageError):
            read_tasks([f"{tmp_path}/t.csv{wrong}"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "contains no examples"),
        ("a.csv", b"prompt,answer\n", "contains no examples"),
        ("a.csv", b"prompt,answer\na,b,c\ne,f\n", "line 2: has 3 cells"),
        ("a.csv", b'prompt,answer\n"a,b\n', "line 2 is not valid CSV"),
        ("a.csv", b"prompt,prompt\na,b\n", "two columns named `prompt`"),
        ("a.csv", "prompt,answer\ncafé,b\n".encode("latin-1"), "is not UTF-8 text. Save it as UTF-8"),
        ("a.csv", "prompt,answer\na,b\n".encode("utf-16"), "is not UTF-8 text. Save it as UTF-8"),
        ("a.json", b"", "contains no examples"),
        ("a.json", b"[]", "contains no examples"),
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"3", "holds a JSON number"),
        ("a.json", b'{"prompt": ["a"], "answer": ["b", "c"]}', "columns of different lengths (prompt 1, answer 2)"),
        ("a.json", b"[1, 2]", "rows 1, 2: is a JSON number"),
        ("a.jsonl.gz", b"no gzip", "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}' * 99, mtime=0)[:-9], "cannot be unpacked"),
        ("a.parquet", b"PAR1 it is not", "not a readable Parquet file"),
        ("a.parquet.gz", b"PAR1", "has an unknown format"),
        ("a.xlsx", b"PK", "has an unknown format"),
        ("a.jsonl", b'{"prompt": "a", "answer": ' + b"9" * 400 + b"}", "a whole number of 400 digits"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    told = refused(tmp_path / name)
    assert told.startswith(name) and words in told, told


def test_a_folder_a_pattern_and_a_name_that_is_none_are_refused_in_words(tmp_path: Path) -> None:
    assert "is a folder" in refused(str(tmp_path))
    assert "without quotes" in refused(f"{tmp_path}/*.jsonl")
    assert "there is no such file" in refused("absent.csv?prompt:q")
    with pytest.raises(UsageError, match="has several splits"):
        read_tasks([datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})])


def test_large_numbers_and_answers_of_several_types_stay_what_they_are(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": 2**80}, {"prompt": "b", "answer": "x"}, {"prompt": "c", "answer": 0.5, "id": 7}]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    (task,) = read_tasks([tmp_path / "a.jsonl"])
    assert [example.answer for example in task.examples] == [str(2**80), "x", "0.5"]


def test_what_unpacks_to_more_than_a_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneport.examples.data_files._MOST_UNPACKED", 10_000)
    rows = [{"prompt": f"{n}{'a' * 2000}", "answer": "b"} for n in range(50)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(as_lines(rows)))
    assert "unpacks to more than 10,000 bytes" in refused(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.parquet").write_bytes(as_parquet(rows))
    with pytest.raises(DataError, match="unpacks to more than 10,000 bytes"):
        read_sources([f"{tmp_path}/a.parquet?completion:answer"], "sft", [], 0)


def test_nothing_is_written_where_datasets_keeps_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for data in everywhere([{"prompt": "a", "answer": "b"}], tmp_path / "data").values():
        read_tasks([data])
    assert not (tmp_path / "cache").exists()
