"""Word problems of three kinds that no text and no fine-tuning of a family contains, to measure unseen tasks.

Longer problems have three events (texts and lessons have one or two). Problems about two things mention one that is not
asked for. Strange things are words that no other problem counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from tuneport.families import corpus
from tuneport.families.lesson_questions import Question, problem_question

LONGER, TWO_THINGS, STRANGE_THINGS = "longer-problems", "two-things", "strange-things"


def unseen_questions(seed: int, each: int) -> tuple[Question, ...]:
    """`each` questions of each kind, to be answered with their steps as other word problems are; no two alike."""
    rng = random.Random(f"unseen {seed}")
    found: dict[str, Question] = {}
    for place, (task, draw) in enumerate(_KINDS.items(), 1):
        while len(found) < place * each:
            question = problem_question(task, draw(rng))
            found.setdefault(question.prompt, question)
    return tuple(found.values())


def _longer(rng: random.Random) -> corpus.Problem:
    return corpus.make_problem(rng, 3)


def _about_two_things(rng: random.Random) -> corpus.Problem:
    problem = corpus.make_problem(rng, 1)
    has, event, question = problem.text.split(" . ")
    person, _, _, thing = has.split()
    other = rng.choice([name for name in corpus.THINGS if name != thing])
    told = [has, f"{person} has {rng.randint(1, 20)} {other}"]
    rng.shuffle(told)
    return replace(problem, text=" . ".join([*told, f"{event} {thing}", question]))


def _about_strange_things(rng: random.Random) -> corpus.Problem:
    problem = corpus.make_problem(rng, rng.choice((1, 2)))
    thing, strange = problem.text.split()[3], rng.choice(corpus.NOUNS)
    return replace(problem, text=problem.text.replace(f" {thing} ", f" {strange} "))


_KINDS: Mapping[str, Callable[[random.Random], corpus.Problem]] = {
    LONGER: _longer,
    TWO_THINGS: _about_two_things,
    STRANGE_THINGS: _about_strange_things,
}
UNSEEN_TASKS = tuple(_KINDS)
