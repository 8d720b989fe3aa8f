"""Find the sections of a tokenizer.json in its text before any of them is parsed.

So a vocabulary is parsed without its merges (280,000 of them take 100 MiB as Python objects), and a change rewrites one
section and leaves every other byte unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import chain
from typing import Any

from blake3 import blake3

from tuneport.errors import CheckpointError
from tuneport.files.json_text import read_json

# Possessive quantifiers never step back, so the expressions run in linear time and constant memory on any input.
_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NUMBER = rb"-?+[0-9]++(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+"
_SCALAR = rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null)"


def _list_of(item: bytes) -> bytes:
    more = rb"(?:" + _SPACE + rb"," + _SPACE + item + rb")*+"
    return rb"\[" + _SPACE + rb"(?:" + item + more + rb")?+" + _SPACE + rb"\]"


_STRING_AT = re.compile(_STRING)
_SPACE_AT = re.compile(_SPACE)
_SCALAR_AT = re.compile(_SCALAR)
# A whole vocabulary or list of merges in one match; anything else is read bracket by bracket.
_PAIR = rb"\[" + _SPACE + _STRING + _SPACE + rb"," + _SPACE + _STRING + _SPACE + rb"\]"
_ITEM = rb"(?:" + _PAIR + rb"|" + _SCALAR + rb"|" + _list_of(_SCALAR) + rb")"
_LONG_LIST = re.compile(_list_of(_ITEM))
_LONG_OBJECT = re.compile(
    _list_of(_STRING + _SPACE + rb":" + _SPACE + _SCALAR).replace(rb"\[", rb"\{", 1)[: -len(rb"\]")] + rb"\}"
)
_STRING_OR_BRACKET = re.compile(_STRING + rb"|[\[\]{}]")
_SOME_ITEMS = re.compile(_ITEM + rb"(?:" + _SPACE + rb"," + _SPACE + _ITEM + rb"){0,4095}+")
_INSIDE_PAIRS = re.compile(rb'"' + _SPACE + rb"," + _SPACE + rb'"')
# Backslashes before what json need not escape: an odd number of them does.
_NEEDLESS_ESCAPE = re.compile(rb"(\\++)(?:/|u(?!00[01]))")
_FEW = 16


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``end`` of the document."""

    start: int
    end: int


@dataclass(frozen=True)
class SectionLayout:
    """Where the members of a tokenizer.json and of its model lie, in the bytes that have this BLAKE3 ``digest``."""

    digest: str
    members: Mapping[str, Span]
    model: Mapping[str, Span]


@dataclass(frozen=True)
class TokenizerText:
    """The bytes of a tokenizer.json, its members and its model's members; ``where`` names it in errors."""

    where: str
    data: bytes
    members: Mapping[str, Span]
    model: Mapping[str, Span]

    @property
    def layout(self) -> SectionLayout:
        """The spans without the bytes."""
        return SectionLayout(blake3(self.data).hexdigest(), self.members, self.model)

    def parse(self, span: Span) -> Any:
        """The value at one span."""
        return self.parse_bytes(self.data[span.start : span.end])

    def parse_bytes(self, data: bytes) -> Any:
        """The value of a part of the document."""
        return parse_json(data, self.where)

    def member(self, name: str) -> Any:
        """One member of the document, or None where it is missing."""
        return self.parse(self.members[name]) if name in self.members else None

    def model_member(self, name: str) -> Any:
        """One member of the model, or None where it is missing."""
        return self.parse(self.model[name]) if name in self.model else None

    def digest_of(self, name: str) -> str:
        """BLAKE3 of the bytes of one member of the model (its vocabulary, its merges), as they are written."""
        span = self.model.get(name, Span(0, 0))
        return blake3(memoryview(self.data)[span.start : span.end]).hexdigest()

    def merges(self, pieces: Set[str] | None = None) -> Iterator[tuple[str, str]]:
        """The merges of a BPE model one by one, in order; only those that use or make one of ``pieces``, if given."""
        if pieces is not None and not self._may_merge(pieces):
            return
        for items in self.merges_as_written():
            for item in items:
                left, _, right = item.partition(" ") if isinstance(item, str) else (item[0], "", item[1])
                if pieces is None or left in pieces or right in pieces or left + right in pieces:
                    yield left, right

    def _may_merge(self, pieces: Set[str]) -> bool:
        """Whether any merge can use or make one of a few pieces: looked for in the bytes, before half a million are parsed."""
        span = self.model.get("merges", Span(0, 0))
        data = self.data[span.start : span.end]
        if len(pieces) > _FEW or any(len(escape.group(1)) % 2 for escape in _NEEDLESS_ESCAPE.finditer(data)):
            return True  # a piece may be spelled in more than one way
        as_pairs = data[1:].lstrip().startswith(b"[")
        made = _INSIDE_PAIRS.sub(b"", data) if as_pairs else data.replace(b" ", b"")
        spelled = [json.dumps(piece, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass") for piece in pieces]
        return any(
            b'"%b"' % piece in made
            or (b'"%b"' % piece in data if as_pairs else b'"%b ' % piece in data or b' %b"' % piece in data)
            for piece in spelled
        )

    def is_list(self, name: str) -> bool:
        """Whether a member of the model is a list."""
        return name in self.model and self.data[self.model[name].start : self.model[name].start + 1] == b"["

    def merges_as_written(self) -> Iterator[list[Any]]:
        """The merges, each "a b" or ["a", "b"], some thousands at a time: all of them take 100 MiB."""
        span = self.model.get("merges")
        if span is None:
            return
        for match in _SOME_ITEMS.finditer(self.data, span.start + 1, span.end):
            items = self.parse_bytes(b"[" + match.group() + b"]")
            pairs = [item for item in items if not isinstance(item, str)]
            if not set(map(type, pairs)) <= {list} or not (
                set(map(len, pairs)) <= {2} and set(map(type, chain.from_iterable(pairs))) <= {str}
            ):
                raise CheckpointError(f"{self.where}: a merge is not a pair of strings. Download it again.")
            yield items


def locate_sections(data: bytes, where: str, known: SectionLayout | None = None) -> TokenizerText:
    """Find the sections of a tokenizer.json; `CheckpointError` for another document.

    ``known`` is a layout that was found before, perhaps of other bytes.
    """
    if known is not None and blake3(data).hexdigest() == known.digest:
        return TokenizerText(where, data, known.members, known.model)
    text = _scan(data, where)
    if text is None:
        # Anything unusual (a name given twice, broken JSON): the full parser says what it means.
        text = _scan(_canonical(parse_json(data, where), where), where)
    if text is None or "vocab" not in text.model:
        raise CheckpointError(f"{where} has no model with a vocabulary. Download it again.")
    return text


def first_members(data: bytes, where: str, last: str) -> dict[str, Any]:
    """The members of a tokenizer.json up to ``last``, parsed; what stands behind it is not looked at."""
    members: dict[str, Span] = {}
    _scan_object(data, _skip_space(data, 0), members, {}, last)
    if last not in members:  # there is none, or the text is unusual: the full parser says what it means
        document = parse_json(data, where)
        return dict(document) if isinstance(document, dict) else {}
    return {name: parse_json(data[span.start : span.end], where) for name, span in members.items() if name != "model"}


def parse_json(data: bytes, where: str) -> Any:
    """JSON as Python values; `CheckpointError` for what is none, and for strings that are no text."""
    try:
        return read_json(data.decode("utf-8"))
    except ValueError as error:  # broken JSON, broken UTF-8, half a surrogate pair, a number of 5,000 digits
        raise CheckpointError(f"{where} is not valid JSON ({error}). Download it again.") from None


def _canonical(document: Any, where: str) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}). Download it again.") from None


