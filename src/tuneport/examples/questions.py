"""One's own questions, from JSONL files: read, checked as a whole, split into named tasks.

A line holds `prompt` (given to the model as it stands) or `messages` (through its chat template) with an `answer`,
and with `choices` where one of several is to be preferred; or a `text` alone, whose loss is measured. The promise:
every fault of a file is told at once, with its line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tuneport.errors import ABSENT, DataError, Fault, UsageError, listing
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_bytes
from tuneport.files.printable import quoted

Kind = Literal["match", "choice", "loss"]
Way = Literal["prompt", "messages", "text"]
FIELDS = ("task", "id", "prompt", "messages", "text", "answer", "choices", "meta")
ROLES = ("system", "user", "assistant", "tool")
_MOST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Example:
    """One question: what the model is given, what counts as right, and where it was read."""

    id: str
    line: int
    answer: str = ""
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    choices: tuple[str, ...] = ()

    @property
    def way(self) -> Way:
        """How it is asked: by a prompt as it stands, by messages through a template, or not at all: a text is measured."""
        if self.messages is not None:
            return "messages"
        return "text" if self.prompt is None else "prompt"

    @property
    def question(self) -> str:
        """The question as one text, for telling examples apart; messages with their roles."""
        if self.messages is not None:
            return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages)
        return self.prompt or ""

    @property
    def asked(self) -> str:
        """The words of the question alone: what a training set would hold of it."""
        if self.messages is not None:
            return "\n".join(message["content"] for message in self.messages)
        return self.prompt or ""


@dataclass(frozen=True)
class OwnTask:
    """Questions of one name that are scored in one way; `prompt` is None throughout where a `text` is measured.

    `file` is the name of the file that they were read from.
    """

    name: str
    kind: Kind
    examples: tuple[Example, ...] = field(repr=False)
    file: str = field(default="", repr=False)


def own_file(task: str | Path) -> Path | None:
    """The file of one's own examples that ``--tasks`` names; None where it is the name of one of the harness's tasks."""
    path = Path(task).expanduser()
    # A pipe or a device is taken for a file too, so that whoever reads it says what it is; a folder may be called like a task.
    is_task = path.is_dir() or not path.exists()
    return path if path.suffix == ".jsonl" or not is_task else None


def read_tasks(files: Sequence[Path], *, loss: bool = False) -> list[OwnTask]:
    """The tasks of JSONL files, in the order in which they first occur.

    With `loss`, examples with an answer are scored by the loss of that answer. Raises `DataError` that lists
    every fault of every file.
    """
    twice = sorted({str(file) for file in files if files.count(file) > 1})
    if twice:
        raise UsageError(Fault("tasks", ABSENT, f"{', '.join(twice)} is listed twice", "Name each file once"))
    faults: list[str] = []
    grouped: dict[str, list[tuple[Kind, Example]]] = {}
    sources: dict[str, Path] = {}
    shared = set[tuple[str, Path]]()
    for file in files:
        for number, row in _rows(file, faults):
            name, kind, example = _parse(row, number, f"{file.name}:{number}", loss, file.stem, faults)
            if example is None or kind is None:
                continue
            if sources.setdefault(name, file) != file:
                if (name, file) not in shared:  # once, not for each of its lines
                    other = sources[name].name if sources[name].name != file.name else sources[name]
                    what = f"the task {name!r} stands in {other} too; give one of them another `task`"
                    faults.append(f"{file.name}:{number}: {what}")
                shared.add((name, file))
                continue
            grouped.setdefault(name, []).append((kind, example))
    tasks = []
    for name, rows in grouped.items():
        first_kind = rows[0][0]
        where = sources[name].name
        says = [_says(kind, example) for kind, example in rows]
        mixed = [example.line for (_, example), said in zip(rows, says, strict=True) if said != says[0]]
        if mixed:
            faults.append(
                f"{where}: the task {name!r} begins with {says[0]}, but {_lines(mixed)} differ; give them another `task`"
            )
        examples = tuple(example for _, example in rows)
        faults += _duplicates(examples, where, name)
        tasks.append(OwnTask(name, first_kind, examples, where))
    if faults:
        raise DataError(f"{len(faults)} fault(s) in the examples; nothing was scored:{listing(faults)}")
    return tasks


def _says(kind: Kind, example: Example) -> str:
    """What a task of such examples holds."""
    if kind == "loss":
        return "texts to measure" if example.way == "text" else "answers to measure"
    return "choices" if kind == "choice" else "answers to match"


def _rows(file: Path, faults: list[str]) -> list[tuple[int, Any]]:
    rows: list[tuple[int, Any]] = []
    try:
        content = read_bytes(file, most=_MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        faults.append(f"{file}: cannot be read: {error.strerror}")
        return rows
    except UnicodeDecodeError as error:
        faults.append(f"{file}: is not UTF-8 (byte {error.start})")
        return rows
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, read_json(line)))
        except ValueError as error:
            faults.append(f"{file.name}:{number}: no JSON: {error}")
    if not rows and not any(fault.startswith(file.name) for fault in faults):
        faults.append(f"{file.name}: holds no examples")
    return rows


def _parse(
    row: Any, number: int, where: str, loss: bool, default_task: str, faults: list[str]
) -> tuple[str, Kind | None, Example | None]:
    """The task's name, how it is scored, and the example; None where a fault was noted."""
    if not isinstance(row, dict):
        faults.append(f"{where}: is no object; write one JSON object a line")
        return "", None, None
    found: list[str] = []
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        found.append(f"unknown field(s) {', '.join(map(repr, unknown))}; known are {', '.join(FIELDS)}")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        found.append("holds half a character (a lone surrogate)")
    name = row.get("task", default_task)
    if not isinstance(name, str) or not name.strip():
        found.append("`task` is no name")
        name = ""
    given = [key for key in ("prompt", "messages", "text") if row.get(key) is not None]
    if len(given) != 1:
        found.append(
            f"has {' and '.join(quoted(key) for key in given) or 'no question'}; "
            "give one of `prompt`, `messages` and `text`"
        )
    identity = row.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        found.append("`id` is neither text nor a number")
    prompt, messages = row.get("prompt"), None
    kind: Kind = "match"
    if given == ["prompt"] and (not isinstance(prompt, str) or not prompt):
        found.append("`prompt` is no text")
    if given == ["messages"]:
        messages = _messages(row["messages"], found)
    answer = ""
    choices: tuple[str, ...] = ()
    if given == ["text"]:
        kind = "loss"
        if not isinstance(row["text"], str) or not row["text"]:
            found.append("`text` is no text")
        else:
            answer = row["text"]
        found += [f"`text` takes no {quoted(key)}" for key in ("answer", "choices") if row.get(key) is not None]
        prompt = None
    elif row.get("choices") is not None:
        kind = "choice"
        answer, choices = _choices(row, found)
        if loss:
            found.append(
                "has `choices`, of which no loss is taken; leave them out, or ask for accuracy instead of loss"
            )
    else:
        kind = "loss" if loss else "match"
        answer = _answer(row.get("answer"), found)
        if loss and not answer:
            found.append("`answer` is empty, and so has no loss")
    faults += [f"{where}: {fault}" for fault in found]
    if found:
        return name, None, None
    return name, kind, Example(str(identity), number, answer, prompt, messages, choices)


