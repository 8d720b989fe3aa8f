"""Read the user's own questions from files, the Hub or tables, check them, and split them into named tasks.

A row has a `prompt` (given to the model unchanged) or `messages` (through its chat template) with an `answer`, and with
`choices` if one of several is correct; or only a `text`, whose loss is measured. Prompts without
answers are read too, if they are only asked. All problems are reported together,
with their lines; duplicates count once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from blake3 import blake3

from tuneport.errors import ABSENT, DataError, Fault, UsageError, listing
from tuneport.examples.data_rows import Row, RowReading, in_groups, places
from tuneport.examples.naming import NamedData, check_fields, find_data
from tuneport.files.printable import quoted

Kind = Literal["match", "choice", "loss", "prompt"]
Way = Literal["prompt", "messages", "text"]
FIELDS = ("task", "id", "prompt", "messages", "text", "answer", "choices", "meta")
_NEEDED = (("prompt", "answer"), ("messages", "answer"), ("text",))
_ASKED = (("prompt",), ("messages",))
ROLES = ("system", "user", "assistant", "tool")
_MOST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Example:
    """One question: what the model is given, what counts as right, and in which line (or row) it was read."""

    id: str
    line: int = field(compare=False)
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

    Tasks of the kind ``prompt`` have no answers and are only asked. `file` is what they were read from, and `where` counts
    its lines or rows. `warnings` name duplicates, `notes` name columns that are not read.
    """

    name: str
    kind: Kind
    examples: tuple[Example, ...] = field(repr=False)
    file: str = field(default="", repr=False, compare=False)
    where: str = field(default="line", repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def place(self, example: Example) -> str:
        """Where one of the examples stands, for a person."""
        return f"{self.file}: {places(self.where, [example.line])}"


def read_tasks(
    given: Sequence[Any],
    *,
    loss: bool = False,
    asked: bool = False,
    columns: Mapping[str, str] | None = None,
    option: str = "tasks",
) -> list[OwnTask]:
    """The tasks of files, data sets and tables, in the order in which they first occur.

    With `loss`, examples with an answer are scored by the loss of that answer; with `asked` they may lack one, and are then of the
    kind ``prompt``. ``columns`` say which column holds a field, where a name does not. Raises `DataError` that lists every fault, `UsageError` for one that is named twice.
    """
    found = find_data(given, columns, option)
    names = [data.given for data in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(Fault(option, ABSENT, f"{', '.join(twice)} is listed twice", "Name each once"))
    faults: list[str] = []
    tasks: list[OwnTask] = []
    for data in found:
        check_fields(data, FIELDS, option)
        for task in _read(data, loss, asked, faults):
            other = next((one for one in tasks if one.name == task.name), None)
            if other is None:
                tasks.append(task)
                continue
            where = other.file if other.file != task.file else names[[d.label for d in found].index(other.file)]
            what = f"the task {task.name!r} is also in {where}; give one of them another `task`"
            faults.append(f"{task.place(task.examples[0])}: {what}")
    if len(faults) == 1:
        raise DataError(f"{faults[0].removesuffix('.')}.")
    if faults:
        raise DataError(f"{len(faults)} problem(s) in the examples; nothing was scored:{listing(faults)}")
    return tasks


def _read(data: NamedData, loss: bool, asked: bool, faults: list[str]) -> list[OwnTask]:
    try:
        return _tasks_of(data, loss, asked, faults)
    except DataError as error:  # a file that cannot be read: told beside what is wrong with the others
        faults.append(str(error).removesuffix("."))
        return []


def _tasks_of(data: NamedData, loss: bool, asked: bool, faults: list[str]) -> list[OwnTask]:
    """The tasks of one file; what is wrong with it is added to `faults`."""
    reading = RowReading(data, _MOST_BYTES)
    wrong: list[tuple[int, str]] = []
    grouped: dict[str, list[tuple[Kind, Example]]] = {}
    count = 0
    fields: set[str] = set()
    for count, (number, row) in enumerate(reading.rows(), 1):
        fields |= row.keys()
        found: list[str] = []
        name, kind, example = _parse(row, number, count, loss, asked, data.stem, found)
        wrong += [(number, fault) for fault in found]
        if not found:
            grouped.setdefault(name, []).append((kind, example))
    if not count and not reading.broken:
        faults.append(f"{data.label}: contains no examples")
    elif not reading.broken and not _has(fields, _ASKED if asked else _NEEDED):
        faults.append(reading.needs("a prompt", _ASKED) if asked else reading.needs("an example", _NEEDED))
        return []
    notes = reading.ignored_in_words(FIELDS)
    tasks = []
    for name, rows in grouped.items():
        says = [_says(kind, example) for kind, example in rows]
        mixed = [example.line for (_, example), said in zip(rows, says, strict=True) if said != says[0]]
        if mixed:
            differ = f"the task {name!r} begins with {says[0]}, but these differ; give them another `task`"
            wrong += [(line, differ) for line in mixed]
        examples, warnings = _once([example for _, example in rows], name, data.label, reading.where)
        tasks.append(OwnTask(name, rows[0][0], examples, data.label, reading.where, tuple(warnings), tuple(notes)))
        notes = []
    faults += in_groups(data.label, reading.where, [*reading.broken, *wrong])
    return tasks


def _has(fields: set[str], needed: Iterable[Sequence[str]]) -> bool:
    return any(fields.issuperset(each) for each in needed)


def digest_of_task(task: OwnTask) -> str:
    """The digest of a task's name, kind and examples, whatever held them."""
    told = [task.name, task.kind, [asdict(replace(example, line=0)) for example in task.examples]]
    return blake3(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _says(kind: Kind, example: Example) -> str:
    """What a task of such examples holds."""
    if kind == "prompt":
        return "prompts without an answer"
    if kind == "loss":
        return "texts to measure" if example.way == "text" else "answers to measure"
    return "choices" if kind == "choice" else "answers to match"


def _parse(
    row: Row, line: int, number: int, loss: bool, asked: bool, default_task: str, found: list[str]
) -> tuple[str, Kind, Example]:
    """The task's name, how it is scored, and the example; what is wrong is noted in `found`."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        found.append("holds half a character (a lone surrogate)")
    name = row.get("task", default_task)
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        found.append("`task` is not a valid name")
    given = [key for key in ("prompt", "messages", "text") if key in row]
    if len(given) != 1:
        has = " and ".join(quoted(key) for key in given) or "no question"
        found.append(f"has {has}; give exactly one of `prompt`, `messages` and `text`")
    identity = row.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        found.append("`id` must be a string or a number")
    prompt, messages = row.get("prompt"), None
    kind: Kind = "match"
    if given == ["prompt"] and (not isinstance(prompt, str) or not prompt):
        found.append("`prompt` must be a string, not empty")
    if given == ["messages"]:
        messages = _messages(row["messages"], found)
    answer = ""
    choices: tuple[str, ...] = ()
    if asked and given == ["text"]:
        found.append("has a `text`, which asks nothing; give `prompt` or `messages`")
    elif asked and given and "answer" not in row and "choices" not in row:
        kind = "prompt"
    elif given == ["text"]:
        kind = "loss"
        answer = row["text"]
        if not isinstance(answer, str) or not answer:
            found.append("`text` must be a string, not empty")
        found += [f"{quoted(key)} is not used with `text`; leave it out" for key in ("answer", "choices") if key in row]
    elif "choices" in row:
        kind = "choice"
        answer, choices = _choices(row, found)
        if loss:
            found.append("has `choices`, which have no loss; leave them out, or measure accuracy instead of loss")
    else:
        kind = "loss" if loss else "match"
        answer = _answer(row.get("answer"), found)
        if loss and not answer:
            found.append("`answer` is empty, so it has no loss")
    example = Example(str(identity), line, answer, prompt if given == ["prompt"] else None, messages, choices)
    return str(name), kind, example


def _answer(value: Any, found: list[str]) -> str:
    if value is None:
        found.append("`answer` is missing")
    elif isinstance(value, bool) or not isinstance(value, str | int | float):
        found.append("`answer` must be a string or a number")
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
        found.append("`choices` must be a list of two or more different strings")
        return "", ()
    if answer is None:
        found.append("`answer` is missing")
    elif isinstance(answer, str) and answer in choices:
        return answer, tuple(choices)
    elif (place := _place(answer)) is not None and 0 <= place < len(choices):
        return choices[place], tuple(choices)
    else:
        found.append(f"`answer` is {answer!r}; give one of the choices, or its index (from 0)")
    return "", ()


def _place(answer: Any) -> int | None:
    """A place among choices: a number, or its digits, as a cell of a CSV file holds them."""
    if isinstance(answer, str):
        return int(answer) if answer.isascii() and answer.isdecimal() and len(answer) < 6 else None
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None


def _messages(value: Any, found: list[str]) -> tuple[Mapping[str, str], ...] | None:
    if not isinstance(value, list) or not value:
        found.append("`messages` must be a list of messages")
        return None
    for place, message in enumerate(value):
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            found.append(f"message {place + 1} has no `role` ({', '.join(ROLES)}) or `content`")
            return None
    if value[-1]["role"] == "assistant":
        found.append("the last message is the assistant's; move it to `answer`")
    return tuple({"role": m["role"], "content": m["content"], **dict(sorted(m.items()))} for m in value)


def _once(examples: Iterable[Example], task: str, file: str, where: str) -> tuple[tuple[Example, ...], list[str]]:
    """Examples, each question once and each with an id of its own; and what there was to change."""
    kept: dict[tuple[str, tuple[str, ...]], Example] = {}
    ids: set[str] = set()
    again: list[int] = []
    otherwise: list[int] = []
    renamed: list[int] = []
    for example in examples:
        first = kept.setdefault((example.question or example.answer, example.choices), example)
        if first is not example:
            (again if first.answer == example.answer else otherwise).append(example.line)
            continue
        if example.id in ids:
            renamed.append(example.line)
            numbers = (f"{example.id} ({number})" for number in itertools.count(2))
            unused = next(name for name in numbers if name not in ids)
            kept[example.question or example.answer, example.choices] = example = replace(example, id=unused)
        ids.add(example.id)
    lots = (
        (again, "are duplicates; each counts once"),
        (otherwise, "repeat a question with another answer; the first answer counts"),
        (renamed, "share the id of another example; they get new ids"),
    )
    of = f"{file}, task {task!r}"
    told = [f"{of}: {len(lines):,} example(s) {what} ({places(where, lines)})." for lines, what in lots if lines]
    return tuple(kept.values()), told
