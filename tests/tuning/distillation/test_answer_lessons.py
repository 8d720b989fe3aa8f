"""Answers in the student's tokens: which of them are paired, what becomes of the ends, of what is cut and what is empty."""

from __future__ import annotations

import numpy as np
import pytest

from tuneport.errors import DataError
from tuneport.scoring.answers.answer_losses import LikeliestTokens
from tuneport.tuning.distillation.answer_lessons import (
    Lesson,
    LessonCounts,
    Student,
    learned,
    need_lessons,
    same_places,
)
from tuneport.tuning.distillation.recording import Recorded, Spoken

WORDS = ("<end>", "the", "fox", "jumps", "</s>")
END = 0


def heard(
    tokens: list[str], kept: list[list[str]], *, ended: bool = True, ends: tuple[str, ...] = ("<end>",)
) -> Recorded:
    """An answer of a teacher whose ids are 100 more than their places in `WORDS`; likelier tokens have larger logs."""
    ids = np.array([[100 + WORDS.index(word) for word in row] for row in kept], np.int32)
    logs = np.log(np.array([[0.5 / 2**place for place in range(len(row))] for row in kept], np.float32))
    rest = (1 - np.exp(logs).sum(axis=1)).astype(np.float32)
    strings = {100 + place: word for place, word in enumerate(WORDS)}
    spoken = Spoken("key", " ".join(tokens), tuple(tokens), ended)
    return Recorded(
        spoken, LikeliestTokens(ids, logs, rest), strings, frozenset(100 + WORDS.index(end) for end in ends)
    )


def student(*words: str, length: int = 16) -> Student:
    own = words or WORDS
    return Student({word: id for id, word in enumerate(own)}, dict(enumerate(own)), END, length)


def lesson(of: Student, answer: list[str], said: Recorded, counts: LessonCounts | None = None) -> Lesson:
    found = of.lesson([7, 7], [of.vocabulary[word] for word in answer], said, counts or LessonCounts())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("theirs", "own", "places"),
    [
        (["the", "fox"], ["the", "fox"], [0, 1]),
        (["the", "fox", "s"], ["th", "e", "fox", "s"], [-1, -1, 1, 2]),
        (["thefox"], ["the", "fox"], [-1, -1]),
        (["a", "b", "a"], ["ab", "a"], [-1, 2]),
        (["the"], ["a"], [-1]),
        ([None, "a"], [None, "a"], [0, 1]),
    ],
)
def test_tokens_are_paired_that_are_the_same_string_at_the_same_place_of_the_text(
    theirs: list[str | None], own: list[str | None], places: list[int]
) -> None:
    assert list(same_places(theirs, own)) == places


def test_the_same_tokens_have_the_students_ids_and_the_end_is_learned_behind_them() -> None:
    counts = LessonCounts()
    found = lesson(student(), ["the", "fox"], heard(["the", "fox"], 3 * [["the", "fox"]]), counts)
    assert (found.ids, found.places.tolist()) == ([7, 7, 1, 2, END], [2, 3, 4])
    assert found.paired.all() and found.expected.ids.tolist() == 3 * [[1, 2]]
    assert (counts.tokens, counts.left_out, counts.as_text, counts.cut) == (3, 0, 0, 0)


def test_all_ends_of_the_teacher_are_the_students_one_end() -> None:
    said = heard(["the"], [["the", "<end>", "</s>"], ["</s>", "fox", "<end>"]], ends=("<end>", "</s>"))
    found = lesson(student(), ["the"], said)
    assert found.expected.ids.tolist() == [[1, END, -1], [END, 2, -1]]
    assert np.exp(found.expected.logs).tolist() == [
        pytest.approx([0.5, 0.25 + 0.125, 0]),
        pytest.approx([0.5 + 0.125, 0.25, 0]),
    ]


def test_a_token_that_the_student_lacks_has_no_id() -> None:
    found = lesson(student("<end>", "the", "fox"), ["the"], heard(["the"], 2 * [["the", "jumps"]]))
    assert found.expected.ids.tolist() == 2 * [[1, -1]]


def test_an_answer_that_did_not_end_teaches_no_end() -> None:
    counts = LessonCounts()
    found = lesson(student(), ["the"], heard(["the"], [["the", "fox"]], ended=False), counts)
    assert found.ids == [7, 7, 1] and len(found.paired) == 1


def test_tokens_without_a_partner_are_left_out_or_learned_as_text_where_few_have_one() -> None:
    counts, said = LessonCounts(answers=2), heard(["the", "fox", "jumps"], 4 * [["the", "fox"]])
    found = lesson(student("<end>", "the", "fo", "x", "jumps"), ["the", "fo", "x", "jumps"], said, counts)
    assert found.places.tolist() == [2, 5, 6] and found.paired.all()
    assert (counts.left_out, counts.as_text, counts.tokens) == (2, 0, 5)
    found = lesson(student("<end>", "th", "e", "fox", "jum", "ps"), ["th", "e", "fox", "jum", "ps"], said, counts)
    assert found.places.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.paired.tolist() == [False, False, True, False, False, True]
    assert (counts.left_out, counts.as_text, counts.tokens) == (2, 4, 11)
    assert "6 of 11 tokens" in counts.warnings(8)[0]


def test_an_answer_is_cut_at_the_sequence_length_and_none_is_left_of_one_without_room() -> None:
    counts, said = LessonCounts(), heard(["the", "fox"], 3 * [["the", "fox"]])
    assert lesson(student(length=4), ["the", "fox"], said, counts).ids == [7, 7, 1, 2]
    assert student(length=2).lesson([7, 7], [1, 2], said, counts) is None
    assert counts.cut == 2


def test_answers_that_are_all_empty_are_refused() -> None:
    with pytest.raises(DataError, match="All 3 answers"):
        need_lessons([], LessonCounts(empty=3))


def test_the_record_says_how_far_the_teacher_was_at_the_first_step_and_at_the_end() -> None:
    log = [
        {"loss": float(20 - step), **({"answer_kl": 1.0, "retain_kl": 0.5} if step > 18 else {})} for step in range(20)
    ]
    found = learned(LessonCounts(answers=2), log)
    assert (found["first_kl"], found["last_kl"], found["last_retain_kl"]) == (20.0, 1.5, 0.5)
