"""Read the pieces of a tokenizer.model without sentencepiece, to know by name which tokens a tokenizer has.

The file is a protocol buffer whose field 1 repeats: a message for each piece, with its string in field 1. Everything
else is ignored. Ids are not taken from it: some classes put their own tokens before the pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def pieces(data: bytes) -> list[str] | None:
    """The strings of all pieces, in order; None for another file."""
    found: list[str] = []
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                texts = [text for inner, text in _fields(value) if inner == 1 and isinstance(text, bytes)]
                found += [text.decode("utf-8") for text in texts[:1]]
    except (ValueError, IndexError):
        return None
    return found or None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers of a message with their values. Raises `ValueError` or `IndexError` for anything else."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield field, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"field {field} has an unknown type")
        if size > len(data) - place:
            raise ValueError(f"field {field} ends after its message")
        yield field, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number that never ends")
