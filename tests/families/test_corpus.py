"""The procedural text: the same from the same seed, true to its world, and silent about held-out problems."""

import random
import re

import pytest

from tuneport.families import corpus, lesson_questions, word_tokenizers

KINDS = ("facts", "new-facts", "general", "echoes", "stories", "arithmetic", "worked-stories")


def documents(kind: str, seed: str = "a", **options: frozenset[str]) -> list[str]:
    return corpus.write_documents(corpus.make_world(0), {kind: 1.0}, 3000, seed, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_writes_the_same_text_and_another_seed_another(kind: str) -> None:
    assert documents(kind) == documents(kind)
    assert documents(kind) != documents(kind, "b")


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_is_in_the_vocabulary_of_the_version_that_reads_it(kind: str) -> None:
    version = 2 if kind == "new-facts" else 1
    known = set(word_tokenizers.words(version))
    found = {word for document in documents(kind) for word in document.split()}
    assert len(found) > 20
    assert found <= known


def test_version_one_reads_nothing_about_the_new_names() -> None:
    found = {word for kind in KINDS if kind != "new-facts" for document in documents(kind) for word in document.split()}
    assert not found & set(corpus.NEW_NAMES)


def test_sums_are_right_and_no_number_leaves_the_vocabulary() -> None:
    text = " ".join(documents("arithmetic") + documents("worked-stories"))
    sums = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", text)
    assert len(sums) > 300
    for left, sign, right, result in sums:
        assert int(result) == int(left) + (1 if sign == "+" else -1) * int(right)
        assert 0 <= int(result) <= corpus.LARGEST_NUMBER


def test_a_problem_that_is_held_out_is_never_written() -> None:
    rng = random.Random("documents a")
    held_out = frozenset(corpus.make_problem(rng, rng.choice((1, 2))).text for _ in range(50))
    assert any(document.startswith(text) for document in documents("worked-stories") for text in held_out)
    assert not any(
        document.startswith(text) for document in documents("worked-stories", never=held_out) for text in held_out
    )


def test_a_mixture_keeps_its_shares() -> None:
    written = corpus.write_documents(corpus.make_world(0), {"arithmetic": 0.25, "general": 0.75}, 10_000, "a")
    words = [len(document.split()) + 1 for document in written if "=" in document]
    assert sum(words) == pytest.approx(2500, abs=10)


def test_facts_are_those_of_the_world() -> None:
    world, told = corpus.make_world(3), 0
    for document in corpus.write_documents(world, {"facts": 1.0}, 3000, "a"):
        name = next(word for word in document.split() if word in corpus.NAMES)
        told += document.split()[-1] in world.facts[name].values()
    assert told == len(corpus.write_documents(world, {"facts": 1.0}, 3000, "a"))


def test_questions_for_a_test_are_all_different_and_of_every_task() -> None:
    asked = lesson_questions.held_out_questions(corpus.make_world(0), 0, problems=500, orders=400)
    assert len({question.prompt for question in asked}) == len(asked)
    assert {question.task for question in asked} == {
        *lesson_questions.INSTRUCTION_TASKS,
        *lesson_questions.NEW_KNOWLEDGE_TASKS,
    }
    assert sum(question.task in lesson_questions.INSTRUCTION_TASKS for question in asked) >= 1000
