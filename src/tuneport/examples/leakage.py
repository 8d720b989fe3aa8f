"""Find test questions in the data that a model was trained or chosen on, by digest.

Training data may be files, data sets, folders of files, or the digests that `tune` writes beside a model. Only digests
are kept in memory, so training data may be large.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, LeakageError, UsageError, listing, named
from tuneport.examples.data_rows import RowReading
from tuneport.examples.digests import HASHES, SELECTION, example_digest, parse_digest
from tuneport.examples.naming import CELLS, LINES, PARQUET, NamedData, ending, find_data
from tuneport.examples.questions import Example, OwnTask
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, check_inside, read_bytes, read_lines, resolved

RECORD = "tune.json"  # what `tune` leaves beside a model, with its digests
TRAINING = "training"
_IN_FOLDERS = (*LINES, *CELLS, *PARQUET)  # a .json file in a folder is a record or a config


def leaked(
    tasks: Sequence[OwnTask],
    trained_on: Sequence[str | Path],
    names: Sequence[str] = (),
    models: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """For each task, the ids of its examples that occur in the training or selection data, and in which of it.

    An example counts as seen if its question, or its question with the answer, is a training text up to case and
    blanks. Of the harness's tasks only the names are known: ``names`` are compared with those of the curves. In folders
    of ``models`` what `tune` left there is read too, where it is. Raises `UsageError` where there is nothing to read.
    """
    given = [os.fspath(source) for source in trained_on]
    named = {resolved(Path(source).expanduser()) for source in given}
    given += [str(model / HASHES) for model in models if resolved(model) not in named and _was_tuned(model)]
    sources = [_TrainedOn.of(source) for source in given]
    if not sources:
        return []
    wanted: dict[str, list[tuple[int, str]]] = {}
    for place, task in enumerate(tasks):
        for example in task.examples:
            for digest in example_digests(example):
                wanted.setdefault(digest, []).append((place, example.id))
    rows: list[dict[str, Any]] = []
    for source in sources:
        seen = set[tuple[str, int, str]]()
        for digest, use in source.digests():
            seen.update((use, *found) for found in wanted.get(digest, ()))
        for place, task in enumerate(tasks):
            for use in (TRAINING, SELECTION):
                ids = [example.id for example in task.examples if (use, place, example.id) in seen]
                if ids:
                    found = {"task": task.name, "data": source.name, "use": use, "count": len(ids)}
                    rows.append({**found, "of": len(task.examples), "ids": ids})
        for name in sorted(set(names) & _selected_by(source.folder)):
            rows.append({"task": name, "data": source.name, "use": SELECTION, "count": None, "of": None, "ids": []})
    return rows


def _was_tuned(folder: Path) -> bool:
    return (folder / HASHES).is_file()


def refuse_selection(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise `LeakageError` where models were selected by examples of the test."""
    told = [in_words(row) for row in rows if row["use"] == SELECTION]
    if told:
        raise LeakageError(
            f"Nothing was scored: models were chosen on these test examples, which makes their scores too "
            f"good:{listing(told)}\nScore examples that no curve used; or pass {named('allow_selection')}, and report "
            f"that the models were chosen on them."
        )


def example_digests(example: Example) -> set[str]:
    """The digests that identify a test example."""
    return {example_digest(text) for text in _asked(example)}


def _asked(example: Example) -> set[str]:
    """The texts by which a test example may be found: its question, the last turn of it, either with the answer."""
    if not example.question:
        return {example.answer}
    questions = {example.asked}
    if example.messages is not None:
        questions.add(example.messages[-1]["content"])
    return questions | {f"{question} {example.answer}" for question in questions}


