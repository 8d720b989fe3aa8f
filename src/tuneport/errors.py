"""All errors that tuneport raises on purpose.

A message says what is wrong with which thing, and what to do next; the command line prints it and exits with status 1.
Any other exception is a bug in tuneport. Messages and warnings name an option with `named`; it is shown as the reader
writes it (``learning_rate``, ``--learning-rate``).

    TuneportError
     ├── UsageError          options that are not valid, with a fault for each (exit status 2; a TypeError too)
     ├── CheckpointError     a file or folder that is not a readable checkpoint
     │    └── HubError       a model that cannot be read from the Hub
     ├── ForeignFileError    a foreign file that is not opened: a pipe, a device, a link out of its folder (an OSError
     too) ├── PairingError        tensors, tokens or architectures that do not belong together
     ├── SidecarError        configs or tokenizer files that cannot be merged by rule
     ├── DataError           training data or examples that cannot be read, or do not fit what is asked
     │    └── RenderingError a chat template that cannot render a conversation, or is not valid
     ├── TrainingError       a fine-tuning that cannot continue
     ├── NumericsError       NaN or infinity, or a diff vector that is zero
     ├── PublishError        a push that the Hub rejects, or that would replace others' files
     ├── OutputError         the place to write to: locked, full, or not to be written
     │    └── TakenError     other contents, or work that was started with a different plan
     ├── PlatformError       what this system does not have (Windows without WSL)
     ├── DoubtError          a warning that --strict turns into a stop
     ├── VerificationError   an output that does not match its manifest or its parents
     ├── StudyError          a study file that is not valid, or failed steps of a study
     ├── ScoringError        a model that could not be scored on a task
     ├── LeakageError        a test whose examples were used to choose models
     ├── ReportError         a study's folder without readable results
     └── WorkerError         a worker process that was killed from outside
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
_SINGULAR = {
    "rules": "rule",
    "renames": "rename",
    "row_rules": "row_rule",
    "rewards": "reward",
    "diffs": "diff",
    "families": "family",
}
_SINGULAR |= {"form": "as"}  # which Python keeps for itself
_ARGUMENTS = {"models": "MODEL"}  # what the command line takes without a flag
# Options that hold pairs, which the command line and a file take as NAME=VALUE. Those that a file takes several of are a list there.
_PAIRS = ("rules", "row_rules", "renames", "config", "sidecar", "vocabulary")
_LISTS = ("rules", "row_rules", "renames", "config", "sidecar", "drop", "rewards")
_NO_QUOTES = re.compile(r"[\w@%+=:,./|…-]+")


@dataclass(frozen=True)
class Style:
    """How a reader writes an option: as a keyword in Python, a flag of the command line, or a key in a study's file."""

    prefix: str
    dashes: bool
    equals: str

    def name(self, option: str) -> str:
        """An option's name as this reader writes it."""
        if self.prefix and option in _ARGUMENTS:
            return _ARGUMENTS[option]
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
    """The value of an option that was not given, or whose value is not worth showing."""

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
        if style.prefix and isinstance(self.value, tuple | list):  # a flag's values stand behind it, one after another
            given = f" {_shown(self.value, ' '.join(map(str, self.value)))}:" if self.value else ""
        return f"{style.name(self.option)}{given} {self.words(style)}"

    def beside(self, style: Style) -> str:
        """The fault where the option's name stands before it already: value, problem and remedy, without full stop."""
        given = "" if isinstance(self.value, _Absent) else f"{_shown(self.value)}: "
        return (given + self.words(style)).removesuffix(".")


def _shown(value: object, text: str | None = None) -> str:
    return shortened(repr(value) if text is None else text, 121)


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

    A text instead of faults is for problems of no single option, or of the machine (an extra that is not installed).
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
    """A model that cannot be read from the Hub: unknown, gated, or offline."""


class ForeignFileError(TuneportError, OSError):
    """A foreign file that is not opened: not a plain file, too large, or a link out of its folder. Also an `OSError`,
    with ``strerror`` and ``filename``, so code that reports the system's errors reports it too.
    """

    def message(self, style: Style | None = None) -> str:
        """Which file, and why."""
        return f"{self.filename}: {self.strerror}."


class PairingError(TuneportError):
    """Tensors, tokens or architectures that do not belong together."""


class SidecarError(TuneportError):
    """Configs, templates or tokenizer files that cannot be merged by rule."""


class DataError(TuneportError):
    """Training data or examples that cannot be read, or do not have the form that is needed."""


class RenderingError(DataError):
    """A chat template cannot render a conversation; ``broken``: nor any other one."""

    def __init__(self, message: str, *, broken: bool = False) -> None:
        """Keep the message, and whether the template itself is at fault."""
        super().__init__(message)
        self.broken = broken


class TrainingError(TuneportError):
    """A fine-tuning that cannot continue: a loss that is not a number, a model that cannot be trained."""


class NumericsError(TuneportError):
    """Unexpected NaN or infinity, or a diff vector that is zero throughout."""


class PublishError(TuneportError):
    """A push that the Hub rejects, or that would replace files that tuneport did not push."""


class OutputError(TuneportError):
    """The place to write to is locked, full, or cannot be written."""


class TakenError(OutputError):
    """The place to write to has other contents, or work that was started with a different plan."""


class PlatformError(TuneportError):
    """The system lacks something that tuneport needs."""


class DoubtError(TuneportError):
    """A warning that ``--strict`` turns into an error."""


class VerificationError(TuneportError):
    """An output does not match its manifest or its parents."""


class StudyError(TuneportError):
    """A study file that is not valid (every fault with its line), or failed steps of a study."""


class ScoringError(TuneportError):
    """The harness could not score a model on a task, or has no such task."""


class LeakageError(TuneportError):
    """Models were chosen on the examples of a test, so scores on them are no longer a test."""


class ReportError(TuneportError):
    """A study's folder without readable results, so there is no page to make."""


class WorkerError(TuneportError):
    """A worker process was killed from outside, by the system or by a person."""


_ITEM = "  - "
MOST_SHOWN = 20


def listing(items: list[str], most: int | None = None) -> str:
    """Indented lines, one per item; past ``most`` the rest is counted, never dropped silently. Without ``most`` all
    items are listed: who shows a message to a person cuts it with `in_brief`.
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
