"""A long document that is read in pieces is the document that is read at once, whatever is packed; damage is a ValueError."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.files import long_json
from tuneport.files.json_text import MOST_DEPTH, read_json
from tuneport.files.long_json import NamedTwiceError, PackedList, PackedObject, read_long_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {
        "tensors": st.lists(values, max_size=4) | values,
        "inputs": st.lists(
            st.fixed_dictionaries({"tensors": st.dictionaries(st.text(max_size=2), values, max_size=4)})
        ),
        "diff": st.dictionaries(st.text(max_size=2), values, max_size=4) | values,
        "other": values,
    }
)
PACKED, ALIKE = [("tensors",), ("inputs", "[]", "tensors")], [("diff",)]


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def read(text: str | bytes) -> Any:
    return read_long_json(io.BytesIO(text if isinstance(text, bytes) else text.encode()), PACKED, ALIKE)


@given(documents, st.booleans(), st.integers(1, 60), st.integers(1, 3))
def test_what_is_read_in_pieces_is_what_is_read_at_once(value: Any, ascii: bool, piece: int, block: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "_PIECE", piece)
        patch.setattr(long_json, "_BLOCK", block)
        found = read(text)
        assert plain(found) == json.loads(text)
        if isinstance(value["tensors"], list):
            assert isinstance(found["tensors"], PackedList) and len(found["tensors"]) == len(value["tensors"])


def test_entries_are_found_by_place_and_by_name() -> None:
    names = {f"n{place:04}": place for place in range(600)}
    found = read(json.dumps({"tensors": list(range(600)), "inputs": [{"tensors": names}]}))
    assert found["tensors"][599] == 599 and found["tensors"][-600] == 0 and found["tensors"][2:4] == [2, 3]
    inner = found["inputs"][0]["tensors"]
    assert isinstance(inner, PackedObject) and inner["n0300"] == 300 and inner == names
    with pytest.raises(KeyError):
        inner["n9"]
    with pytest.raises(IndexError):
        found["tensors"][600]


@given(st.text() | st.binary() | documents.map(lambda value: json.dumps(value)[:-3]))
def test_damage_is_a_value_error(content: str | bytes) -> None:
    try:
        value = read(content.encode("utf-8", "replace") if isinstance(content, str) else content)
    except ValueError:
        return
    assert plain(value) == read_json(content)


@pytest.mark.parametrize(
    "text",
    [
        '{"tensors": [' + "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1) + "]}",
        '{"tensors": [' + "[" * 100_000 + "]}",
        '{"tensors": ["\\ud800"]}',
        '{"diff": {"\\udc00": 1}}',
        '{"other": ' + "9" * 400 + "}",
        '{"tensors": [1, 2]} x',
        '{"tensors": [1 2]}',
        '{"tensors" [1]}',
        '{"tensors": [1,]}',
        '{"diff": {1: 2}}',
        "",
    ],
)
def test_what_cannot_be_kept_is_refused_inside_long_fields_too(text: str) -> None:
    with pytest.raises(ValueError):
        read(text)


@pytest.mark.parametrize("text", ['{"map": {"a": 1, "b": 1, "a": 1}}', '{"map": {"a": 1}, "map": {"b": 2}}'])
def test_a_name_twice_is_told(text: str) -> None:
    with pytest.raises(NamedTwiceError):
        read_long_json(BytesIO(text.encode()), (), (("map",),))