def in_words(row: Mapping[str, Any]) -> str:
    """A row of `leaked` as a warning."""
    if row["count"] is None:
        return f"{row['task']} was used for selection: the curve of {row['data']} was measured on it."
    shown = ", ".join(row["ids"][:5]) + (", …" if row["count"] > 5 else "")
    examples = f"{row['count']:,} of {row['of']:,} examples of {row['task']}"
    if row["use"] == SELECTION:
        return f"{examples} were used for selection: the curve of {row['data']} was measured on them ({shown})."
    return (
        f"{examples} are also in the training data {row['data']} ({shown}), so scores on them measure memory. Remove "
        f"them from one of the two."
    )


@dataclass(frozen=True)
class _TrainedOn:
    """What models were trained or chosen on: the name it has in the record, and what holds it."""

    name: str
    files: tuple[Path, ...] = ()  # of digests, which `tune` wrote
    data: tuple[NamedData, ...] = ()
    folder: Path | None = None

    @classmethod
    def of(cls, given: str) -> _TrainedOn:
        """A folder with all files of data in it, or what a name stands for."""
        path = Path(given).expanduser()
        if path.name == HASHES and path.is_file():
            return cls(path.parent.name, (path,), folder=path.parent)
        if path.suffix == ".txt" and path.is_file():
            return cls(path.name, (path,))
        if not path.is_dir():
            (named,) = find_data([given], option="trained_on")
            return cls(named.label, data=(named,))
        files = sorted(file for file in path.rglob("*") if file.name == HASHES or ending(file) in _IN_FOLDERS)
        if not files:
            told = f"contains neither {HASHES} nor a file that ends in {', '.join(_IN_FOLDERS)}"
            raise UsageError(Fault("trained_on", given, told))
        for file in files:
            check_inside(file, path)
        data = tuple(NamedData(str(file), path=file) for file in files if file.name != HASHES)
        return cls(path.name, tuple(file for file in files if file.name == HASHES), data, path)

    def digests(self) -> Iterator[tuple[str, str]]:
        """Every digest, and what the example was used for."""
        for file in self.files:
            yield from _digests_in(file)
        for data in self.data:
            reading = RowReading(data)
            for _, row in reading.rows():
                yield from ((example_digest(text), TRAINING) for text in _texts(row))
            if reading.broken:
                line, reason = reading.broken[0]
                raise UsageError(Fault("trained_on", f"{data.label}:{line}", reason))


def _digests_in(file: Path) -> Iterator[tuple[str, str]]:
    with closing(read_lines(file)) as lines:
        for number, line in enumerate(lines, 1):
            parsed = parse_digest(line.decode("utf-8", "replace"))
            if parsed is None:
                told = "is not a digest; the file has changed since `tune` wrote it"
                raise UsageError(Fault("trained_on", f"{file.name}:{number}", told))
            yield parsed[0], SELECTION if parsed[1] else TRAINING


def _selected_by(path: Path | None) -> set[str]:
    """The harness's tasks on which the curves below a folder were read, as its records say."""
    found: set[str] = set()
    for file in () if path is None else path.rglob(RECORD):
        try:
            told = read_json(read_bytes(file, path, MOST_RECORD_BYTES)).get("selection") or []
            found |= {str(row["task"]) for row in told if row["data"] is None}
        except (ValueError, KeyError, TypeError, AttributeError):
            told = f"{file.name} is damaged; run `tune` again, or restore it"
            raise UsageError(Fault("trained_on", str(path), told)) from None
    return found


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """What a training example may be found by: its question, its question with the answer, its text."""
    if isinstance(row.get("text"), str):
        yield row["text"]
    answer = row.get("completion", row.get("answer", row.get("chosen")))
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(prompt, list):  # a conversation, as preference data has it
        messages, prompt = prompt, None
    if isinstance(messages, list):
        contents = [str(message.get("content", "")) for message in messages if isinstance(message, dict)]
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        for end, role in enumerate(roles):  # every turn of the user's asks something
            if role == "user":
                yield contents[end]
                yield "\n".join(contents[: end + 1])
                if end + 1 < len(contents):
                    yield f"{contents[end]} {contents[end + 1]}"
    if isinstance(prompt, str):
        yield prompt
        if isinstance(answer, str | int | float):
            yield f"{prompt} {answer}"
