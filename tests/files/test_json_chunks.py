"""JSON is written bit by bit as the standard library writes it at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.files.json_text import chunks

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


class Counting(Sequence[Any]):
    """Entries that are made when they are asked for."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: Any) -> Any:
        return {"n": range(3)[place]}


@given(values)
def test_the_text_is_that_of_the_standard_library(value: Any) -> None:
    assert "".join(chunks(value)) == json.dumps(value, indent=1, ensure_ascii=False)


def test_entries_that_are_made_when_asked_for_are_written_like_a_list() -> None:
    wanted = {"a": [{"n": 0}, {"n": 1}, {"n": 2}], "b": ()}
    assert "".join(chunks({"a": Counting(), "b": ()})) == json.dumps(wanted, indent=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_a_number_that_json_has_no_word_for_is_no_json(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        "".join(chunks(value))
