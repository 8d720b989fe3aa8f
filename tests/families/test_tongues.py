"""The three languages: words of their own, an order of their own, sentences that mean what they should, right answers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.families import corpus, languages, tongues, word_tokenizers
from tuneport.families.tongues import TONGUES, Tongue

WORLD = corpus.make_world(0)
SIGNS = ("+", "-", "=", ";", ".", "?", ",")
SHARED = {*corpus.NAMES, *corpus.PEOPLE, *corpus.NUMBERS, *SIGNS}
TONGUE = st.sampled_from(TONGUES)
SEED = st.integers(0, 2**32)


def read(tongue: Tongue, sentence: str) -> list[str]:
    """A sentence's meanings in English order: the verb after the subject, or first where there is none."""
    meanings = {word: meaning for meaning, word in tongue.words.items()}
    said = [meanings.get(word, word) for word in sentence.split()]
    if tongue.verb == "middle":
        return said
    verb, *others = said if tongue.verb == "first" else [said[-1], *said[:-1]]
    return [others[0], verb, *others[1:]] if others[0] in corpus.NAMES + corpus.PEOPLE else [verb, *others]


def test_no_word_belongs_to_two_languages_or_to_english() -> None:
    own = [set(tongue.words.values()) for tongue in TONGUES]
    assert len(set.union(*own)) == sum(map(len, own)) == len(tongues.words())
    assert not set(tongues.words()) & set(word_tokenizers.words(2))
    assert all(len(set(tongue.words.values())) == len(tongue.words) for tongue in TONGUES)


@given(TONGUE, SEED)
def test_a_problem_reads_back_as_one_of_the_labs_english_ones_and_its_answer_solves_it(
    tongue: Tongue, seed: int
) -> None:
    asked = tongues.problem(tongue, random.Random(seed))
    *told, question = (read(tongue, sentence) for sentence in asked.text.removesuffix(" ?").split(" . "))
    (person, has, have, thing), *events = told
    assert person in corpus.PEOPLE
    assert (has, question[:2]) == ("has", ["how-many", thing])
    left, steps = int(have), []
    for who, verb, amount in events:
        assert who == person
        after = left - int(amount) if verb in corpus.LOSSES else left + int(amount)
        steps.append(f"{left} {'-' if verb in corpus.LOSSES else '+'} {amount} = {after}")
        left = after
    assert asked.answer == f"{' ; '.join(steps)} ; {tongue.words['answer']} {left}"


def read_words(tongue: Tongue, text: str) -> list[str]:
    meanings = {word: meaning for meaning, word in tongue.words.items()}
    return [meanings.get(word, word) for word in text.split()]


@given(TONGUE, st.sampled_from(corpus.KNOWN_NAMES), st.sampled_from(sorted(corpus.VALUES)))
def test_a_fact_is_the_worlds_and_no_word_of_its_answer_is_shared_or_in_the_question(
    tongue: Tongue, name: str, kind: str
) -> None:
    asked = tongues.fact(tongue, WORLD, name, kind)
    assert sorted(read_words(tongue, asked.text)) == sorted(["which", name, kind, "?"])
    assert read_words(tongue, asked.answer) == [WORLD.facts[name][kind]]
    assert asked.answer not in SHARED | set(asked.text.split()) | set(word_tokenizers.words(2))


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda tongue: tongue.name)
def test_the_verb_stands_where_the_language_has_it(tongue: Tongue) -> None:
    place = {"first": 0, "middle": 1, "last": -1}[tongue.verb]
    assert tongue.clause("keeps", "bala", "dog").split()[place] == tongue.words["keeps"]


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda tongue: tongue.name)
def test_a_text_holds_nothing_but_the_languages_own_words_and_names_numbers_and_signs(tongue: Tongue) -> None:
    text = tongues.write_documents(tongue, WORLD, 4000, "0", frozenset())
    assert 4000 <= sum(document.count(" ") + 2 for document in text) < 4100
    words = {word for document in text for word in document.split()}
    assert words <= set(tongue.words.values()) | SHARED
    assert words <= set(languages.words(1)) & set(languages.words(2))


@pytest.mark.parametrize("tongue", TONGUES, ids=lambda tongue: tongue.name)
def test_a_text_tells_the_worlds_facts(tongue: Tongue) -> None:
    text = tongues.write_documents(tongue, WORLD, 4000, "0", frozenset())
    told = [read(tongue, document) for document in text if set(document.split()) & set(corpus.NAMES)]
    kinds = {"works": "job", "lives": "town", "keeps": "pet"}
    for name, verb, *others in told:
        kind, value = others if verb == "is" else (kinds[verb], *others)
        assert WORLD.facts[name][kind] == value
    assert len(told) > 100
    assert {verb for _, verb, *_ in told} == {"is", *kinds}


def test_a_text_holds_no_problem_of_the_test() -> None:
    plain = tongues.write_documents(TONGUES[0], WORLD, 4000, "0", frozenset())
    problems = [text[: text.index("?") + 1] for text in plain if "?" in text]
    never = frozenset(problems[::2])
    guarded = tongues.write_documents(TONGUES[0], WORLD, 4000, "0", never)
    assert len(never) > 10
    assert not any(text.startswith(tuple(never)) for text in guarded)
