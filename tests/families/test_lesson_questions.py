"""The questions: none of them was trained on, and the check that says so can say no."""

import pytest

from tuneport.errors import TuneportError
from tuneport.families import corpus, lesson_questions
from tuneport.families.lesson_questions import Question
from tuneport.families.word_tokenizers import chat_prompt

WORLD = corpus.make_world(0)
ASKED = lesson_questions.held_out_questions(WORLD, 0, problems=100, orders=100)
SHARES = {lesson_questions.WORD_PROBLEMS: 0.4, lesson_questions.ORDERS: 0.3, lesson_questions.KNOWN_FACTS: 0.3}


def of_task(task: str) -> Question:
    return next(question for question in ASKED if question.task == task)


def test_examples_for_training_and_questions_for_the_test_have_nothing_in_common() -> None:
    examples = lesson_questions.training_questions(WORLD, 0, 3000, shares=SHARES, never=ASKED)
    assert {example.task for example in examples} == set(SHARES)
    assert not {example.prompt for example in examples} & {question.prompt for question in ASKED}
    lesson_questions.check_held_out(ASKED, examples, [])


def test_facts_in_the_test_are_about_names_the_fine_tuning_never_mentions() -> None:
    examples = lesson_questions.training_questions(WORLD, 0, 3000, shares=SHARES, never=ASKED)
    taught = {word for example in examples for word in example.prompt.split()} & set(corpus.NAMES)
    asked = {word for question in ASKED for word in question.prompt.split()} & set(corpus.NAMES)
    assert len(taught) > 40
    assert not taught & asked


@pytest.mark.parametrize("task", [*lesson_questions.INSTRUCTION_TASKS, lesson_questions.NEW_FACTS])
def test_a_test_question_among_the_examples_is_an_error(task: str) -> None:
    leaked = of_task(task)
    with pytest.raises(TuneportError, match="1 training texts contain a test question"):
        lesson_questions.check_held_out(ASKED, [Question(task, leaked.prompt, "anything")], [])


def test_a_test_problem_inside_a_document_is_an_error() -> None:
    problem = lesson_questions.bare(of_task(lesson_questions.WORD_PROBLEMS).prompt)
    with pytest.raises(TuneportError, match="measure memory"):
        lesson_questions.check_held_out(ASKED, [], [f"{problem} 1 + 1 = 2 . there are 2"])


def test_the_text_of_pretraining_holds_no_test_problem() -> None:
    never = lesson_questions.problem_texts(ASKED)
    assert len(never) == 100
    documents = corpus.write_documents(WORLD, {"worked-stories": 1.0}, 200_000, "a", never=never)
    lesson_questions.check_held_out(ASKED, [], documents)


def test_a_prompt_without_its_chat_tokens_is_the_question() -> None:
    assert lesson_questions.bare(chat_prompt("list eggs books")) == "list eggs books"
