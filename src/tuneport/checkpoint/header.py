"""Read and check safetensors headers: where each tensor's bytes are in the file.

Nothing is accepted that the official reader refuses; its rules and limits are repeated here. Some more is refused on
purpose: duplicate names, sub-byte formats, unknown fields, more than 64 dimensions, headers over 16 MiB (listed in
docs/formats.md).
"""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeGuard

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted

# The official reader stops at 100 MB; a parsed header takes about ten times its bytes, which no memory bound survives.
MAX_HEADER_BYTES = 16 * 2**20
_SIZE_LIMIT = 2**64
# numpy's and torch's own limit; work on a shape grows faster than its length.
MOST_DIMENSIONS = 64


# Of a tensor: its dtype, shape, where its bytes begin, counted from the start of the file, and how many there are.
TensorRange = tuple[str, tuple[int, ...], int, int]


def header_length(prefix: bytes, file_size: int, where: str) -> int:
    """Length in bytes of the JSON header, from a file's first eight bytes and its size."""
    if file_size < 8 or len(prefix) < 8:
        raise CheckpointError(f"{where}: {file_size} bytes is too short for a safetensors file. Download it again.")
    length = int.from_bytes(prefix[:8], "little")
    if length + 8 > file_size:
        raise CheckpointError(
            f"{where}: the header claims {length} bytes, but the file has only {file_size}. "
            "It is truncated or not a safetensors file; download it again."
        )
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{where}: a header of {length} bytes is over the limit of {MAX_HEADER_BYTES} bytes.")
    return length


def parse_header(header: bytes, file_size: int, where: str) -> Iterator[tuple[str, TensorRange]]:
    """Tensors and their names, in the order of their bytes; all of them were checked when the iteration ends.

    ``header`` is the JSON between the eight length bytes and the data, ``file_size`` the size of the whole file,
    ``where`` what to call the file in an error. Raises `CheckpointError` for whatever the official reader refuses.
    """
    columns = _plain(header) or _any(header, where)
    data_start, position = 8 + len(header), 0
    for name, dtype, shape, begin, end in columns.in_order():
        if begin != position or end < begin:
            raise CheckpointError(
                f"{where}: tensor {quoted(name)} lies at bytes {begin}–{end}, expected from byte {position} on; "
                "ranges must follow each other without gaps or overlaps."
            )
        count = 1
        for extent in shape:
            count *= extent
            if count >= _SIZE_LIMIT:
                raise CheckpointError(f"{where}: tensor {quoted(name)} has an impossible shape {list(shape)}.")
        nbytes = count * DTYPES[dtype].itemsize
        if nbytes != end - begin:
            raise CheckpointError(
                f"{where}: tensor {quoted(name)} is {dtype} {list(shape)}, that is {nbytes} bytes, "
                f"but the header gives it {end - begin}."
            )
        yield name, (dtype, shape, data_start + begin, nbytes)
        position = end
    if data_start + position != file_size:
        raise CheckpointError(
            f"{where}: the header describes {data_start + position} bytes, the file has {file_size}. "
            "It is truncated or was changed; download it again."
        )


class _Columns:
    """The entries of a header in columns: as objects 100,000 of them would take 50 MiB."""

    def __init__(self) -> None:
        """No entries yet."""
        self.names: list[str] = []
        self._kinds: dict[tuple[str, tuple[int, ...]], int] = {}
        self._kind, self._begin, self._end = array("I"), array("Q"), array("Q")

    def kind_of(self, dtype: str, shape: tuple[int, ...]) -> int:
        """The number of what entries of this dtype and shape have in common."""
        return self._kinds.setdefault((dtype, shape), len(self._kinds))

    def add(self, name: str, kind: int, begin: int, end: int) -> None:
        """Add an entry; its bytes are counted from the end of the header."""
        self.names.append(sys.intern(name))
        self._kind.append(kind)
        self._begin.append(begin)
        self._end.append(end)

    def has_a_name_twice(self) -> bool:
        """Whether two entries have one name."""
        return any(one == other for one, other in itertools.pairwise(sorted(self.names)))

    def in_order(self) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
        """Name, dtype, shape, begin and end of each, in the order of their bytes."""
        begins, ends, kinds = self._begin, self._end, list(self._kinds)
        order: Sequence[int] = range(len(begins))
        if any(one > other for one, other in itertools.pairwise(zip(begins, ends, strict=True))):
            order = sorted(order, key=lambda place: (begins[place], ends[place]))
        for place in order:
            yield self.names[place], *kinds[self._kind[place]], begins[place], ends[place]


