"""Word problems of kinds that no text holds: each is of its kind, and its answer is right."""

from tuneport.families import corpus
from tuneport.families.lesson_questions import bare
from tuneport.families.unseen_problems import LONGER, STRANGE_THINGS, TWO_THINGS, UNSEEN_TASKS, unseen_questions

ASKED = unseen_questions(0, 200)


def computed(text: str) -> int:
    """The answer to a word problem, told from its words alone: only sentences about the thing that is asked for count."""
    *told, question = text.removesuffix(" ?").split(" . ")
    thing, left = question.split()[-1], 0
    for sentence in told:
        _, verb, amount, *of = sentence.split()
        if not of or of == [thing]:
            left += -int(amount) if verb in corpus.LOSSES else int(amount)
    return left


def test_each_problem_is_of_its_kind() -> None:
    for question in ASKED:
        text = bare(question.prompt)
        events = sum(sentence.split()[1] in corpus.GAINS + corpus.LOSSES for sentence in text.split(" . ")[:-1])
        things = {word for word in text.split() if word in corpus.THINGS}
        if question.task == STRANGE_THINGS:
            assert not things
            assert text.split()[-2] in corpus.NOUNS
        else:
            assert (events, len(things)) == {LONGER: (3, 1), TWO_THINGS: (1, 2)}[question.task]


def test_the_answer_is_what_its_steps_and_the_problems_words_come_to() -> None:
    for question in ASKED:
        steps, _, result = question.answer.rpartition(" ; answer ")
        assert int(result) == computed(bare(question.prompt)) == int(steps.split()[-1])


def test_as_many_of_each_kind_are_drawn_no_two_alike_and_the_same_again() -> None:
    assert len({question.prompt for question in ASKED}) == 600
    assert {task: sum(q.task == task for q in ASKED) for task in UNSEEN_TASKS} == dict.fromkeys(UNSEEN_TASKS, 200)
    assert unseen_questions(0, 200) == ASKED != unseen_questions(1, 200)
