"""Test questions that stand in what a model was trained or chosen on, found by digest.

In come the test's examples and folders or files of training data (JSONL, or the digests that `tune` leaves beside a
model), out comes which examples occur there. Only digests are held, so training data may be large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, LeakageError, UsageError, listing, named
from tuneport.examples.digests import HASHES, SELECTION, example_digest, parse_digest
from tuneport.examples.questions import Example, OwnTask
from tuneport.files.json_text import read_json
from tuneport.files.opening import check_file, read_bytes, read_lines, resolved
from tuneport.output.replacing import MOST_MANIFEST_BYTES

RECORD = "tune.json"  # what `tune` leaves beside a model, with its digests
TRAINING = "training"


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
    sources = [(Path(source).expanduser(), Path(source).expanduser()) for source in trained_on]
    named = {resolved(path) for path, _ in sources}
    sources += [(model, model / HASHES) for model in models if resolved(model) not in named and _was_tuned(model)]
    if not sources:
        return []
    wanted: dict[str, list[tuple[int, str]]] = {}
    for place, task in enumerate(tasks):
        for example in task.examples:
            for digest in example_digests(example):
                wanted.setdefault(digest, []).append((place, example.id))
    rows: list[dict[str, Any]] = []
    for path, digests in sources:
        seen = set[tuple[str, int, str]]()
        for digest, use in _digests(digests):
            seen.update((use, *found) for found in wanted.get(digest, ()))
        for place, task in enumerate(tasks):
            for use in (TRAINING, SELECTION):
                ids = [example.id for example in task.examples if (use, place, example.id) in seen]
                if ids:
                    found = {"task": task.name, "data": path.name, "use": use, "count": len(ids)}
                    rows.append({**found, "of": len(task.examples), "ids": ids})
        for name in sorted(set(names) & _selected_by(path)):
            rows.append({"task": name, "data": path.name, "use": SELECTION, "count": None, "of": None, "ids": []})
    return rows


def _was_tuned(folder: Path) -> bool:
    return (folder / HASHES).is_file()


def refuse_selection(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise `LeakageError` where models were selected by examples of the test."""
    told = [in_words(row) for row in rows if row["use"] == SELECTION]
    if told:
        raise LeakageError(
            f"Nothing was scored, for selection on a test makes its scores too good:{listing(told)}\n"
            f"Score examples that no curve was read on; or pass {named('allow_selection')}, and report that the models were chosen by "
            "them."
        )


def example_digests(example: Example) -> set[str]:
    """The digests by which a test example may be found."""
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
        return f"{row['task']} was used for selection: the curve of {row['data']} was read on it."
    shown = ", ".join(row["ids"][:5]) + (", …" if row["count"] > 5 else "")
    examples = f"{row['count']:,} of {row['of']:,} examples of {row['task']}"
    if row["use"] == SELECTION:
        return f"{examples} were used for selection: the curve of {row['data']} was read on them ({shown})."
    return (
        f"{examples} stand in the training data {row['data']} ({shown}): scores on them measure memory. Leave them out of "
        "the one or the other."
    )


def _digests(path: Path) -> Iterator[tuple[str, str]]:
    """Every digest, and what the example was used for."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix == ".jsonl" or file.name == HASHES)
    elif check_file(path):
        files = [path]
    else:
        raise UsageError(Fault("trained_on", str(path), "there is no such file or folder"))
    if not files:
        raise UsageError(Fault("trained_on", str(path), f"holds no .jsonl file and no {HASHES}"))
    for file in files:
        yield from _of_file(file, path if path.is_dir() else None)


def _of_file(file: Path, folder: Path | None) -> Iterator[tuple[str, str]]:
    with closing(read_lines(file, folder)) as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                place = f"{file.name}:{number}"
                raise UsageError(Fault("trained_on", place, "is not UTF-8 text", "Give JSONL files")) from None
            if not text:
                continue
            parsed = parse_digest(text)
            if parsed is not None:
                yield parsed[0], SELECTION if parsed[1] else TRAINING
                continue
            try:
                row = read_json(text)
            except ValueError:
                place = f"{file.name}:{number}"
                raise UsageError(Fault("trained_on", place, "is neither JSON nor a digest")) from None
            if isinstance(row, dict):
                yield from ((example_digest(found), TRAINING) for found in _texts(row))


def _selected_by(path: Path) -> set[str]:
    """The harness's tasks on which the curves below a folder were read, as its records say."""
    found: set[str] = set()
    for file in path.rglob(RECORD) if path.is_dir() else ():
        try:
            told = read_json(read_bytes(file, path, MOST_MANIFEST_BYTES)).get("selection") or []
            found |= {str(row["task"]) for row in told if row["data"] is None}
        except (ValueError, KeyError, TypeError, AttributeError):
            told = f"{file.name} is damaged; tune again, or restore it"
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
