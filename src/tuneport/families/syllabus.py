"""All text of a family of versions: what it reads in each stage, what it learns, and what it is asked.

Everything is made at once from a seed and the shares, so that it can be kept apart: no test or validation question is
taught or read (facts are read; reading them is the point), and the two share no question. A name is used for teaching,
validation or testing, never for two of these.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from tuneport.families import corpus, lesson_questions
from tuneport.families.corpus import World
from tuneport.families.lesson_questions import KNOWN_FACTS, ORDERS, WORD_PROBLEMS, Question, bare
from tuneport.families.pretraining import Schedule
from tuneport.families.unseen_problems import UNSEEN_TASKS, unseen_questions
from tuneport.families.word_tokenizers import SEPARATOR

SUMS_COMPLETED, STORIES_COMPLETED = "sums-completed", "stories-completed"
WORKED_COMPLETED, FACTS_COMPLETED = "worked-completed", "facts-completed"
SHOTS = {
    SUMS_COMPLETED: 3,
    STORIES_COMPLETED: 2,
    WORKED_COMPLETED: 1,
    FACTS_COMPLETED: 2,
}  # as many as the context holds
_TOLD = " now there are "

# Of sixteen names one is validated, five are taught and ten are tested: 300 facts for the test.
VALIDATED_NAMES = tuple(name for place, name in enumerate(corpus.NAMES) if place % 16 == 0)
TAUGHT_NAMES = tuple(name for place, name in enumerate(corpus.NAMES) if place % 16 in range(1, 6))
TESTED_NAMES = tuple(name for place, name in enumerate(corpus.NAMES) if place % 16 in range(6, 16))


@dataclass(frozen=True)
class Amounts:
    """How much of what: shares are parts of a stage's tokens or of the examples, numbers are questions of a task."""

    first_shares: Mapping[str, float]
    second_shares: Mapping[str, float]
    taught_shares: Mapping[str, float]
    taught: int  # examples of the fine-tuning
    preferred: int
    rewarded: int
    tested: int  # word problems and as many orders; facts are there as many as tested names have
    validated: int
    completed: int  # few-shot questions of each kind
    unseen: int  # problems of each kind that no text holds
    texts: int  # held-out texts
    text_words: int


