"""Every way in which tuneport says no, in words.

An error names which thing, what is wrong with it and what to do next; the command line prints it and exits with status 1.
Nothing else is raised on purpose, so any other exception is a defect of tuneport. A message names an option with `named`: who
shows the message writes the name as its reader does (``learning_rate``, ``--learning-rate``), and so are warnings written.

    TuneportError
     ├── UsageError          options that are not valid, with a fault for each (exit status 2; a TypeError too)
     ├── CheckpointError     a file or folder that is not a readable checkpoint
     │    └── HubError       a model that the Hub does not give
     ├── ForeignFileError    a file of others that is not opened: a pipe, a device, a link out of its folder (an OSError too)
     ├── PairingError        tensors, tokens or architectures that do not belong together
     ├── SidecarError        configs or tokenizer files that cannot be merged by rule
     ├── DataError           training data or examples that cannot be read, or do not fit what is asked
     │    └── RenderingError a chat template that does not write a conversation, or is not a valid template
     ├── TrainingError       a fine-tuning that cannot go on
     ├── NumericsError       NaN or infinity, or a diff vector that is zero
     ├── PublishError        a push that the Hub does not take, or that would replace what is not ours
     ├── OutputError         the place to write to: locked, full, or not to be written
     │    └── TakenError     something else stands there, or work that was begun with another plan
     ├── PlatformError       what this system does not have (Windows without WSL)
     ├── DoubtError          a warning that --strict turns into a stop
     ├── VerificationError   an output that is not what its manifest or its parents say
     ├── StudyError          a study's file that cannot be meant as it stands, or steps of it that failed
     ├── ScoringError        a model that could not be scored on a task
     ├── LeakageError        a test by whose examples models were chosen
     ├── ReportError         a study's folder that no page can be made of
     └── WorkerError         a worker process that was ended from outside
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Around the name of an option in a message, and between it and a value. (repr() of a value never holds them.)
_MARK, _WITH = "\x1f", "\x1e"
_NAMED = re.compile(
    f"{_MARK}([a-z_]+)(?:{_WITH}([^{_MARK}{_WITH}]*))?{_MARK}"
)  # a name of others may hold the marks too
_CONTROL = re.compile("[\x00-\x1f]")
# Options of several values whose flag, or key in a file, is in the singular: it is given once for each.
_SINGULAR = {"rules": "rule", "renames": "rename", "rewards": "reward", "diffs": "diff", "families": "family"}
# Options that hold pairs, which the command line and a file take as NAME=VALUE. Those that a file takes several of are a list there.
_PAIRS = ("rules", "renames", "config", "sidecar", "vocabulary")
_LISTS = ("rules", "renames", "config", "sidecar", "drop", "rewards")
_NO_QUOTES = re.compile(r"[\w@%+=:,./|…-]+")


@dataclass(frozen=True)
class Style:
    """How a reader writes an option: as a keyword in Python, a flag of the command line, or a key in a study's file."""

    prefix: str
    dashes: bool
    equals: str

    def name(self, option: str) -> str:
        """An option's name as this reader writes it."""
        return self.prefix + (_SINGULAR.get(option, option).replace("_", "-") if self.dashes else option)

    def setting(self, option: str, value: str) -> str:
        """An option with a value, as this reader writes the two."""
        if self.prefix:
            return f"{self.name(option)} {value if _NO_QUOTES.fullmatch(value) else shlex.quote(value)}"
        key, pair, side = value.rpartition("=")
        if self.dashes:
            text = f"[{json.dumps(value, ensure_ascii=False)}]" if option in _LISTS else _literal(value)
        else:
            text = f"{{{key!r}: {_literal(side)}}}" if pair and option in _PAIRS else _literal(value)
        return f"{self.name(option)}{self.equals}{text}"

    def message(self, text: str) -> str:
        """A message with its options as this reader writes them."""
        return _NAMED.sub(self._option, text)

    def _option(self, found: re.Match[str]) -> str:
        return self.name(found[1]) if found[2] is None else self.setting(found[1], found[2])


