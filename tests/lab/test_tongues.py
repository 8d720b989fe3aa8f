"""The three languages: words of their own, an order of their own, answers that are right."""

import random

import pytest

from tuneport.lab import corpus, languages, tongues, vocabulary
from tuneport.lab.tongues import TONGUES, Tongue

WORLD = corpus.make_world(0)


def test_no_word_belongs_to_two_languages_or_to_english() -> None:
    own = [set(tongue.words.values()) for tongue in TONGUES]
    assert len(set.union(*own)) == sum(map(len, own)) == len(tongues.words())
    assert not set(tongues.words()) & set(vocabulary.words(2))
    assert all(len(set(tongue.words.values())) == len(tongue.words) for tongue in TONGUES)


def back(tongue: Tongue, text: str) -> list[str]:
    """The meanings of a text's words."""
    meanings = {word: meaning for meaning, word in tongue.words.items()}
    return [meanings.get(word, word) for word in text.split()]


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda tongue: tongue.name)
def test_a_problems_answer_follows_from_its_words(tongue: Tongue) -> None:
    rng = random.Random(1)
    for _ in range(200):
        asked = tongues.problem(tongue, rng)
        *told, _ = " ".join(back(tongue, asked.text)).split(" . ")
        left = 0
        for sentence in told:
            said = sentence.split()
            (amount,) = (int(word) for word in said if word.isdigit())
            left += -amount if set(said) & set(corpus.LOSSES) else amount
        assert back(tongue, asked.answer)[-2:] == ["answer", str(left)]


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda tongue: tongue.name)
def test_the_verb_stands_where_the_language_has_it(tongue: Tongue) -> None:
    place = {"first": 0, "middle": 1, "last": -1}[tongue.verb]
    assert back(tongue, tongue.clause("keeps", "bala", "dog"))[place] == "keeps"


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda tongue: tongue.name)
def test_facts_are_the_worlds(tongue: Tongue) -> None:
    asked = tongues.fact(tongue, WORLD, "bala", "town")
    assert back(tongue, asked.answer) == [WORLD.facts["bala"]["town"]]
    assert {"which", "bala", "town", "?"} == set(back(tongue, asked.text))


def test_a_text_holds_no_problem_of_the_test_and_every_word_is_a_token_of_both_versions() -> None:
    plain = tongues.write_documents(TONGUES[0], WORLD, 4000, "0", frozenset())
    problem = next(text for text in plain if "?" in text)
    never = frozenset([problem[: problem.index("?") + 1]])
    guarded = tongues.write_documents(TONGUES[0], WORLD, 4000, "0", never)
    assert not any(text.startswith(next(iter(never))) for text in guarded)
    assert {word for text in plain for word in text.split()} <= set(languages.words(1)) & set(languages.words(2))
