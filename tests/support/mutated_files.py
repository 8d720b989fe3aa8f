"""Damage of every sort, done to a file: bytes that flip, go or come, and JSON whose values are others than anybody wrote."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

# What may stand where something else should: numbers of every size and kind, texts that are paths or no text, depth.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "F32",
    "BF16",
    "I64",
    "U8",
    "..",
    "../x",
    "/etc/hostname",
    "a/b",
    "model.safetensors",
    "\ud800",
    "\x1b[31m",
    "\x00",
    "w1",
    "w0",
    "(a+)+$",
    "{{ x }}",
    "é" * 300,
    [],
    {},
    [0, 0],
    [0, 10**12],
    [-1, 5],
    [[]],
    ["a"],
    {"a": 1},
    {"": {}},
    [None] * 3,
)  # fmt: skip  (a list of its own)


def mutated(content: bytes, drawn: random.Random) -> bytes:
    """The content with some damage: of its bytes, or of the JSON that it is or begins with."""
    ways = [_bytes, _bytes, _json, _json, _header, _lines]
    try:
        return drawn.choice(ways)(content, drawn)
    except (
        RecursionError,
        ValueError,
    ):  # damage on damage: too deep, or no number any more, for the json module itself
        return _bytes(content, drawn)


def _bytes(content: bytes, drawn: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(drawn.choice((1, 1, 1, 4, 16))):
        at = drawn.randrange(len(found) + 1)
        match drawn.randrange(6):
            case 0 if at < len(found):
                found[at] ^= 1 << drawn.randrange(8)
            case 1 if at < len(found):
                found[at] = drawn.randrange(256)
            case 2:
                del found[at : at + drawn.choice((1, 2, 8, 100))]
            case 3:
                found[at:at] = drawn.randbytes(drawn.choice((1, 2, 8, 100)))
            case 4:
                found[at:at] = found[at : at + drawn.choice((1, 8, 64))]
            case _:
                del found[at:]
    return bytes(found)


def _json(content: bytes, drawn: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:
        return _bytes(content, drawn)
    return json.dumps(_changed(value, drawn), ensure_ascii=drawn.random() < 0.5).encode("utf-8", "surrogatepass")


def _header(content: bytes, drawn: random.Random) -> bytes:
    """A safetensors file whose header says something else; the length before it follows, or does not."""
    try:
        length = struct.unpack("<Q", content[:8])[0]
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    except (struct.error, ValueError):
        return _bytes(content, drawn)
    text = json.dumps(_changed(header, drawn)).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    said = len(text) if drawn.random() < 0.9 else drawn.choice((0, 1, len(text) - 1, len(text) + 8, 2**40, 2**64 - 1))
    return struct.pack("<Q", said) + text + data


def _lines(content: bytes, drawn: random.Random) -> bytes:
    """Lines that are JSON, each by itself: one is changed, dropped, doubled or exchanged with another."""
    lines = content.split(b"\n")
    one, other = drawn.randrange(len(lines)), drawn.randrange(len(lines))
    match drawn.randrange(4):
        case 0:
            lines[one] = _json(lines[one], drawn)
        case 1:
            del lines[one]
        case 2:
            lines.insert(other, lines[one])
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _changed(value: Any, drawn: random.Random) -> Any:
    """JSON in which one thing is another, is missing, or is there besides."""
    places = list(_places(value))
    if not places:
        return drawn.choice(VALUES)
    holder, key = drawn.choice(places)
    match drawn.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[drawn.choice(("", "x", "__metadata__", "../x", "\ud800", "a" * 300))] = holder.pop(key)
        case 2:
            deep: Any = drawn.choice(VALUES)
            for _ in range(drawn.choice((3, 100, 700))):
                deep = [deep]
            holder[key] = deep
        case 3:
            other, name = drawn.choice(places)
            holder[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else other[name]))
        case _:
            holder[key] = drawn.choice(VALUES)
    return value


def _places(value: Any) -> Any:
    """Every holder in a JSON value with a key or index of something in it."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def damage(folder: Path, drawn: random.Random) -> str:
    """Damage one file below a folder; which, for a person who looks into it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = drawn.choice(files)
    path.write_bytes(mutated(path.read_bytes(), drawn))
    return str(path.relative_to(folder))
