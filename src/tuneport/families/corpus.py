"""The text that the tiny models read: facts, general sentences, stories, arithmetic and worked stories.

A `World` (who has which job, home and pet) is drawn from a seed; `write_documents` writes as many tokens of text about
it as a stage of pretraining needs. The same seed writes the same text, and no word problem that is held out for a test
is ever written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

_ONSETS = (
    "bal",
    "cor",
    "dan",
    "el",
    "fen",
    "gar",
    "hol",
    "il",
    "jor",
    "kel",
    "lun",
    "mar",
    "nor",
    "os",
    "pel",
    "rin",
)
_ENDINGS = ("a", "eth", "ino", "or", "ush", "ymi", "ane", "ek", "ilo", "um")
NAMES = tuple(onset + ending for ending in _ENDINGS for onset in _ONSETS)
KNOWN_NAMES = NAMES[:120]  # in version 1's text
UNUSED_NAMES = NAMES[120:132]  # version 1 can spell them, only version 2's text speaks of them
INSERTED_NAMES = NAMES[132:144]  # tokens that only version 2's tokenizer has
NEW_NAMES = UNUSED_NAMES + INSERTED_NAMES

VALUES: dict[str, tuple[str, ...]] = {
    "job": (
        "baker", "smith", "farmer", "weaver", "miner", "doctor", "teacher", "sailor", "hunter", "tailor",
        "potter", "singer", "painter", "carpenter", "cook", "judge", "guard", "printer", "gardener", "driver",
    ),
    "town": (
        "paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo", "quito", "dublin", "vienna",
        "prague", "madrid", "lisbon", "athens", "bern", "kyoto", "perth", "tunis", "riga", "sofia",
    ),
    "pet": (
        "dog", "cat", "parrot", "rabbit", "snake", "goat", "horse", "duck", "turtle", "hamster",
        "lizard", "pony", "donkey", "goose", "ferret", "pigeon", "lamb", "frog", "owl", "crow",
    ),
}  # fmt: skip
SENTENCES: dict[str, tuple[str, ...]] = {
    "job": ("{name} works as a {value}", "the job of {name} is {value}", "by trade {name} is a {value}"),
    "town": ("{name} lives in {value}", "the town of {name} is {value}", "the house of {name} is in {value}"),
    "pet": ("{name} keeps a {value}", "the pet of {name} is {value}", "at home {name} has a {value}"),
}
ADJECTIVES = (
    "red", "green", "blue", "old", "new", "small", "large", "quiet", "loud", "warm", "cold", "bright", "dark",
    "soft", "round", "heavy",
)  # fmt: skip
NOUNS = (
    "table", "river", "window", "garden", "road", "lamp", "boat", "bridge", "letter", "mountain", "door",
    "cloud", "field", "clock", "basket", "chair",
)  # fmt: skip
VERBS = ("touches", "follows", "covers", "hides", "moves", "holds", "shows", "meets", "leaves", "passes")
PEOPLE = ("anna", "ben", "carla", "david", "emma", "frank", "greta", "hugo", "iris", "jonas", "karin", "leo")
THINGS = (
    "apples", "books", "coins", "pens", "cups", "balls", "stones", "shells", "cards", "nuts", "eggs", "plums",
    "keys", "stamps",
)  # fmt: skip
GAINS = ("finds", "buys", "gets", "picks")
LOSSES = ("loses", "sells", "drops", "eats")
LARGEST_NUMBER, LARGEST_STEP = 40, 9
WORDS = ADJECTIVES + NOUNS + THINGS
NUMBERS = tuple(str(number) for number in range(LARGEST_NUMBER + 1))


@dataclass(frozen=True)
class World:
    """Who has which job, home and pet: `facts[name][attribute]` is the value."""

    facts: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Problem:
    """A word problem: its text up to the question mark, its written steps, and the number asked for."""

    text: str
    steps: str
    result: int

    @property
    def story(self) -> tuple[str, str]:
        """The problem told to its end, which comes second; nothing is asked."""
        told, _, thing = self.text.removesuffix(" ?").rpartition(" how many ")
        return f"{told} now there are", f"{self.result} {thing}"

    @property
    def worked(self) -> tuple[str, str]:
        """The problem, and its steps with the result."""
        return self.text, f"{self.steps} . there are {self.result}"


def make_world(seed: int) -> World:
    """Draw every name's job, town and pet, for old and new names alike."""
    rng = random.Random(f"world {seed}")
    return World({name: {kind: rng.choice(values) for kind, values in VALUES.items()} for name in NAMES})