def _answer(value: Any, found: list[str]) -> str:
    if value is None:
        found.append("`answer` is missing")
    elif isinstance(value, bool) or not isinstance(value, str | int | float):
        found.append("`answer` is neither text nor a number")
    else:
        return str(value)
    return ""


def _choices(row: Mapping[str, Any], found: list[str]) -> tuple[str, tuple[str, ...]]:
    choices, answer = row["choices"], row.get("answer")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice for choice in choices)
        or len(set(choices)) < len(choices)
    ):
        found.append("`choices` is no list of two or more different texts")
        return "", ()
    if answer is None:
        found.append("`answer` is missing")
    elif isinstance(answer, str) and answer in choices:
        return answer, tuple(choices)
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return choices[answer], tuple(choices)
    else:
        found.append(f"`answer` is {answer!r}; give one of the choices, or its place, counted from 0")
    return "", ()


def _messages(value: Any, found: list[str]) -> tuple[Mapping[str, str], ...] | None:
    if not isinstance(value, list) or not value:
        found.append("`messages` is no list of messages")
        return None
    for place, message in enumerate(value):
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            found.append(f"message {place + 1} has no `role` ({', '.join(ROLES)}) or no `content`")
            return None
    if value[-1]["role"] == "assistant":
        found.append("the last message is the assistant's; put it into `answer`")
    return tuple(value)


def _duplicates(examples: Sequence[Example], where: str, task: str) -> list[str]:
    faults: list[str] = []
    questions: dict[tuple[str, tuple[str, ...]], Example] = {}
    ids: dict[str, Example] = {}
    for example in examples:
        first = questions.setdefault((example.question or example.answer, example.choices), example)
        if first is not example:
            faults.append(f"{where}:{example.line}: the question of line {first.line} again (task {task!r})")
        twin = ids.setdefault(example.id, example)
        if twin is not example:
            faults.append(f"{where}:{example.line}: the id {example.id!r} of line {twin.line} again (task {task!r})")
    return faults


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"
