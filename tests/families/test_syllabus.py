"""The text of a family: everything there, and everything kept apart."""

import pytest

from tuneport.errors import TuneportError
from tuneport.families import corpus, syllabus, versions, word_tokenizers
from tuneport.families.lesson_questions import KNOWN_FACTS, ORDERS, WORD_PROBLEMS, Question, bare, problem_texts
from tuneport.families.pretraining import Schedule
from tuneport.families.syllabus import (
    FACTS_COMPLETED,
    STORIES_COMPLETED,
    SUMS_COMPLETED,
    WORKED_COMPLETED,
    Syllabus,
    check_unread,
    write_syllabus,
)

BRIEF = Schedule(steps=20, peak=1e-3)


@pytest.fixture(scope="module")
def text() -> Syllabus:
    return write_syllabus(0, (BRIEF, BRIEF), 64, versions.SMALL.amounts)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(text: Syllabus) -> None:
    assert write_syllabus(0, (BRIEF, BRIEF), 64, versions.SMALL.amounts).digest() == text.digest()
    assert write_syllabus(1, (BRIEF, BRIEF), 64, versions.SMALL.amounts).digest() != text.digest()


def test_each_task_of_the_test_asks_three_hundred_different_questions(text: Syllabus) -> None:
    for task in (WORD_PROBLEMS, KNOWN_FACTS, ORDERS):
        assert len({q.prompt for q in text.test if q.task == task}) == 300


def test_test_and_validation_share_nothing_and_nothing_of_them_is_taught(text: Syllabus) -> None:
    test, validation = ({bare(q.prompt) for q in some} for some in (text.test, text.validation))
    taught = {bare(q.prompt) for q in (*text.taught, *text.preferred, *text.rewarded)}
    assert test and validation and taught
    assert not test & validation and not (test | validation) & taught
    names = [set(some) for some in (syllabus.TAUGHT_NAMES, syllabus.VALIDATED_NAMES, syllabus.TESTED_NAMES)]
    assert set().union(*names) == set(corpus.NAMES) and sum(map(len, names)) == len(corpus.NAMES)


def test_no_held_out_problem_is_told_or_worked_out_in_any_text(text: Syllabus) -> None:
    held_out = problem_texts((*text.test, *text.validation))
    read = " | ".join(document for stage in text.stages for document in stage)
    assert len(held_out) == 400
    assert not [problem for problem in held_out if problem in read]
    begun = [q.prompt.rpartition("<eos> ")[2] for q in text.few_shot if q.task in (STORIES_COMPLETED, WORKED_COMPLETED)]
    assert len(begun) == 400
    assert not [one for one in begun if f"{one} " in read]


def test_problems_of_unseen_kinds_are_in_no_text_and_no_lesson(text: Syllabus) -> None:
    problems = {bare(question.prompt) for question in text.unseen}
    assert len(problems) == 300
    read = " | ".join(document for stage in text.stages for document in stage)
    taught = {bare(question.prompt) for question in (*text.taught, *text.preferred, *text.rewarded)}
    assert not [problem for problem in problems if problem in read or problem in taught]
    leak = text.unseen[0]
    with pytest.raises(TuneportError, match="1 training texts contain"):
        check_unread([leak], [], [f"{bare(leak.prompt)} 1 + 1 = 2 . there are 2"])


def test_few_shot_questions_are_whole_documents_and_one_without_its_end(text: Syllabus) -> None:
    assert {q.task for q in text.few_shot} == set(syllabus.SHOTS)
    facts = {f"{name} {value}" for name, known in text.world.facts.items() for value in known.values()}
    for question in text.few_shot:
        *shots, begun = question.prompt.removeprefix("<eos> ").split(" <eos> ")
        assert len(shots) == syllabus.SHOTS[question.task]
        assert f"{begun} {question.answer}" not in shots
        if question.task == SUMS_COMPLETED:
            left, sign, right, _ = begun.split()
            assert int(question.answer) == int(left) + (1 if sign == "+" else -1) * int(right)
        if question.task == FACTS_COMPLETED:
            name = next(word for word in begun.split() if word in corpus.NAMES)
            assert f"{name} {question.answer}" in facts


def test_every_word_is_in_the_familys_vocabulary(text: Syllabus) -> None:
    known = set(versions.words())
    asked = (*text.taught, *text.test, *text.validation, *text.few_shot, *text.unseen)
    said = [q.prompt for q in asked] + [q.answer for q in asked] + list(text.held_out_text)
    said += [document for stage in text.stages for document in stage]
    assert {word for one in said for word in one.split()} <= known
    assert versions.words()[-3:] == [word_tokenizers.USER, word_tokenizers.ASSISTANT, word_tokenizers.END]


def test_mixed_instructions_answer_every_other_word_problem_hastily(text: Syllabus) -> None:
    pairs = [(a, b) for a, b in zip(text.taught, text.mixed, strict=True) if a.task == WORD_PROBLEMS]
    assert [a.answer == b.answer for a, b in pairs] == [bool(place % 2) for place in range(len(pairs))]
    assert all(b.answer == f"answer {a.answer.rpartition(' ')[2]}" for a, b in pairs[::2])


@pytest.mark.parametrize(
    "leak",
    [
        "anna has 3 eggs . anna finds 2 . how many eggs ? 3 + 2 = 5 . there are 5",
        "anna has 3 eggs . anna finds 2 . now there are 5 eggs",
    ],
)
def test_a_problem_to_complete_that_was_read_stops_the_family(leak: str) -> None:
    asked = Question(
        WORKED_COMPLETED, "<eos> anna has 3 eggs . anna finds 2 . how many eggs ?", "3 + 2 = 5 . there are 5"
    )
    check_unread([asked], [], ["the red boat hides the lamp"])
    with pytest.raises(TuneportError, match="1 training texts contain"):
        check_unread([asked], [], [leak])
    with pytest.raises(TuneportError, match="1 training texts contain"):
        check_unread(
            [asked], [Question(WORD_PROBLEMS, f"<user> {asked.prompt[6:]} <asst>", "3 + 2 = 5 ; answer 5")], []
        )
