"""Whatever the official reader refuses is refused, and what is accepted reads the same."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from tuneport.checkpoint import header as header_module
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.header import MAX_HEADER_BYTES, header_length, parse_header, render_header, rendered_length
from tuneport.errors import CheckpointError

Read = dict[str, tuple[str, tuple[int, ...], bytes]]


def ours(content: bytes) -> Read | None:
    """Name, dtype, shape and bytes of every tensor, or None where tuneport refuses; any other exception is a defect."""
    try:
        length = header_length(content[:8], len(content), "file")
        ranges = dict(parse_header(content[8 : 8 + length], len(content), "file"))
    except CheckpointError as error:
        assert "file" in str(error)
        return None
    return {name: (dtype, shape, content[at : at + size]) for name, (dtype, shape, at, size) in ranges.items()}


def official(content: bytes) -> Read | None:
    """The same by the official library. ``deserialize`` checks, and knows the dtypes by their own names."""
    try:
        found = deserialize(content)
    except SafetensorError:
        return None
    return {name: (info["dtype"], tuple(info["shape"]), bytes(info["data"])) for name, info in found}


def assert_no_laxer(content: bytes) -> None:
    mine = ours(content)
    if mine is not None:
        theirs = official(content)
        assert theirs is not None, "tuneport accepts what the official reader refuses"
        assert mine == theirs


def file_of(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=8).filter(lambda n: n != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def valid_files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A header as the official writer would make it, and its data."""
    header: dict[str, Any] = {}
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.sampled_from(["format", "x"]), st.text("abé", max_size=3)))
    position = 0
    for name in draw(st.lists(names, max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(shapes)
        size = DTYPES[dtype].itemsize
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    return header, bytes(index % 251 for index in range(position))


# What a hostile header may hold where a number, a text or a list is expected.
odd = st.sampled_from(
    [
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        8,
        1.0,
        1e2,
        0.5,
        -0.0,
        float("nan"),
        float("inf"),
        "",
        "F32",
        "BF16",
        "f32",
        "F4",
        "F6_E2M3",
        "F128",
        "I4",
        [],
        [0],
        [1, 2, 3],
        [0, 0],
        [[0]],
        {},
        {"a": 1},
        2**31,
        2**32,
        2**53,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        2**65,
        10**30,
        "0",
        "1",
    ]
).map(copy.deepcopy)  # fmt: skip  (one list)


@st.composite
def mutated_headers(draw: st.DrawFn) -> bytes:
    """A valid file with one to three things changed in its header."""
    header, data = draw(valid_files())
    for _ in range(draw(st.integers(1, 3))):
        tensors = [name for name in header if name != "__metadata__" and isinstance(header[name], dict)]
        kind = draw(st.integers(0, 9))
        if kind <= 4 and tensors:
            entry = header[draw(st.sampled_from(tensors))]
            field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            held = entry.get(field)
            if isinstance(held, list) and held and draw(st.booleans()):
                place = draw(st.integers(0, len(held) - 1))
                nudged = held[place] + draw(st.integers(-3, 3)) if type(held[place]) is int else draw(odd)
                entry[field] = [*held[:place], draw(st.one_of(st.just(nudged), odd)), *held[place + 1 :]]
            else:
                entry[field] = draw(st.one_of(odd, st.lists(st.integers(0, 2**64), max_size=4)))
        elif kind == 5 and tensors:
            entry = header[draw(st.sampled_from(tensors))]
            entry.pop(draw(st.sampled_from(["dtype", "shape", "data_offsets"])), None)
        elif kind == 6 and tensors:
            header[draw(st.sampled_from(tensors))][draw(st.sampled_from(["extra", "__metadata__"]))] = draw(odd)
        elif kind == 7:
            header["__metadata__"] = draw(st.one_of(odd, st.dictionaries(st.text("ab"), odd, max_size=2)))
        elif kind == 8 and len(tensors) > 1:
            one, other = draw(st.permutations(tensors))[:2]
            header[one]["data_offsets"] = header[other].get("data_offsets")
        else:
            header[draw(names)] = draw(odd)
        if kind == 9:
            data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=3))
    return file_of(header, data)


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, cut out or put in anywhere."""
    content = bytearray(file_of(*draw(valid_files())))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0 if content:
                content[place] = draw(st.integers(0, 255))
            case 1:
                content[place:place] = draw(
                    st.sampled_from([b" ", b"\t", b"\x00", b"-", b"e2", b".0", b"\\ud800", b"{", b"}"])
                )
            case 2:
                del content[place : place + draw(st.integers(1, 9))]
            case _:
                content = content[:place]
    if draw(st.booleans()) and len(content) >= 8:  # keep the length honest, so that the JSON itself is looked at
        end = content.rfind(b"}") + 1
        content[:8] = max(end - 8, 0).to_bytes(8, "little")
    return bytes(content)


@given(valid_files())
def test_what_the_official_reader_accepts_of_ordinary_files_is_accepted_and_read_the_same(
    made: tuple[dict[str, Any], bytes],
) -> None:
    content = file_of(*made)
    theirs = official(content)
    assert theirs is not None
    assert ours(content) == theirs


@pytest.mark.hostile
@given(mutated_headers())
def test_a_mutated_header_is_never_accepted_where_the_official_reader_refuses(content: bytes) -> None:
    assert_no_laxer(content)


@pytest.mark.hostile
@given(mutated_bytes())
def test_a_file_with_bytes_changed_is_never_accepted_where_the_official_reader_refuses(content: bytes) -> None:
    assert_no_laxer(content)


@pytest.mark.hostile
@given(st.one_of(mutated_headers(), mutated_bytes()))
def test_a_header_in_plain_form_is_read_as_json_reads_it(content: bytes) -> None:
    text = content[8 : 8 + int.from_bytes(content[:8], "little")]
    plain = header_module._plain(text)
    assert plain is None or list(plain.in_order()) == list(header_module._any(text, "file").in_order())


def test_headers_of_both_writers_are_in_plain_form_and_take_little_memory() -> None:
    tensors = {f"model.layers.{n}.mlp.experts.7.gate_proj.weight": np.zeros((4, 2), np.float32) for n in range(20_000)}
    content = save(tensors, {"format": "pt", "of": "a test"})
    entries = ((name, "F32", (4, 2), 32 * n, 32 * n + 32) for n, name in enumerate(sorted(tensors)))
    length = int.from_bytes(content[:8], "little")
    for text in (content[8 : 8 + length], render_header(entries, {"format": "pt"})[8:]):
        assert header_module._plain(text) is not None
        tracemalloc.start()
        try:
            found = sum(1 for _ in parse_header(text, 8 + len(text) + 20_000 * 32, "file"))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == 20_000 and peak < 250 * found, "a name, and some twenty bytes beside it"


@pytest.mark.hostile
@given(st.binary(max_size=64))
@example(b"")
@example(b"\x00" * 8)
@example(b"\xff" * 8)
@example((2).to_bytes(8, "little") + b"{}")
@example((2).to_bytes(8, "little") + b"[]")
def test_noise_is_never_accepted_where_the_official_reader_refuses(content: bytes) -> None:
    assert_no_laxer(content)


ENTRY = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("header", "data"),
    [
        pytest.param(b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}", b"1234", id="a name twice"),
        pytest.param(
            b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234", id="a field twice"
        ),
        pytest.param(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}}', b"1234", id="an unknown field"
        ),
        pytest.param(b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', b"1234", id="a float as extent"),
        pytest.param(b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', b"1234", id="an exponent as extent"),
        pytest.param(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', b"1234", id="minus zero"),
        pytest.param(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"1234", id="NaN"),
        pytest.param(
            b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', b"1234", id="5000 digits"
        ),
        pytest.param(
            b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', b"", id="overflow to zero"
        ),
        pytest.param(
            b'{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}',
            b"",
            id="bytes overflow to zero",
        ),
        pytest.param(b'{"a":' + ENTRY + b',"b":' + ENTRY + b"}", b"1234", id="overlap"),
        pytest.param(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"12345678", id="gap at the beginning"),
        pytest.param(b'{"a":' + ENTRY + b"}", b"12345", id="a byte too many"),
        pytest.param(b'{"a":' + ENTRY + b"}", b"123", id="a byte too few"),
        pytest.param(b'{"a":' + ENTRY + b"} x", b"1234", id="text behind the header"),
        pytest.param(b' {"a":' + ENTRY + b"}", b"1234", id="a space before the header"),
        pytest.param(b'\xef\xbb\xbf{"a":' + ENTRY + b"}", b"1234", id="a byte order mark"),
        pytest.param(b'{"\\ud800":' + ENTRY + b"}", b"1234", id="half a surrogate pair"),
        pytest.param(b'{"__metadata__":{"\\udc00":"x"},"a":' + ENTRY + b"}", b"1234", id="half a pair in the metadata"),
        pytest.param(b'{"\xff":' + ENTRY + b"}", b"1234", id="not UTF-8"),
        pytest.param(b'{"a\n":' + ENTRY + b"}", b"1234", id="a control character in a name"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", id="deep nesting"),
        pytest.param(
            b'{"a":{"dtype":"F32","shape":[' + b"1," * 64 + b'1],"data_offsets":[0,4]}}', b"1234", id="65 dimensions"
        ),
        pytest.param(b'{"__metadata__":{"n":1},"a":' + ENTRY + b"}", b"1234", id="a number in the metadata"),
        pytest.param(b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', b"1", id="four bits an element"),
    ],
)
def test_a_hostile_header_is_refused(header: bytes, data: bytes) -> None:
    assert ours(file_of(header, data)) is None


def test_one_name_twice_among_two_hundred_thousand_is_found_at_once() -> None:
    names = [f"n{number}" for number in range(200_000)] + ["n7"]
    header = "{" + ",".join(f'"{name}":{{}}' for name in names) + "}"
    with pytest.raises(CheckpointError, match="names 'n7' twice"):
        dict(parse_header(header.encode(), 8 + len(header), "file"))


def test_a_header_of_any_size_is_refused_before_it_is_read() -> None:
    with pytest.raises(CheckpointError, match="over the limit"):
        header_length((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 2**40, "file")
    with pytest.raises(CheckpointError, match="truncated"):
        header_length((2**63).to_bytes(8, "little"), 2**40, "file")
    assert header_length(MAX_HEADER_BYTES.to_bytes(8, "little"), 2**40, "file") == MAX_HEADER_BYTES


def test_escaped_surrogate_pairs_are_the_character_they_stand_for() -> None:
    content = file_of(b'{"\\ud83d\\ude00":' + ENTRY + b"}", b"1234")
    assert ours(content) == official(content) == {"😀": ("F32", (1,), b"1234")}


def test_every_dtype_of_the_table_is_known_to_the_official_reader_with_the_same_size() -> None:
    assert len(DTYPES) > 10
    for dtype in DTYPES.values():
        entry = {"dtype": dtype.name, "shape": [3], "data_offsets": [0, 3 * dtype.itemsize]}
        content = file_of({"x": entry}, bytes(3 * dtype.itemsize))
        assert official(content) == ours(content) is not None, dtype.name


@given(valid_files())
def test_a_rendered_header_is_read_back_by_the_official_reader(made: tuple[dict[str, Any], bytes]) -> None:
    header, data = made
    tensors = {
        name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    entries = [(name, *entry) for name, entry in tensors.items()]
    content = render_header(entries, {"format": "pt"}) + data
    assert rendered_length(entries, {"format": "pt"}) == len(content) - len(data)
    theirs = official(content)
    assert theirs is not None and {name: (t[0], t[1], data[t[2] : t[3]]) for name, t in tensors.items()} == theirs
    assert int.from_bytes(content[:8], "little") % 8 == 0, "data begins at a multiple of eight"


def test_metadata_of_a_rendered_header_is_what_the_official_reader_shows(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(render_header([("x", "F32", (1,), 0, 4)], {"format": "pt"}) + b"1234")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
