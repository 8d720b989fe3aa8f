"""Training data, read and checked before anything is trained.

In come names of JSONL or Parquet files, or of data sets on the Hub; out come sources, each with its rows, all of one
form that the recipe can use. Whatever is wrong with a file is told at once, with its lines.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.errors import DataError, UsageError, listing

Row = dict[str, Any]

# The fields of each form, and which recipes train on it.
FORMS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
}
FORMS_OF = {"sft": ("messages", "prompt-completion", "text"), "dpo": ("preference",), "grpo": ("prompt",)}
HUB = re.compile(  # ORG/NAME[@REVISION][:SPLIT][?COLUMN=VALUE&FIELD:COLUMN&…]
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.+/-]+))?(?::(?P<split>[\w.+-]+))?"
    r"(?:\?(?P<choice>[\w.-]+[=:][^&?]+(?:&[\w.-]+[=:][^&?]+)*))?"
)
_LINES, _PARQUET = (".jsonl", ".json", ".ndjson"), (".parquet",)


@dataclass(frozen=True)
class Source:
    """One file or data set: its rows in order, all of one form. ``digest`` is of the file's bytes (None: the Hub)."""

    name: str
    form: str
    rows: Sequence[Row]
    digest: str | None = None
    revision: str | None = None
    available: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are trained on."""
        return FORMS[self.form]

    def record(self) -> dict[str, Any]:
        """What a record says of this source: which data, which rows of it."""
        rows = blake3()
        for row in self.rows:
            used = row if self.form == "prompt" else {field: row[field] for field in self.fields}
            rows.update(json.dumps(used, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace"))
            rows.update(b"\n")
        return {
            "name": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "form": self.form,
            "rows": len(self.rows),
            "of": self.available,
            "rows_digest": f"blake3:{rows.hexdigest()}",
            "ignored_fields": list(self.ignored),
        }


@dataclass(frozen=True)
class Share:
    """How much of one source is used: a fraction of its rows, or a count."""

    name: str
    amount: float | int

    def of(self, available: int) -> int:
        """The number of rows."""
        if isinstance(self.amount, int):
            if self.amount > available:
                raise UsageError(f"--mix {self.name}={self.amount}: there are {available} rows. Give a smaller count.")
            return self.amount
        return max(1, round(self.amount * available))


def parse_share(text: str) -> Share:
    """``NAME=FRACTION`` (with a point, up to 1.0) or ``NAME=COUNT``. Raises `UsageError`."""
    name, _, amount = text.rpartition("=")
    if name and re.fullmatch(r"\d+", amount) and int(amount) > 0:
        return Share(name, int(amount))
    if name and re.fullmatch(r"\d*\.\d*", amount) and amount != "." and 0 < float(amount) <= 1:
        return Share(name, float(amount))
    raise UsageError(
        f"--mix {text!r}: write it as NAME=COUNT (a whole number of rows) or NAME=FRACTION (such as 0.065, up to 1.0)."
    )


def read_sources(names: Sequence[str | os.PathLike[str]], recipe: str, mix: Sequence[Share], seed: int) -> list[Source]:
    """Every source, checked; of those that ``mix`` names, a seeded choice of rows, in their own order.

    Raises `DataError` with all faults of a file and their lines, `UsageError` for a mix that names no source.
    """
    if not names:
        raise UsageError("There is no training data: give --data.")
    sources = [_read(os.fspath(name), recipe) for name in names]
    labels = [source.name for source in sources]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise UsageError(f"--data: {', '.join(twice)} is given twice, or two files have one name. Rename one of them.")
    shared: set[int] = set()
    for share in mix:
        matching = [place for place, source in enumerate(sources) if share.name in _called(source, names[place])]
        if len(matching) != 1:
            raise UsageError(f"--mix {share.name}: choose one of the --data: {', '.join(labels)}.")
        if matching[0] in shared:
            raise UsageError(f"--mix {share.name}: a share of {labels[matching[0]]} was given before. Give one.")
        shared.add(matching[0])
        sources[matching[0]] = _share_of(sources[matching[0]], share, seed)
    return sources


def _called(source: Source, given: str | os.PathLike[str]) -> set[str]:
    return {source.name, os.fspath(given), Path(source.name).stem}


def _share_of(source: Source, share: Share, seed: int) -> Source:
    count = share.of(source.available)
    chosen = sorted(random.Random(f"{seed} {source.name}").sample(range(source.available), count))
    rows = [source.rows[place] for place in chosen]
    return Source(source.name, source.form, rows, source.digest, source.revision, source.available, source.ignored)


def _read(name: str, recipe: str) -> Source:
    if not name:
        raise DataError("--data is empty: give a file, or a data set id (org/name[@REVISION][:SPLIT][?…]).")
    path = Path(os.path.expanduser(name))
    digest = revision = None
    if path.is_file():
        label, where = path.name, "line"
        if path.suffix in _LINES:
            rows, faults = _read_lines(path)
        elif path.suffix in _PARQUET:
            (rows, faults), where = _read_parquet(path), "row"
        else:
            raise DataError(f"{name}: give a file that ends in {', '.join((*_LINES, *_PARQUET))}.")
        digest = f"blake3:{blake3(path.read_bytes()).hexdigest()}"
    elif path.is_dir():
        raise DataError(f"{name} is a folder. Give the files in it, each with a --data of its own.")
    else:
        found = HUB.fullmatch(name)
        if found is None or name.startswith((".", "/", "~")):
            raise DataError(f"{name}: no such file, and no data set id either (org/name[@REVISION][:SPLIT][?…]).")
        rows, revision = _read_hub(found["id"], found["revision"], found["split"] or "train")
        if found["choice"] is not None:
            rows = _chosen(rows, found["choice"], name)
        label, where, faults = name, "row", []
    if not rows and not faults:
        raise DataError(f"{label} is empty: there is nothing to train on.")
    form, ignored, more = _form_of(rows, recipe, where)
    faults += more
    if faults:
        ordered = [text for _, text in sorted(faults, key=lambda fault: fault[0])]
        raise DataError(f"{label} cannot be trained on; {len(faults)} fault(s):{listing(ordered)}")
    kept = [row for _, row in rows]
    return Source(label, form, kept, digest, revision, len(kept), tuple(ignored))


Numbered = list[tuple[int, Row]]
Faults = list[tuple[int, str]]


def _read_lines(path: Path) -> tuple[Numbered, Faults]:
    rows: Numbered = []
    faults: Faults = []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                faults.append((number, f"line {number}: no UTF-8 text"))
                continue
            except (ValueError, RecursionError) as error:
                faults.append((number, f"line {number}: no JSON ({error})"))
                continue
            if isinstance(row, dict):
                rows.append((number, row))
            else:
                faults.append((number, f"line {number}: a JSON {type(row).__name__}, not an object with fields"))
    return rows, faults


def _read_parquet(path: Path) -> tuple[Numbered, Faults]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {str(error).splitlines()[0]}") from None
    return list(enumerate(table.to_pylist(), 1)), []


def _read_hub(name: str, revision: str | None, split: str) -> tuple[Numbered, str | None]:
    import datasets

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, revision=revision, split=split)
    except Exception as error:  # the library raises errors of a dozen families, its own, the Hub's and the system's
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"The data set {name} (split {split}) does not come from the Hub: {first}. Check the id, the split "
            "(org/name:SPLIT), your login and, offline, that it is in the cache."
        ) from None
    return list(enumerate(found.to_list(), 1)), revision


def _chosen(rows: Numbered, choice: str, name: str) -> Numbered:
    """Only rows whose columns have the values that `choice` says (COLUMN=VALUE), with fields from columns (FIELD:COLUMN)."""
    parts = [[*re.split("[=:]", part, maxsplit=1), part] for part in choice.split("&")]
    wanted = {column: value for column, value, part in parts if part[len(column)] == "="}
    taken = {field: column for field, column, part in parts if part[len(field)] == ":"}
    columns = {column for _, row in rows for column in row}
    missing = sorted({*wanted, *taken.values()} - columns)
    if missing:
        raise DataError(f"{name}: there is no column {', '.join(missing)}; there are {', '.join(sorted(columns))}.")
    kept = []
    for number, row in rows:
        if all(str(row.get(column)) == value for column, value in wanted.items()):
            renamed = {column: value for column, value in row.items() if column not in taken.values()}
            kept.append((number, {**renamed, **{field: row.get(column) for field, column in taken.items()}}))
    return kept


def _form_of(rows: Numbered, recipe: str, where: str) -> tuple[str, list[str], Faults]:
    """The one form of all rows, the fields that are not used, and what is wrong."""
    wanted = FORMS_OF[recipe]
    first: dict[str, int] = {}
    counts: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    by_reason: dict[str, list[int]] = defaultdict(list)
    fitting: list[tuple[int, Row, str]] = []
    for number, row in rows:
        given = {field for field, value in row.items() if value is not None}
        fields.update(given)
        forms = [form for form in wanted if set(FORMS[form]) <= given]
        if len(forms) == 1:
            spoken = forms[0] != "messages" and isinstance(row.get("prompt"), list)
            kind = f"{forms[0]} of messages" if spoken else forms[0]
            first.setdefault(kind, number)
            counts[kind] += 1
            fitting.append((number, row, forms[0]))
        elif forms:
            by_reason[f"fits more than one form ({', '.join(forms)}); leave the fields of one"].append(number)
        else:
            has = ", ".join(sorted(given)) or "nothing"
            by_reason[f"has {has}; {recipe} needs {_wanted(wanted)}"].append(number)
    faults: Faults = [(numbers[0], f"{where} {_numbers(numbers)}: {reason}") for reason, numbers in by_reason.items()]
    if len(first) > 1:
        kinds = ", ".join(f"{counts[form]} × {form} (first: {where} {number})" for form, number in first.items())
        faults.append((min(first.values()), f"forms are mixed: {kinds}; put each into a file of its own"))
    for number, row, form in fitting:
        faults += [(number, f"{where} {number}: {fault}") for fault in _CHECKS[form](row)]
    form = next(iter(first), wanted[0]).removesuffix(" of messages")
    used = {*FORMS[form], *(fields if form == "prompt" else ())}
    return form, sorted(set(fields) - used), faults


def _wanted(forms: Sequence[str]) -> str:
    return ", or ".join(" and ".join(f"`{field}`" for field in FORMS[form]) for form in forms)


def _numbers(numbers: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(str(number) for number in numbers[:most])
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"


def _check_text(row: Row, field: str) -> list[str]:
    value = row[field]
    if not isinstance(value, str):
        return [f"`{field}` is a {type(value).__name__}, not a text"]
    if not value.strip():
        return [f"`{field}` is empty"]
    if any("\ud800" <= character <= "\udfff" for character in value):
        return [f"`{field}` holds half a character (a lone surrogate)"]
    return []


def _check_messages(row: Row, field: str, *, last: str | None = None) -> list[str]:
    value = row[field]
    if not isinstance(value, list) or not value:
        return [f"`{field}` is no list of messages"]
    faults = []
    for place, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            faults.append(f"`{field}`: message {place} has no role")
        elif not isinstance(message.get("content"), str):
            faults.append(f"`{field}`: message {place} ({message['role']}) has no text in `content`")
    if not faults and last is not None and value[-1]["role"] != last:
        faults.append(
            f"`{field}` ends with the role {value[-1]['role']!r}, not {last!r}: there is no answer to train on"
        )
    if not faults and last == "assistant" and not value[-1]["content"].strip():
        faults.append(f"`{field}`: the last answer is empty")
    return faults


def _check_conversation(row: Row) -> list[str]:
    return _check_messages(row, "messages", last="assistant")


def _check_completion(row: Row) -> list[str]:
    return _check_answers(row, "completion")


def _check_preference(row: Row) -> list[str]:
    faults = [*_check_answers(row, "chosen"), *_check_answers(row, "rejected")]
    if not faults and row["chosen"] == row["rejected"]:
        faults.append("`chosen` and `rejected` are the same: there is no preference")
    return list(dict.fromkeys(faults))


def _check_answers(row: Row, answer: str) -> list[str]:
    """A prompt and an answer, both texts or both lists of messages."""
    if isinstance(row["prompt"], list) != isinstance(row[answer], list):
        return [f"`prompt` and `{answer}` are not both texts, or both lists of messages"]
    if isinstance(row["prompt"], list):
        return [*_check_messages(row, "prompt"), *_check_messages(row, answer, last="assistant")]
    prompt = [] if row["prompt"] == "" else _check_text(row, "prompt")  # an empty prompt is one: free generation
    return [*prompt, *_check_text(row, answer)]


def _check_prompt(row: Row) -> list[str]:
    if isinstance(row["prompt"], list):
        return _check_messages(row, "prompt")
    return _check_text(row, "prompt")


_CHECKS: Mapping[str, Callable[[Row], list[str]]] = {
    "messages": _check_conversation,
    "prompt-completion": _check_completion,
    "text": lambda row: _check_text(row, "text"),
    "preference": _check_preference,
    "prompt": _check_prompt,
}
