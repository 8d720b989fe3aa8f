"""The record beside each result: the choices, the parents, and the outcome.

record.json is written last. Except for `seconds` and `versions`, nothing in it depends on when, where or by which
engine the step ran, so records of two runs can be compared byte for byte.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from blake3 import blake3

from tuneport import __version__
from tuneport.files.json_text import read_json
from tuneport.libraries import packages
from tuneport.results.schema import RECORD, RECORD_FORMAT
from tuneport.studies.graph.command_line import by_hand
from tuneport.studies.graph.graph import Step

ERROR = "error.txt"  # the traceback of a failure that no command foresaw

# What a command leaves on its way, and removes when it is done.
_UNFINISHED = (".partial", ".new", ".unfinished")
# Records of the commands: they hold seconds or times of change, so their bytes are not the same from run to run.
_RECORDS = frozenset(
    {
        "family.json",
        "tuneport.json",
        "tune.json",
        "adapt.json",
        "log.jsonl",
        "curve.jsonl",
        "scores.json",
        "path.json",
        "distance.json",
        "rounding.json",
        "compare.json",
    }
)

Outcome = Literal["done", "failed", "dropped"]


@dataclass(frozen=True)
class Record:
    """How a step ended. `outputs` holds size and BLAKE3 of each file; null for records of the commands, which hold times."""

    name: str
    kind: str
    identity: str
    choices: Mapping[str, Any]
    parents: Mapping[str, Mapping[str, str]]
    outcome: Outcome
    error: str | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    command: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        """A digest of its repeatable outputs, on which its children depend."""
        return digest_of(self.outputs)

    def in_json(self) -> dict[str, Any]:
        """What record.json holds."""
        return {"format": RECORD_FORMAT, **asdict(self)}

    def content(self) -> bytes:
        """The bytes of record.json."""
        return (json.dumps(self.in_json(), indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def ended(
    step: Step,
    outcome: Outcome,
    *,
    error: str | None = None,
    measured: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Mapping[str, Any] | None] | None = None,
    seconds: float = 0.0,
) -> Record:
    """The record of a step that came to its end, well or not."""
    parents = {
        role: {"name": parent.step.name, "identity": parent.step.identity, "part": parent.part}
        for role, parent in sorted(step.parents.items())
    }
    return Record(
        name=step.name,
        kind=step.kind,
        identity=step.identity,
        choices=dict(step.choices),
        parents=parents,
        outcome=outcome,
        error=error,
        measured=dict(measured or {}),
        outputs=dict(outputs or {}),
        command=by_hand(step),
        about=dict(step.about),
        versions={"python": platform.python_version(), "tuneport": __version__, **packages()},
        seconds=round(seconds, 3),
    )


def read(content: bytes) -> Record | None:
    """A record from the bytes of record.json; None where they are no whole record (a kill, another program)."""
    try:
        found = read_json(content)
        if found.pop("format") != RECORD_FORMAT:
            return None
        names = {each.name for each in fields(Record)}
        record = Record(**{name: value for name, value in found.items() if name in names})
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    mappings = (record.choices, record.parents, record.measured, record.outputs, record.about)
    whole = record.outcome in get_args(Outcome) and all(isinstance(one, dict) for one in mappings)
    whole = whole and isinstance(record.identity, str) and isinstance(record.seconds, int | float)
    whole = whole and all(
        isinstance(one, dict) and {"name", "identity", "part"} <= one.keys() for one in record.parents.values()
    )
    whole = whole and all(map(_is_seen, record.outputs.values())) and all(map(_is_below, record.outputs))
    return record if whole else None


def _is_below(name: str) -> bool:
    """Whether a name stays in its folder: outputs of a deleted model are removed by name."""
    return not {"", ".", ".."} & set(name.split("/"))


def _is_seen(seen: Any) -> bool:
    return seen is None or (isinstance(seen, dict) and {"size", "blake3"} <= seen.keys())


def outputs_of(place: Path) -> dict[str, dict[str, Any] | None]:
    """Every finished file below a step's place, by relative name, with its size and digest where its bytes repeat."""
    found: dict[str, dict[str, Any] | None] = {}
    for path in finished_files(place):
        name = path.relative_to(place).as_posix()
        if path.name in _RECORDS:
            found[name] = None
        else:
            found[name] = {"size": path.stat().st_size, "blake3": _digest(path)}
    return found


def finished_files(place: Path) -> Iterator[Path]:
    """The files of a step, in order, without its record and without what was cut short."""
    for path in sorted(place.rglob("*")):
        parts = path.relative_to(place).parts
        if (
            path.is_file()
            and not path.is_symlink()
            and parts[0] not in (RECORD, ERROR)
            and not any(p.endswith(_UNFINISHED) for p in parts)
        ):
            yield path


def lost(record: Record, sizes: Mapping[str, int]) -> list[str]:
    """The outputs that are not there any more, or have another size; `sizes` are of the files in the step's folder."""
    return [
        name
        for name, seen in record.outputs.items()
        if name not in sizes or (seen is not None and sizes[name] != seen["size"])
    ]


def different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the files that are not the same in two lists of outputs."""
    return sorted(name for name in {*before, *now} if before.get(name, 0) != now.get(name, 0))


def digest_of(outputs: Mapping[str, Mapping[str, Any] | None]) -> str:
    """One digest for all files whose bytes repeat."""
    lines: Iterable[str] = (f"{name}\0{seen['blake3']}\0" for name, seen in sorted(outputs.items()) if seen is not None)
    return blake3("".join(lines).encode()).hexdigest()


def _digest(path: Path) -> str:
    hasher = blake3(max_threads=1)
    if path.stat().st_size:
        hasher.update_mmap(path)
    return hasher.hexdigest()