def _any(header: bytes, where: str) -> _Columns:
    """The entries of any header. Raises `CheckpointError`."""
    columns = _Columns()
    for name, (dtype, shape, begin, end) in _entries(_load_json(header, where), where):
        columns.add(name, columns.kind_of(dtype, shape), begin, end)
    return columns


def _plain(header: bytes) -> _Columns | None:
    """The entries of a header that is written as the official writer writes it, with ASCII names; None of any other.

    JSON's own reader makes ten times a header's bytes of objects, and takes five times as long.
    """
    begun = _PLAIN_BEGIN.match(header)
    if begun is None or not header.isascii() or not _is_plain_metadata(begun[1]):
        return None
    columns, at, last = _Columns(), begun.end(), b","
    kinds: dict[tuple[bytes, bytes], int | None] = {}
    for found in _PLAIN_ENTRY.finditer(header, at):
        if found.start() != at or last != b",":
            return None
        name, dtype, shape, begin, end, last = found.groups()
        if (dtype, shape) not in kinds:
            kinds[dtype, shape] = _plain_kind(dtype.decode(), shape, columns)
        kind = kinds[dtype, shape]
        if kind is None or name == b"__metadata__":
            return None
        columns.add(name.decode(), kind, int(begin), int(end))
        at = found.end()
    whole = last == b"}" and not header[at:].strip(b" \t\n\r")
    return columns if whole and not columns.has_a_name_twice() else None


def _is_plain_metadata(text: bytes | None) -> bool:
    """Whether it is absent, or texts by names that differ."""
    try:
        pairs = [] if text is None else json.loads(text, object_pairs_hook=list)
    except ValueError:
        return False
    return all(isinstance(value, str) for _, value in pairs) and len(dict(pairs)) == len(pairs)


def _plain_kind(dtype: str, shape: bytes, columns: _Columns) -> int | None:
    """The number of a dtype and a shape, as texts; None if they are not valid."""
    try:
        sizes = json.loads(b"[" + shape + b"]")
    except ValueError:
        return None
    if dtype not in DTYPES or not _is_sizes(sizes) or len(sizes) > MOST_DIMENSIONS:
        return None
    return columns.kind_of(dtype, tuple(sizes))


def _spaced(*tokens: bytes) -> bytes:
    """An expression for these tokens of JSON, with spaces between them."""
    return rb"[ \t\n\r]*".join(tokens)


_NAME, _SIZE = rb'"([^"\\\x00-\x1f]*)"', rb"(0|[1-9][0-9]{0,18})"
_PLAIN_BEGIN = re.compile(
    _spaced(rb"\{", rb"(?:" + _spaced(rb'"__metadata__"', rb":", rb"(\{[^{}\\]*\})", rb",") + rb")?")
)
_PLAIN_ENTRY = re.compile(
    _spaced(b"", _NAME, b":", rb"\{", rb'"dtype"', b":", _NAME, b",", rb'"shape"', b":", rb"\[([0-9, \t\n\r]*)\]", b",")
    + _spaced(b"", rb'"data_offsets"', b":", rb"\[", _SIZE, b",", _SIZE, rb"\]", rb"\}", rb"([,}])")
)


# Of each tensor: name, dtype, shape, and where its bytes begin and end, counted from the end of the header.
Entries = Iterable[tuple[str, str, tuple[int, ...], int, int]]


def render_header(entries: Entries, metadata: Mapping[str, str]) -> bytes:
    """A file's first bytes: eight of length, then JSON padded to a multiple of eight."""
    content = io.BytesIO(bytes(8))
    content.seek(8)
    content.writelines(_rendered(entries, metadata))
    content.write(b" " * (-content.tell() % 8))
    length = content.tell() - 8
    content.seek(0)
    content.write(length.to_bytes(8, "little"))
    return content.getvalue()