PYTHON = Style("", dashes=False, equals="=")
FLAGS = Style("--", dashes=True, equals=" ")
KEYS = Style("", dashes=True, equals=" = ")
_reader = PYTHON


@contextlib.contextmanager
def read_by(style: Style) -> Iterator[None]:
    """While the block runs, whoever reads messages writes options in this style (all threads of the process)."""
    global _reader
    before, _reader = _reader, style
    try:
        yield
    finally:
        _reader = before


def named(option: str, value: object = None) -> str:
    """The name of an option inside a message; with a value, as the command line takes it, what sets it to that."""
    if value is None:
        return f"{_MARK}{option}{_MARK}"
    shown = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
    return f"{_MARK}{option}{_WITH}{shown}{_MARK}"


def spoken(texts: Iterable[str]) -> tuple[str, ...]:
    """Warnings as they are shown: options as the reader writes them."""
    return tuple(map(_reader.message, texts))


def recorded(texts: Iterable[str]) -> list[str]:
    """Warnings as records hold them: options as the command line writes them, whoever ran it."""
    return [FLAGS.message(text) for text in texts]


def _literal(value: str) -> str:
    """A value in Python and TOML: numbers as they are, anything else as a string."""
    return value if re.fullmatch(r"-?\d+(\.\d+)?", value) else json.dumps(value, ensure_ascii=False)


class _Absent:
    """The value of an option that was not given, or whose value tells nothing."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(frozen=True)
class Fault:
    """What is wrong with one option: its name, its value, the problem, and what to do (sentences, without full stop)."""

    option: str
    value: object
    problem: str
    remedy: str = ""

    def words(self, style: Style | None = None) -> str:
        """Problem and remedy, without the option."""
        style = style or _reader
        remedy = f" {self.remedy}{'' if self.remedy.endswith('?') else '.'}" if self.remedy else ""
        return style.message(f"{self.problem}.{remedy}")

    def message(self, style: Style | None = None) -> str:
        """The whole fault, for a person."""
        style = style or _reader
        given = "" if isinstance(self.value, _Absent) else f"{style.equals}{_shown(self.value)}:"
        return f"{style.name(self.option)}{given} {self.words(style)}"

    def beside(self, style: Style) -> str:
        """The fault where the option's name stands before it already: value, problem and remedy, without full stop."""
        given = "" if isinstance(self.value, _Absent) else f"{_shown(self.value)}: "
        return (given + self.words(style)).removesuffix(".")


def _shown(value: object) -> str:
    return shortened(repr(value), 121)


class TuneportError(Exception):
    """The parent of all: ``str(error)`` is the whole message for a person."""

    exit_status = 1

    def __str__(self) -> str:
        """The message, with options named as whoever reads it writes them: in Python as keywords (see `read_by`)."""
        return self.message()

    def message(self, style: Style | None = None) -> str:
        """The message, with options named in a style."""
        return (style or _reader).message(super().__str__())


class UsageError(TuneportError, TypeError):
    """Options that are not valid: ``faults`` says what is wrong with each. (A `TypeError` too, as Python's own is.)

    A text instead of faults is for what is wrong with no single option, or with the machine (an extra that is not installed).
    """

    exit_status = 2

    def __init__(self, what: str | Fault | Sequence[Fault]) -> None:
        """Keep the faults, or the text."""
        self.text = what if isinstance(what, str) else ""
        self.faults = () if isinstance(what, str) else (what,) if isinstance(what, Fault) else tuple(what)
        super().__init__(what)

    def message(self, style: Style | None = None) -> str:
        """The text, or every fault."""
        style = style or _reader
        if not self.faults:
            return style.message(self.text)
        if len(self.faults) == 1:
            return self.faults[0].message(style)
        return f"{len(self.faults)} options are not valid:{listing([fault.message(style) for fault in self.faults])}"


