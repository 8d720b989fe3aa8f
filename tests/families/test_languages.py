"""The text of a family for studies of languages."""

from dataclasses import replace

from support.brief_recipes import BRIEF_LANGUAGES, FEW_STEPS

from tuneport.families import corpus, languages, lesson_questions
from tuneport.families.languages import ENGLISH, KNOWN
from tuneport.families.tongues import TONGUES


def test_the_test_asks_as_much_in_every_language_and_no_lesson_holds_a_question_of_it() -> None:
    world = corpus.make_world(0)
    asked = languages.held_out(world, 0, BRIEF_LANGUAGES)
    count = BRIEF_LANGUAGES.problems + 3 * len(lesson_questions.ASKED_NAMES)
    tasks = [question.task for question in asked]
    assert {task: tasks.count(task) for task in tasks} == dict.fromkeys((ENGLISH, *(t.name for t in TONGUES)), count)
    never = frozenset(lesson_questions.bare(question.prompt) for question in asked)
    for tongue in TONGUES:
        taught = languages.lesson_in(tongue, world, 0, 300, BRIEF_LANGUAGES.shares, never)
        assert len(taught) == 300
        assert not never & {lesson_questions.bare(example.prompt) for example in taught}


def test_version_2_is_taught_what_version_1_is_and_more_in_the_language_that_it_knows() -> None:
    world = corpus.make_world(0)
    recipe = replace(BRIEF_LANGUAGES, instruct=replace(FEW_STEPS, steps=100))
    first, second = languages.instruction_data(world, 0, recipe, [])
    assert len(first) == len(second) == 400
    little, much = (round(share * 400) for share in recipe.known_taught)
    assert [sum(example.task == KNOWN for example in taught) for taught in (first, second)] == [little, much]
    changed = [(before.task, after.task) for before, after in zip(first, second, strict=True) if before != after]
    assert len(changed) == much - little
    assert all(before != KNOWN and after == KNOWN for before, after in changed)