def rendered_length(entries: Entries, metadata: Mapping[str, str]) -> int:
    """How many bytes `render_header` gives."""
    length = 8 + sum(map(len, _rendered(entries, metadata)))
    return length + -length % 8


def _rendered(entries: Entries, metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The JSON of a header, tensor by tensor: at once, it takes ten times its bytes."""
    between = "{"
    if metadata:
        told = json.dumps(dict(metadata), separators=(",", ":"), ensure_ascii=False)
        yield f'{{"__metadata__":{told}'.encode()
        between = ","
    for name, dtype, shape, begin, end in entries:
        called, sizes = json.dumps(name, ensure_ascii=False), ",".join(map(str, shape))
        entry = f'{{"dtype":"{dtype}","shape":[{sizes}],"data_offsets":[{begin},{end}]}}'
        yield f"{between}{called}:{entry}".encode()
        between = ","
    yield b"}" if between == "," else b"{}"


def _load_json(header: bytes, where: str) -> dict[str, Any]:
    kinds: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]] = {}

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Entry:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = min(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise CheckpointError(
                f"{where}: the header names {twice!r} twice, so it is unclear which one counts. Download it again."
            )
        dtype, shape, offsets = result.get("dtype"), result.get("shape"), result.get("data_offsets")
        if (
            len(result) == 3
            and isinstance(dtype, str)
            and _is_sizes(shape)
            and _is_sizes(offsets)
            and len(offsets) == 2
        ):
            kind = dtype, tuple(shape)  # an entry as it should be: kept small, since there may be 100,000
            return _Entry(*kinds.setdefault(kind, kind), *offsets)
        return result

    def whole(text: str) -> int:
        if text.startswith("-") or len(text) > 20:
            raise CheckpointError(
                f"{where}: the header holds {text[:40]}, where sizes and offsets must be. Download it again."
            )
        return int(text)

    def refuse(text: str) -> NoReturn:
        raise CheckpointError(
            f"{where}: the header holds {text[:40]}, where only whole numbers are allowed. Download it again."
        )

    if not header.startswith(b"{"):
        raise CheckpointError(f"{where}: the header does not begin with '{{'; this is not a safetensors file.")
    try:
        text = header.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=unique, parse_int=whole, parse_float=refuse, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: the header is not valid JSON ({error}).") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{where}: the header holds the entry of one tensor without its name. Download it again.")
    return parsed


def _entries(parsed: dict[str, Any], where: str) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int, int]]]:
    for name, info in parsed.items():
        _check_text(name, where)
        if name == "__metadata__":
            if info is None:
                continue
            if not isinstance(info, dict) or not all(isinstance(value, str) for value in info.values()):
                raise CheckpointError(f"{where}: `__metadata__` in the header must map strings to strings.")
            for key, value in info.items():
                _check_text(key, where)
                _check_text(value, where)
            continue
        if isinstance(info, _Entry):
            dtype, shape, offsets = info.dtype, info.shape, [info.begin, info.end]
        elif isinstance(info, dict) and set(info) == {"dtype", "shape", "data_offsets"}:
            dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        else:
            raise CheckpointError(
                f"{where}: tensor {quoted(name)} must have dtype, shape and data_offsets, and nothing else."
            )
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise CheckpointError(
                f"{where}: tensor {quoted(name)} has the dtype {dtype!r}, which tuneport does not read (sub-byte formats "
                f"have no byte ranges). It reads {', '.join(DTYPES)}."
            )
        if (
            not _is_sizes(list(shape) if isinstance(shape, tuple) else shape)
            or not _is_sizes(offsets)
            or len(offsets) != 2
        ):
            raise CheckpointError(f"{where}: tensor {quoted(name)} has a malformed shape or data_offsets.")
        if len(shape) > MOST_DIMENSIONS:
            raise CheckpointError(
                f"{where}: tensor {quoted(name)} has {len(shape):,} dimensions, over the limit of {MOST_DIMENSIONS}."
            )
        yield name, (dtype, tuple(shape), offsets[0], offsets[1])


class _Entry(NamedTuple):
    """A tensor's entry of a header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _is_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _SIZE_LIMIT for value in values)


def _check_text(text: str, where: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise CheckpointError(f"{where}: the header holds half a surrogate pair in {text.encode('unicode_escape')!r}.")
