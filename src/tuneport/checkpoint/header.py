"""Read and check safetensors headers: where each tensor's bytes are in the file.

Nothing is accepted that the official reader refuses; its rules and limits are repeated here. Some more is refused on
purpose: duplicate names, sub-byte formats, unknown fields, more than 64 dimensions, headers over 16 MiB (listed in
docs/formats.md).
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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


def parse_header(header: bytes, file_size: int, where: str) -> dict[str, TensorRange]:
    """Tensors by name, in the order of their bytes.

    ``header`` is the JSON between the eight length bytes and the data, ``file_size`` the size of the whole file,
    ``where`` what to call the file in an error. Raises `CheckpointError` for whatever the official reader refuses.
    """
    entries = dict(_entries(_load_json(header, where), where))
    data_start = 8 + len(header)
    tensors: dict[str, TensorRange] = {}
    position = 0
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
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
        tensors[name] = (dtype, shape, data_start + begin, nbytes)
        position = end
    if data_start + position != file_size:
        raise CheckpointError(
            f"{where}: the header describes {data_start + position} bytes, the file has {file_size}. "
            "It is truncated or was changed; download it again."
        )
    return tensors


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
