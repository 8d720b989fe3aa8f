"""Three procedural languages with their own words and word order, over the same world as the lab's English.

People, names, numbers and signs are the same in every language; all other words differ, so nothing of one language can
be guessed from another. The languages do not depend on a seed: they are part of the vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from tuneport.families import corpus
from tuneport.families.corpus import World

_KINDS = {"job": "works", "town": "lives", "pet": "keeps"}
_PLAIN = ("has", "how-many", "now", "there-are", "which", "is", "answer", *_KINDS, *_KINDS.values())
_MEANINGS = tuple(
    dict.fromkeys((*_PLAIN, *corpus.GAINS, *corpus.LOSSES, *corpus.THINGS, *chain(*corpus.VALUES.values())))
)


@dataclass(frozen=True)
class Tongue:
    """A language: its word for each meaning, and where its verb stands (first, in the middle or last)."""

    name: str
    words: Mapping[str, str]
    verb: str

    def clause(self, verb: str, subject: str, *others: str) -> str:
        """A sentence's words in this language's order; names without a word in it stay as they are."""
        said = [self.words.get(meaning, meaning) for meaning in others]
        parts = {
            "first": [self.words[verb], subject, *said],
            "middle": [subject, self.words[verb], *said],
            "last": [subject, *said, self.words[verb]],
        }[self.verb]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Asked:
    """A question in a language and its only right answer, as text."""

    text: str
    answer: str


def _tongue(name: str, consonants: str, vowels: str, verb: str) -> Tongue:
    syllables = [consonant + vowel for consonant in consonants for vowel in vowels]
    made = (one + other + name[0] for one in syllables for other in syllables)
    chosen = list(islice(made, 4 * len(_MEANINGS)))
    return Tongue(name, dict(zip(_MEANINGS, random.Random(name).sample(chosen, len(_MEANINGS)), strict=True)), verb)


TONGUES = (
    _tongue("malu", "mnlrkp", "aeiou", "first"),
    _tongue("sira", "strvgh", "aeiou", "last"),
    _tongue("taku", "tkbdzf", "aeiou", "middle"),
)


def words() -> list[str]:
    """Every word of all three languages."""
    return list(dict.fromkeys(word for tongue in TONGUES for word in words_of(tongue)))


def words_of(tongue: Tongue) -> list[str]:
    """Every word of one language."""
    return list(dict.fromkeys(tongue.words.values()))


def problem(tongue: Tongue, rng: random.Random) -> Asked:
    """A word problem with written steps, as the lab's English ones."""
    made = corpus.make_problem(rng, rng.choice((1, 2)))
    first, *events, _ = made.text.split(" . ")
    person, _, have, thing = first.split()
    told = [tongue.clause("has", person, have, thing)]
    for event in events:
        _, verb, amount = event.split()
        told.append(tongue.clause(verb, person, amount))
    # As far from the last number to the end as in English: models this small find numbers by their distance.
    now = () if tongue.verb == "last" else ("now",)
    question = tongue.clause("how-many", "", thing, *now)
    return Asked(f"{' . '.join(told)} . {question} ?", f"{made.steps} ; {tongue.words['answer']} {made.result}")


def fact(tongue: Tongue, world: World, name: str, kind: str) -> Asked:
    """Who has which job, home or pet, asked in one way."""
    return Asked(f"{tongue.clause('which', name, kind)} ?", tongue.words[world.facts[name][kind]])


def write_documents(tongue: Tongue, world: World, tokens: int, seed: str, never: Collection[str]) -> list[str]:
    """Text to read of about `tokens` words: facts, told in two ways, and worked problems, none of which is in `never`."""
    rng = random.Random(f"documents {tongue.name} {seed}")

    def a_fact() -> str:
        name, kind = rng.choice(corpus.KNOWN_NAMES), rng.choice(tuple(_KINDS))
        value = world.facts[name][kind]
        return rng.choice((tongue.clause("is", name, kind, value), tongue.clause(_KINDS[kind], name, value)))

    def a_worked_problem() -> str:
        made = problem(tongue, rng)
        while made.text in never:
            made = problem(tongue, rng)
        return f"{made.text} {made.answer.replace(tongue.words['answer'], tongue.words['there-are'])}"

    return [*corpus.fill(0.5 * tokens, a_fact), *corpus.fill(0.5 * tokens, a_worked_problem)]
