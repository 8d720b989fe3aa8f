"""Digests of examples: the same for texts that differ in white space and case, found again in a file."""

from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tuneport.errors import DataError
from tuneport.examples.digests import answered_digest, example_digest, read_digests, write_digests


def test_a_digest_is_128_bits_of_blake3_of_the_text_in_one_case_with_single_spaces() -> None:
    assert example_digest("  What\tIS\n2 + 2? ") == blake3(b"what is 2 + 2?").hexdigest()[:32]
    assert answered_digest("What is 2 + 2?", " 4") == example_digest("what is 2 + 2? 4")


@given(st.lists(st.text(st.characters(exclude_categories=("Z", "C", "Cs")), min_size=1), min_size=1))
def test_white_space_between_words_does_not_change_a_digest(words: list[str]) -> None:
    assert example_digest(" ".join(words)) == example_digest("\n  " + " \t ".join(words) + " ")


def test_another_word_changes_the_digest() -> None:
    assert example_digest("two plus two") != example_digest("two plus three")


def test_digests_are_found_again_in_the_file_each_once(tmp_path: Path) -> None:
    made = [example_digest(str(number)) for number in range(50)]
    write_digests(tmp_path / "digests", [*made, *made])
    assert read_digests(tmp_path / "digests") == frozenset(made)
    assert len((tmp_path / "digests").read_text().splitlines()) == 50


def test_digests_of_selection_are_kept_apart(tmp_path: Path) -> None:
    trained, selected = ([example_digest(f"{kind} {number}") for number in range(9)] for kind in ("train", "select"))
    write_digests(tmp_path / "digests", trained, [*selected, trained[0]])
    assert read_digests(tmp_path / "digests") == frozenset(trained)
    assert read_digests(tmp_path / "digests", selection=True) == {*selected, trained[0]}
    assert [path.name for path in tmp_path.iterdir()] == ["digests"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digests").write_text("not a digest\n")
    with pytest.raises(DataError, match="not the digest"):
        read_digests(tmp_path / "digests")
