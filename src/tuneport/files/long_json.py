"""Read JSON documents with lists and objects of a hundred thousand entries in pieces, and keep them packed.

Returns the value of an open file as `json_text.read_json` does, but the long lists and objects keep their entries as
compressed text and make them when they are used.
"""

from __future__ import annotations

import codecs
import itertools
import json
import sys
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from tuneport.errors import in_short
from tuneport.files.json_text import read_json, takes_a_closer_look
from tuneport.files.lazy_sequences import IndexedSequence

# Bytes that are read at a time, and entries that are packed together.
_PIECE = 2**18
_BLOCK = 256
# With which a number may go on, as it may at the end of what was read (the empty text is in every text).
_OF_A_NUMBER = "0123456789.eE+-"
# Where a field stands: names, and "[]" for any place in a list.
Path = tuple[str, ...]


class NamedTwiceError(ValueError):
    """An object has one name twice, so that a reader might take either value."""


class PackedList(IndexedSequence[Any]):
    """A list that is kept as compressed JSON."""

    def __init__(self, entries: Iterable[Any]) -> None:
        """Pack these entries, one after another."""
        self._blocks: list[bytes] = []
        self._count = 0
        self._last: tuple[int, list[Any]] = -1, []
        block: list[Any] = []
        for entry in entries:
            block.append(entry)
            self._count += 1
            if len(block) == _BLOCK:
                self._blocks.append(_packed(block))
                block = []
        self._blocks.append(_packed(block))

    def __len__(self) -> int:
        """How many entries there are."""
        return self._count

    def at(self, place: int) -> Any:
        """The entry at a place, or the list of those at some."""
        number, within = divmod(place, _BLOCK)
        held, block = self._last
        if held != number:
            block = _unpacked(self._blocks[number])
            self._last = number, block
        return block[within]

    def __iter__(self) -> Iterator[Any]:
        """The entries in their order."""
        for block in self._blocks:
            yield from _unpacked(block)


class PackedObject(Mapping[str, Any]):
    """An object whose values are kept as compressed JSON, and whose names are in their order."""

    def __init__(self, names: list[str], values: PackedList) -> None:
        """The names, sorted, and the value of each."""
        self._names, self._values = names, values

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        """The names in their order."""
        return iter(self._names)

    def __getitem__(self, name: str) -> Any:
        """The value of a name."""
        place = bisect_left(self._names, name)
        if place == len(self._names) or self._names[place] != name:
            raise KeyError(name)
        return self._values[place]


def read_long_json(file: BinaryIO, packed: Collection[Path], alike: Collection[Path] = ()) -> Any:
    """The value of a JSON document in UTF-8, whose lists and objects at ``packed`` are kept packed.

    Objects at ``alike`` have many equal values, which are kept once. Raises ValueError as `read_json` does, and `NamedTwiceError`
    where such an object has a name twice.
    """
    source = _Source(file)
    value = _read(source, (), packed, alike)
    if source.peek():
        raise ValueError("there is text after its end")
    return value


def _read(source: _Source, path: Path, packed: Collection[Path], alike: Collection[Path]) -> Any:
    kind = source.peek()
    if path in packed and kind == "[":
        return PackedList(source.value() for _ in source.elements())
    if path in packed and kind == "{":
        return _object(source)
    if path in alike and kind == "{":
        known: dict[str, Any] = {}
        entries = ((sys.intern(name), source.value()) for name in source.names())
        return _each_once((name, known.setdefault(json.dumps(value), value)) for name, value in entries)
    longer = any(len(path) < len(long) and long[: len(path)] == path for long in (*packed, *alike))
    if longer and kind == "{":
        return _each_once((name, _read(source, (*path, name), packed, alike)) for name in source.names())
    if longer and kind == "[":
        return [_read(source, (*path, "[]"), packed, alike) for _ in source.elements()]
    return source.value()


def _each_once(entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these entries, whose names must differ."""
    found: dict[str, Any] = {}
    for name, value in entries:
        if name in found:
            raise NamedTwiceError(f"{in_short(name)} occurs twice")
        found[name] = value
    return found


def _object(source: _Source) -> Mapping[str, Any]:
    names: list[str] = []

    def values() -> Iterator[Any]:
        for name in source.names():
            names.append(sys.intern(name))
            yield source.value()

    packed = PackedList(values())
    in_order = all(one < other for one, other in itertools.pairwise(names))
    return PackedObject(names, packed) if in_order else dict(zip(names, packed, strict=True))


def _packed(block: list[Any]) -> bytes:
    return zlib.compress(json.dumps(block, separators=(",", ":")).encode(), 1)


def _unpacked(block: bytes) -> list[Any]:
    found: list[Any] = json.loads(zlib.decompress(block))
    return found


class _Source:
    """The text of a file from where it was read to; more is read when it is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._ended = "", 0, False
        self._json = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\n\r":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except RecursionError:
                value, end = None, len(self._text)  # told below, in the words of `read_json`
            except ValueError:
                if not self._more():
                    raise
                continue
            if self._text[end : end + 1] not in _OF_A_NUMBER or not self._more():
                break
        text = self._text[self._at : end]
        self._at = end
        return read_json(text) if takes_a_closer_look(text) else value

    def names(self) -> Iterator[str]:
        """The names of an object; after each its value is to be read."""
        for _ in self._separated("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError("a name in it is not a string")
            self._take(":")
            yield name

    def elements(self) -> Iterator[None]:
        """Once for each entry of a list, which is then to be read."""
        return self._separated("[", "]")

    def _separated(self, begin: str, end: str) -> Iterator[None]:
        self._take(begin)
        if self.peek() != end:
            yield None
            while self.peek() != end:
                self._take(",")
                yield None
        self._take(end)

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"'{character}' is expected, not {self._text[self._at : self._at + 20]!r}")
        self._at += 1

    def _more(self) -> bool:
        """Read on, twice as much where one value needs it; False at the end."""
        if self._ended:
            return False
        left = self._text[self._at :]
        content = self._file.read(max(_PIECE, len(left)))
        self._ended = not content
        self._text, self._at = left + self._decoder.decode(content, final=self._ended), 0
        return True
