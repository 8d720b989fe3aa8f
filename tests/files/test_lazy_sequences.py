"""Entries that are made when they are looked at are those of a list or a dict, and none is kept."""

from __future__ import annotations

import pytest

from tuneport.files.lazy_sequences import LazyMapping, LazySequence


def test_a_lazy_sequence_is_a_sequence() -> None:
    squares = LazySequence(5, lambda place: place**2)
    assert list(squares) == [0, 1, 4, 9, 16] and len(squares) == 5
    assert squares[-1] == 16 and squares[1:3] == [1, 4] and 9 in squares
    with pytest.raises(IndexError):
        squares[5]


def test_a_lazy_mapping_is_a_mapping() -> None:
    lengths = LazyMapping({"a": 0, "bb": 0}, len)
    assert dict(lengths) == {"a": 1, "bb": 2} and len(lengths) == 2
    assert "a" in lengths and "c" not in lengths and lengths.get("c") is None
    with pytest.raises(KeyError):
        lengths["c"]


def test_an_entry_is_made_when_it_is_looked_at_and_not_before() -> None:
    made = []
    entries = LazySequence(3, made.append)
    assert not made
    entries[1]
    assert made == [1]