class CheckpointError(TuneportError):
    """A file or folder that is not a readable checkpoint."""


class HubError(CheckpointError):
    """A model that the Hub does not give: unknown, gated, or out of reach."""


class ForeignFileError(TuneportError, OSError):
    """A file of others that is not opened: no plain file, too large, or a link that leads out of its folder.

    Also an `OSError`, with ``strerror`` and ``filename``: who puts into words what the system refuses says this as well.
    """

    def message(self, style: Style | None = None) -> str:
        """Which file, and why."""
        return f"{self.filename}: {self.strerror}."


class PairingError(TuneportError):
    """Tensors, tokens or architectures that do not belong together."""


class SidecarError(TuneportError):
    """Configs, templates or tokenizer files that cannot be merged by rule."""


class DataError(TuneportError):
    """Training data or examples that cannot be read, that fit no form, or not the one that is needed."""


class RenderingError(DataError):
    """A chat template does not write a conversation; ``broken``: it would write no other one either."""

    def __init__(self, message: str, *, broken: bool = False) -> None:
        """Keep the message, and whether the template itself is at fault."""
        super().__init__(message)
        self.broken = broken


class TrainingError(TuneportError):
    """A fine-tuning that cannot go on: a loss that is no number, a model that cannot be trained as asked."""


class NumericsError(TuneportError):
    """NaN or infinity where there must be none, or a diff vector that is zero throughout."""


class PublishError(TuneportError):
    """A push that the Hub does not take, or that would replace what tuneport did not push."""


class OutputError(TuneportError):
    """The place to write to is locked, full, or cannot be written."""


class TakenError(OutputError):
    """The place to write to holds something else, or work that was begun with another plan."""


class PlatformError(TuneportError):
    """What tuneport needs of a system and this one does not have."""


class DoubtError(TuneportError):
    """Something looks wrong and ``--strict`` was asked for."""


class VerificationError(TuneportError):
    """An output is not what its manifest, or its parents, say it is."""


class StudyError(TuneportError):
    """A study's file that cannot be meant as it stands (every fault with its line), or steps of a study that failed."""


class ScoringError(TuneportError):
    """The harness could not score a model on a task, or has no such task."""


class LeakageError(TuneportError):
    """Examples of a test are those that a model was selected by, so that its scores on them are no test any more."""


class ReportError(TuneportError):
    """A study's folder that no page can be made of: nothing readable is in it."""


class WorkerError(TuneportError):
    """A worker process was ended from outside, by the system or by a person."""


_ITEM = "  - "
MOST_SHOWN = 20


def listing(items: list[str], most: int | None = None) -> str:
    """Indented lines, one per item; past ``most`` the rest is counted, never dropped without a word.

    Without ``most`` all of them are there: who shows a message to a person cuts it with `in_brief`.
    """
    shown = [f"\n{_ITEM}{item}" for item in items[:most]]
    if most is not None and len(items) > most:
        shown.append(f"\n{_ITEM}… and {len(items) - most} more")
    return "".join(shown)


def in_brief(message: str) -> str:
    """A message for a terminal: of each list in it the first twenty lines, and how many are not shown."""
    shown: list[str] = []
    listed = 0
    for line in message.split("\n"):
        listed = listed + 1 if line.startswith(_ITEM) else 0
        if listed > MOST_SHOWN:
            del shown[len(shown) - (listed > MOST_SHOWN + 1) :]
            shown.append(f"{_ITEM}… and {listed - MOST_SHOWN} more (--json lists all)")
        else:
            shown.append(line)
    return "\n".join(shown)


def in_short(value: Any, most: int = 160) -> str:
    """A value for a message: JSON, cut in the middle of nowhere when it is long."""
    return shortened(json.dumps(value, ensure_ascii=False, default=str), most + 1)


def shortened(text: str, most: int) -> str:
    """A text of at most so many letters, of which the last says that something was cut off."""
    return text if len(text) <= most else text[: most - 1] + "…"
