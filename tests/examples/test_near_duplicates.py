"""Equal and nearly equal texts belong together, and nothing else does."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tuneport.examples.near_duplicates import grouped

WORDS = [f"word{number}" for number in range(500)]


def drawn(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def test_case_punctuation_and_spacing_make_no_difference() -> None:
    assert grouped(["Where is Rome?", "where  is rome", "ＷＨＥＲＥ is rome", "Where is Oslo?"]) == [0, 0, 0, 3]


def test_a_text_with_one_word_changed_belongs_to_the_first() -> None:
    text = drawn(0, 60)
    changed = text.split()
    changed[30] = "another"
    assert grouped([text, " ".join(changed), drawn(1, 60)]) == [0, 0, 2]


def test_groups_are_joined_through_what_lies_between() -> None:
    words = drawn(0, 60).split()
    near, far = list(words), list(words)
    near[10] = far[10] = "one"
    far[50] = "two"
    assert grouped([" ".join(words), " ".join(far), " ".join(near)])[1:] == [0, 0]


def test_what_a_template_writes_into_every_text_is_not_counted() -> None:
    asked = [f"{drawn(0, 80)} {drawn(seed + 1, 8)}" for seed in range(40)]
    assert grouped(asked) == list(range(40))


def test_short_texts_and_scripts_without_spaces_are_told_apart() -> None:
    assert grouped(["2 + 2", "2 + 3", "", " ", "北京在哪里", "上海在哪里", "北京在哪里?"]) == [0, 1, 2, 2, 4, 5, 4]
    long = "".join(chr(letter) for letter in random.Random(0).sample(range(0x4E00, 0x9FFF), 60))
    assert grouped([long, long[:30] + "们" + long[31:]]) == [0, 0]


@given(st.lists(st.text(max_size=30), max_size=12))
def test_a_group_is_named_by_its_first_text_whatever_the_texts(texts: list[str]) -> None:
    found = grouped(texts)
    assert len(found) == len(texts)
    for place, first in enumerate(found):
        assert found[first] == first <= place
    again = grouped([*texts, *texts])
    assert again[len(texts) :] == again[: len(texts)]