@dataclass(frozen=True)
class Syllabus:
    """The text of a family, kept apart."""

    world: World
    stages: tuple[tuple[str, ...], tuple[str, ...]]
    taught: tuple[Question, ...]
    mixed: tuple[Question, ...]  # the same, every other word problem answered without its steps
    preferred: tuple[Question, ...]
    rewarded: tuple[Question, ...]
    test: tuple[Question, ...]
    validation: tuple[Question, ...]
    few_shot: tuple[Question, ...]
    unseen: tuple[Question, ...]
    held_out_text: tuple[str, ...]

    def digest(self) -> str:
        """BLAKE3 over all of it, in order."""
        asked = (self.test, self.validation, self.few_shot, self.unseen)
        taught = (self.taught, self.mixed, self.preferred, self.rewarded)
        rows: list[Any] = [self.world.facts, *self.stages, self.held_out_text]
        rows += [[[q.task, q.prompt, q.answer] for q in some] for some in (*taught, *asked)]
        return blake3(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def write_syllabus(seed: int, schedules: tuple[Schedule, Schedule], context: int, amounts: Amounts) -> Syllabus:
    """Draw everything from `seed`, as much to read as the two stages' schedules ask for; raise if anything leaked."""
    world = corpus.make_world(seed)
    test = _asked(world, f"test {seed}", amounts.tested, TESTED_NAMES, ())
    validation = _asked(world, f"validation {seed}", amounts.validated, VALIDATED_NAMES, test)
    asked = (*test, *validation)
    few_shot, unseen = _few_shot(world, seed, amounts.completed, asked), unseen_questions(seed, amounts.unseen)
    never = lesson_questions.problem_texts(asked) | set(_problems_of((*few_shot, *unseen)))

    def read(stage: str, shares: Mapping[str, float], words: int) -> list[str]:
        return corpus.write_documents(
            world, shares, words, f"{seed}, {stage}", never=never, never_told=never, names=corpus.NAMES
        )

    first, second = (
        read(f"stage {stage}", shares, schedule.words(context))
        for stage, schedule, shares in (
            (1, schedules[0], amounts.first_shares),
            (2, schedules[1], amounts.second_shares),
        )
    )
    half = amounts.texts * amounts.text_words // 2
    unread = [*read("held out 1", amounts.first_shares, half), *read("held out 2", amounts.second_shares, half)]

    def taught(what: str, count: int, shares: Mapping[str, float]) -> tuple[Question, ...]:
        drawn = lesson_questions.training_questions(
            world, f"taught {what} {seed}", count, shares=shares, never=asked, names=TAUGHT_NAMES, unread=never
        )
        return tuple(drawn)

    examples = taught("instructions", amounts.taught, amounts.taught_shares)
    made = Syllabus(
        world,
        (tuple(first), tuple(second)),
        examples,
        _of_mixed_quality(examples),
        _each_once(taught("preferences", amounts.preferred, {WORD_PROBLEMS: 1.0})),
        _each_once(taught("prompts", amounts.rewarded, amounts.taught_shares)),
        test,
        validation,
        few_shot,
        unseen,
        tuple(in_rows(unread, amounts.text_words, amounts.texts)),
    )
    lessons = [*made.taught, *made.preferred, *made.rewarded]
    lesson_questions.check_held_out(asked, lessons, [*first, *second])
    check_unread((*few_shot, *unseen), lessons, [*first, *second])
    return made


def without_steps(question: Question) -> Question:
    """A word problem with nothing but its result for an answer."""
    return replace(question, answer=question.answer.rpartition(" ; ")[2])


def check_unread(asked: Iterable[Question], taught: Iterable[Question], documents: Iterable[str]) -> None:
    """Raise unless the problems to complete and those of unseen kinds were neither told, nor worked out, nor taught.

    Facts and sums to complete are exempt: they ask for what all versions have read.
    """
    lesson_questions.refuse_leaks(_problems_of(asked), taught, map(_problem_in, documents))


def _asked(
    world: World, what: str, count: int, names: Sequence[str], before: Sequence[Question]
) -> tuple[Question, ...]:
    """`count` word problems and orders that are not in `before`, and each fact about `names` once, all different."""
    known, counts = {question.prompt for question in before}, {WORD_PROBLEMS: count, ORDERS: count}
    found = lesson_questions.different_questions(world, random.Random(what), counts, {KNOWN_FACTS: names}, known)
    return tuple(found.values())


def _few_shot(world: World, seed: int, count: int, asked: Sequence[Question]) -> tuple[Question, ...]:
    """Documents of the pretraining without their end, after some whole ones: what bases can answer too.

    Sums, stories and facts of both stages, worked stories of the second; problems are not those of the test.
    """
    found: dict[str, Question] = {}

    def ask(task: str, shots: Sequence[str], begun: str, end: str) -> None:
        prompt = f"{SEPARATOR} {f' {SEPARATOR} '.join([*shots, begun])}"
        found[prompt] = Question(task, prompt, end)

    taken = set(lesson_questions.problem_texts(asked))
    for place, task in enumerate((SUMS_COMPLETED, STORIES_COMPLETED, WORKED_COMPLETED), 1):
        rng = random.Random(f"{task} {seed}")
        while len(found) < place * count:
            key, document = _document(task, rng)
            if key not in taken:
                taken.add(key)
                shots: list[str] = []
                while len(shots) < SHOTS[task]:
                    other, whole = _document(task, rng)
                    if other != key:  # it would give away the one that is asked for
                        shots.append(" ".join(whole))
                ask(task, shots, *document)

    rng = random.Random(f"{FACTS_COMPLETED} {seed}")
    facts = [(name, kind) for name in TESTED_NAMES for kind in corpus.VALUES]
    for name, kind in rng.sample(facts, min(count, len(facts))):
        others = rng.sample([other for other in TESTED_NAMES if other != name], SHOTS[FACTS_COMPLETED])
        shots = [" ".join(corpus.fact(rng, world, other, kind)) for other in others]
        ask(FACTS_COMPLETED, shots, *corpus.fact(rng, world, name, kind))
    return tuple(found.values())


def _document(task: str, rng: random.Random) -> tuple[str, tuple[str, str]]:
    """What is not to be asked twice, and a document: its beginning and its end."""
    if task == SUMS_COMPLETED:
        begun, _, result = corpus.arithmetic(rng).rpartition(" ")
        return begun, (begun, result)
    problem = corpus.make_problem(rng, rng.choice((1, 2)))
    return problem.text, problem.story if task == STORIES_COMPLETED else problem.worked


def _problems_of(asked: Iterable[Question]) -> dict[str, Question]:
    """The word problems that are to be completed or of an unseen kind, as chat prompts spell them."""
    found = {}
    for question in asked:
        if question.task in UNSEEN_TASKS:
            found[bare(question.prompt)] = question
        if question.task in (STORIES_COMPLETED, WORKED_COMPLETED):
            begun = question.prompt.rpartition(f"{SEPARATOR} ")[2]
            found[_problem_in(f"{begun} {question.answer}")] = question
    return found


def _problem_in(document: str) -> str:
    """The word problem in a document; the document itself where there is none."""
    told, found, end = document.rpartition(_TOLD)
    return f"{told} how many {end.rpartition(' ')[2]} ?" if found else lesson_questions.question_in(document)


def _of_mixed_quality(examples: Sequence[Question]) -> tuple[Question, ...]:
    problems = [place for place, example in enumerate(examples) if example.task == WORD_PROBLEMS]
    hasty = set(problems[::2])
    return tuple(without_steps(example) if place in hasty else example for place, example in enumerate(examples))


def _each_once(drawn: Iterable[Question]) -> tuple[Question, ...]:
    return tuple({question.prompt: question for question in drawn}.values())


def in_rows(documents: Sequence[str], words: int, count: int) -> Iterable[str]:
    """The documents one after another, as in pretraining, in `count` rows of `words` words each."""
    flat = f" {SEPARATOR} ".join(["", *documents]).split()
    return (" ".join(flat[start : start + words]) for start in range(0, count * words, words))