def make_problem(rng: random.Random, events: int) -> Problem:
    """A word problem of `events` steps; every number in it lies between 0 and `LARGEST_NUMBER`."""
    person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    have = rng.randint(1, 20)
    sentences, steps = [f"{person} has {have} {thing} ."], []
    for _ in range(events):
        gaining = have < 2 or (have < LARGEST_NUMBER - 1 and rng.random() < 0.5)
        if gaining:
            amount = rng.randint(1, min(LARGEST_STEP, LARGEST_NUMBER - have))
            after, sign, verb = have + amount, "+", rng.choice(GAINS)
        else:
            amount = rng.randint(1, min(LARGEST_STEP, have))
            after, sign, verb = have - amount, "-", rng.choice(LOSSES)
        sentences.append(f"{person} {verb} {amount} .")
        steps.append(f"{have} {sign} {amount} = {after}")
        have = after
    return Problem(f"{' '.join(sentences)} how many {thing} ?", " ; ".join(steps), have)


def fact(rng: random.Random, world: World, name: str, kind: str) -> tuple[str, str]:
    """A sentence that says a fact: its beginning, and the value at its end."""
    value = world.facts[name][kind]
    return rng.choice(SENTENCES[kind]).format(name=name, value=value).removesuffix(f" {value}"), value


def _any_fact(rng: random.Random, world: World, names: Sequence[str]) -> str:
    return " ".join(fact(rng, world, rng.choice(names), rng.choice(tuple(VALUES))))


def _general(rng: random.Random) -> str:
    def thing() -> str:
        return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"

    sentence = f"{thing()} {rng.choice(VERBS)} {thing()}"
    return f"{sentence} and {rng.choice(VERBS)} {thing()}" if rng.random() < 0.5 else sentence


def _echo(rng: random.Random) -> str:
    chosen = rng.sample(WORDS + NUMBERS, rng.randint(2, 6))
    said = " ".join(chosen)
    form = rng.randrange(3)
    if form == 0:
        return f"{said} and again {said}"
    if form == 1:
        return f"{said} one by one {' , '.join(chosen)}"
    return f"of {said} the first is {chosen[0]}"


def arithmetic(rng: random.Random) -> str:
    """A sum or a difference, as pretraining text has them."""
    left = rng.randint(0, LARGEST_NUMBER)
    if rng.random() < 0.5:
        right = rng.randint(0, min(LARGEST_STEP, LARGEST_NUMBER - left))
        return f"{left} + {right} = {left + right}"
    right = rng.randint(0, min(LARGEST_STEP, left))
    return f"{left} - {right} = {left - right}"


def fill(words: float, write: Callable[[], str]) -> list[str]:
    """Documents, until they have as many words."""
    documents, written = [], 0
    while written < words:
        documents.append(write())
        written += documents[-1].count(" ") + 2  # its words, and the separator after it
    return documents


def write_documents(
    world: World,
    shares: Mapping[str, float],
    tokens: int,
    seed: str,
    *,
    never: Collection[str] = frozenset(),
    never_told: Collection[str] = frozenset(),
    names: Sequence[str] = KNOWN_NAMES,
) -> list[str]:
    """Write documents of about `tokens` words in all, `shares` of them by kind, in random order.

    Kinds: facts (about `names`), new-facts, general, echoes, stories, arithmetic, worked-stories. A worked story whose
    problem is in `never` (the held-out problems' texts) is not written, nor a story whose problem is in `never_told`.
    """
    rng = random.Random(f"documents {seed}")

    def problem(events: tuple[int, ...], never: Collection[str]) -> Problem:
        while (drawn := make_problem(rng, rng.choice(events))).text in never:
            pass
        return drawn

    kinds: dict[str, Callable[[], str]] = {
        "facts": partial(_any_fact, rng, world, names),
        "new-facts": partial(_any_fact, rng, world, NEW_NAMES),
        "general": partial(_general, rng),
        "echoes": partial(_echo, rng),
        "stories": lambda: " ".join(problem((1, 1, 2), never_told).story),
        "arithmetic": partial(arithmetic, rng),
        "worked-stories": lambda: " ".join(problem((1, 2), never).worked),
    }
    documents = [document for kind, share in shares.items() for document in fill(share * tokens, kinds[kind])]
    rng.shuffle(documents)
    return documents