def indentation(data: bytes) -> int | None:
    """Spaces per level the document is written with, or None if it is on one line."""
    match = re.match(rb"\{\r?\n( *)", data)
    return len(match.group(1)) if match else None


def render(value: Any, indent: int | None, level: int, like: bytes) -> bytes:
    """JSON in the style of the document around it, for a value that stands ``level`` levels deep."""
    if indent is None:
        separators = (",", ":") if b'": ' not in like[:4096] else (", ", ": ")
        return json.dumps(value, ensure_ascii=False, separators=separators).encode("utf-8")
    if isinstance(value, dict) and value and not any(isinstance(item, dict | list) for item in value.values()):
        # A vocabulary: with separators of one's own json stays in C, which is six times as fast as with its `indent`.
        pad = "\n" + " " * (indent * (level + 1))
        body = json.dumps(value, ensure_ascii=False, separators=("," + pad, ": "))[1:-1]
        return f"{{{pad}{body}{pad[:-indent] if indent else pad}}}".encode()
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.replace("\n", "\n" + " " * (indent * level)).encode("utf-8")


def _plain(string: bytes) -> str:
    return str(read_json(string)) if b"\\" in string else string[1:-1].decode("utf-8")


def _scan(data: bytes, where: str) -> TokenizerText | None:
    members: dict[str, Span] = {}
    model: dict[str, Span] = {}
    end = _scan_object(data, _skip_space(data, 0), members, {"model": model})
    if end is None or "model" not in members or not model or _skip_space(data, end) != len(data):
        return None
    return TokenizerText(where, data, members, model)


def _scan_object(
    data: bytes, start: int, members: dict[str, Span], inner: dict[str, dict[str, Span]], last: str | None = None
) -> int | None:
    """Fill in the members of the object at ``start`` and say where it ends; None where the text raises any doubt.

    ``inner`` names members that are objects to be scanned likewise, ``last`` one behind which nothing is scanned.
    """
    if data[start : start + 1] != b"{":
        return None
    position = _skip_space(data, start + 1)
    while True:
        key = _STRING_AT.match(data, position)
        if key is None:
            return None
        try:
            name = _plain(key.group())
        except ValueError:
            return None
        colon = _skip_space(data, key.end())
        begin = _skip_space(data, colon + 1)
        end = _scan_object(data, begin, inner[name], {}) if name in inner else _value_end(data, begin)
        if data[colon : colon + 1] != b":" or end is None or name in members:
            return None
        members[name] = Span(begin, end)
        if name == last:
            return None
        position = _skip_space(data, end)
        if data[position : position + 1] == b"}":
            return position + 1
        if data[position : position + 1] != b",":
            return None
        position = _skip_space(data, position + 1)


def _value_end(data: bytes, start: int) -> int | None:
    first = data[start : start + 1]
    if first not in (b"[", b"{"):
        scalar = _SCALAR_AT.match(data, start)
        return scalar.end() if scalar else None
    whole = (_LONG_LIST if first == b"[" else _LONG_OBJECT).match(data, start)
    if whole:
        return whole.end()
    open_brackets: list[bytes] = []
    for match in _STRING_OR_BRACKET.finditer(data, start):
        bracket = match.group()
        if bracket in (b"[", b"{"):
            open_brackets.append(bracket)
        elif bracket in (b"]", b"}"):
            if (open_brackets.pop(), bracket) not in ((b"[", b"]"), (b"{", b"}")):
                return None
            if not open_brackets:
                return match.end()
    return None


def _skip_space(data: bytes, position: int) -> int:
    match = _SPACE_AT.match(data, position)
    assert match is not None
    return match.end()
