"""JSON of others is a value or an error in words, of whatever depth and size."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.files.json_text import MOST_DEPTH, as_json, check_text, finite, read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
def test_what_python_reads_is_read(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    assert read_json(text) == read_json(text.encode()) == value


@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_anything_else_is_a_value_error(content: str | bytes) -> None:
    try:
        read_json(content)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("opening,closing", [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded(opening: str, closing: str) -> None:
    assert read_json(opening * MOST_DEPTH + "1" + closing * MOST_DEPTH)
    for depth in (MOST_DEPTH + 1, 900, 2000, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {MOST_DEPTH} deep|Expecting|recursion"):
            read_json(opening * depth + "1" + closing * depth)
    with pytest.raises(ValueError):
        read_json(opening * 100_000)
    assert len(read_json("[" + "[1]," * 500 + "[2]]")) == 501, "many side by side are not deep"


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_read() -> None:
    assert read_json('{"\\ud83d\\ude00": "\\\\ud800"}') == {"😀": "\\ud800"}
    for text in ('"\\ud800"', '{"\\udfff": 1}', '[{"a": ["x\\uD83d"]}]', '"\\ude00\\ud83d"'):
        with pytest.raises(ValueError, match="half a character"):
            read_json(text)
        assert read_json(text, kept=False)
    with pytest.raises(ValueError, match=r"'a\\udcff'"):
        check_text("a\udcff")


def test_a_whole_number_that_no_float_holds_is_refused() -> None:
    assert read_json("1" + "0" * 307) == 10**307 and read_json(f'"{"1" * 5000}"') == "1" * 5000
    for digits in (400, 5000):
        with pytest.raises(ValueError, match=f"a whole number of {digits} digits|digits"):
            read_json("[-1" + "0" * (digits - 1) + "]")
    assert read_json("1e999") == math.inf


def test_numbers_without_a_word_in_json_become_null() -> None:
    assert finite({"a": (math.nan, [math.inf]), "b": 1.5}) == {"a": [None, [None]], "b": 1.5}
    assert as_json({"a": (1, -math.inf)}) == {"a": [1, None]}
