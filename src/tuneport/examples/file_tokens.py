"""How many tokens the examples of files have, for estimates: counted with a tokenizer that is at hand, else guessed from bytes.

A few hundred rows of each file are counted, drawn from all of it, so that a file of any size takes a second or two.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tuneport.examples.data_rows import RowReading
from tuneport.examples.naming import ENDINGS, ending, file_of, find_data
from tuneport.files.opening import MOST_SIDECAR_BYTES, read_text
from tuneport.libraries import missing

BYTES_EACH = 4  # of a token, where no tokenizer is at hand: English in vocabularies of 32 to 256 thousand
_COUNTED = 256  # rows of a file
_QUESTION, _TRAINING = ("prompt", "choices"), ("text", "prompt", "completion", "chosen", "rejected")


@dataclass(frozen=True)
class FileRows:
    """Rows of a file: how many there are, and of some of them the tokens that are asked and that are trained on."""

    count: int
    asked: tuple[int, ...]
    trained: tuple[int, ...]

    def mean_asked(self) -> float:
        """Tokens of a prompt, on average."""
        return fmean(self.asked) if self.asked else 0.0

    def mean_trained(self, longest: int) -> float:
        """Tokens of a training example, each cut to ``longest``, on average."""
        return fmean(min(tokens, longest) for tokens in self.trained) if self.trained else 0.0


class FileTokens:
    """Counts the rows and tokens of files; each file is read once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Count with the tokenizer of the first of these model folders that has one."""
        self.tokenizer = next((file for folder in folders if (file := folder / "tokenizer.json").is_file()), None)
        if missing("tokenizers"):
            self.tokenizer = None
        self._tokens: Callable[[str], int] | None = None
        self._rows: dict[str, FileRows | None] = {}

    def of(self, place: str) -> FileRows | None:
        """The rows of a file, which may choose columns; None if it is not a data file."""
        if place not in self._rows:
            file = file_of(place)
            self._rows[place] = self._read(place) if file.is_file() and ending(file) in ENDINGS else None
        return self._rows[place]

    def _read(self, place: str) -> FileRows:
        drawn: list[Mapping[str, Any]] = []
        count, draw = 0, random.Random(0)
        for _, row in RowReading(find_data([place])[0]).rows():
            count += 1
            if len(drawn) < _COUNTED:
                drawn.append(row)
            elif (at := draw.randrange(count)) < _COUNTED:  # each row is as likely as any other
                drawn[at] = row
        return FileRows(count, tuple(map(self._asked, drawn)), tuple(map(self._trained, drawn)))

    def _asked(self, row: Mapping[str, Any]) -> int:
        turns = row.get("messages")
        asked = turns[:-1] if isinstance(turns, list) and "answer" not in row else turns
        return self._count([row.get(name) for name in _QUESTION] + [asked])

    def _trained(self, row: Mapping[str, Any]) -> int:
        return self._count([row.get(name) for name in (*_TRAINING, "messages")])

    def _count(self, value: Any) -> int:
        if self._tokens is None:
            self._tokens = _counter(self.tokenizer)
        return sum(map(self._tokens, _texts(value)))


def _counter(file: Path | None) -> Callable[[str], int]:
    if file is not None:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(read_text(file, most=MOST_SIDECAR_BYTES))
        except Exception:  # the library raises bare Exceptions; the steps themselves say what is wrong with it
            return _counter(None)
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    return lambda text: -(-len(text.encode()) // BYTES_EACH)


def _texts(value: Any) -> Iterable[str]:
    """Every text in a value, but for who speaks."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, Mapping):
        yield from _texts([part for name, part in value.items() if name != "role"])
