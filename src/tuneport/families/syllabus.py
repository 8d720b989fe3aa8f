"""All text of a family of versions: what it reads in each stage, what it is taught, and what it is asked.

In come a seed and the shares, out comes everything at once, so that it can be kept apart: no question of the test or of
the validation is taught or read (facts are read, and reading them is the point), and the two share no question. Names
are taught, validated or tested, never two of these.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from blake3 import blake3

from tuneport.errors import TuneportError
from tuneport.families import corpus, lesson_questions
from tuneport.families.corpus import World
from tuneport.families.lesson_questions import KNOWN_FACTS, ORDERS, PHRASINGS, WORD_PROBLEMS, Question, bare
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
Drawn = tuple[str, str, str]  # what is not to be asked twice, a document's beginning, its end

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
        read(f"stage {stage}", shares, (schedule.steps + 1) * schedule.batch * (context + 1))
        for stage, schedule, shares in (
            (1, schedules[0], amounts.first_shares),
            (2, schedules[1], amounts.second_shares),
        )
    )
    half = amounts.texts * amounts.text_words // 2
    unread = [*read("held out 1", amounts.first_shares, half), *read("held out 2", amounts.second_shares, half)]

    def taught(what: str, count: int, shares: Mapping[str, float]) -> tuple[Question, ...]:
        rng, forbidden = random.Random(f"taught {what} {seed}"), {bare(question.prompt) for question in asked} | never
        found: list[Question] = []
        while len(found) < count:
            task = rng.choices(tuple(shares), tuple(shares.values()))[0]
            question = _question(task, world, rng, TAUGHT_NAMES)
            if bare(question.prompt) not in forbidden:
                found.append(question)
        return tuple(found)

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
        tuple(_in_rows(unread, amounts.text_words, amounts.texts)),
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
    held_out = _problems_of(asked)
    read = (_problem_in(document) for document in documents)
    leaked = [held_out[text] for text in chain((bare(example.prompt) for example in taught), read) if text in held_out]
    if leaked:
        raise TuneportError(
            f"{len(leaked)} training texts hold a problem that is held out, the first one {leaked[0].prompt!r}: "
            "write the text with `never=` and `never_told=` these problems."
        )


def _asked(
    world: World, what: str, count: int, names: Sequence[str], before: Sequence[Question]
) -> tuple[Question, ...]:
    """`count` word problems and orders that are not in `before`, and each fact about `names` once, all different."""
    rng, known = random.Random(what), {question.prompt for question in before}
    found: dict[str, Question] = {}
    makers: tuple[Callable[[random.Random], Question], ...] = (lesson_questions.word_problem, lesson_questions.order)
    for make in makers:
        wanted = len(found) + count
        while len(found) < wanted:
            question = make(rng)
            if question.prompt not in known:
                found.setdefault(question.prompt, question)
    for name in names:
        for kind in corpus.VALUES:
            question = lesson_questions.asked_fact(KNOWN_FACTS, world, name, kind, rng.choice(PHRASINGS))
            found[question.prompt] = question
    return tuple(found.values())


def _question(task: str, world: World, rng: random.Random, names: Sequence[str]) -> Question:
    if task == KNOWN_FACTS:
        name, kind = rng.choice(names), rng.choice(tuple(corpus.VALUES))
        return lesson_questions.asked_fact(KNOWN_FACTS, world, name, kind, rng.choice(PHRASINGS))
    return {WORD_PROBLEMS: lesson_questions.word_problem, ORDERS: lesson_questions.order}[task](rng)


def _few_shot(world: World, seed: int, count: int, asked: Sequence[Question]) -> tuple[Question, ...]:
    """Documents of the pretraining without their end, after some whole ones: what bases can answer too.

    Sums, stories and facts of both stages, worked stories of the second; problems are not those of the test.
    """
    found: dict[str, Question] = {}

    def ask(task: str, shots: Sequence[tuple[str, str]], begun: str, end: str) -> None:
        told = [f"{document} {rest}" for document, rest in shots]
        prompt = f"{SEPARATOR} {f' {SEPARATOR} '.join([*told, begun])}"
        found[prompt] = Question(task, prompt, end)

    taken = set(lesson_questions.problem_texts(asked))
    drawn = ((SUMS_COMPLETED, _sum), (STORIES_COMPLETED, _story), (WORKED_COMPLETED, _worked))
    for place, (task, draw) in enumerate(drawn, 1):
        rng = random.Random(f"{task} {seed}")
        while len(found) < place * count:
            key, begun, end = draw(rng)
            if key not in taken:
                taken.add(key)
                shots = [shot[1:] for shot in _others(partial(draw, rng), key, SHOTS[task])]
                ask(task, shots, begun, end)

    rng = random.Random(f"{FACTS_COMPLETED} {seed}")
    facts = [(name, kind) for name in TESTED_NAMES for kind in corpus.VALUES]
    for name, kind in rng.sample(facts, min(count, len(facts))):
        others = rng.sample([other for other in TESTED_NAMES if other != name], SHOTS[FACTS_COMPLETED])
        shots = [_fact(world, other, kind, rng) for other in others]
        ask(FACTS_COMPLETED, shots, *_fact(world, name, kind, rng))
    return tuple(found.values())


def _others(draw: Callable[[], Drawn], key: str, count: int) -> list[Drawn]:
    """`count` whole documents, none of which gives away the one that is asked for."""
    found: list[Drawn] = []
    while len(found) < count:
        shot = draw()
        if shot[0] != key:
            found.append(shot)
    return found


def _sum(rng: random.Random) -> Drawn:
    begun, _, result = corpus.arithmetic(rng).rpartition(" ")
    return begun, begun, result


def _story(rng: random.Random) -> Drawn:
    problem = corpus.make_problem(rng, rng.choice((1, 2)))
    told, _, thing = problem.text.removesuffix(" ?").rpartition(" how many ")
    return problem.text, f"{told}{_TOLD.rstrip()}", f"{problem.result} {thing}"


def _worked(rng: random.Random) -> Drawn:
    problem = corpus.make_problem(rng, rng.choice((1, 2)))
    return problem.text, problem.text, f"{problem.steps} . there are {problem.result}"


def _fact(world: World, name: str, kind: str, rng: random.Random) -> tuple[str, str]:
    value = world.facts[name][kind]
    sentence = rng.choice(corpus.SENTENCES[kind]).format(name=name, value=value)
    return sentence.removesuffix(f" {value}"), value


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
    if found:
        return f"{told} how many {end.rpartition(' ')[2]} ?"
    return document[: document.index("?") + 1] if "?" in document else document


def _of_mixed_quality(examples: Sequence[Question]) -> tuple[Question, ...]:
    problems = [place for place, example in enumerate(examples) if example.task == WORD_PROBLEMS]
    hasty = set(problems[::2])
    return tuple(without_steps(example) if place in hasty else example for place, example in enumerate(examples))


def _each_once(drawn: Iterable[Question]) -> tuple[Question, ...]:
    return tuple({question.prompt: question for question in drawn}.values())


def _in_rows(documents: Sequence[str], words: int, count: int) -> Iterable[str]:
    """The documents one after another, as in pretraining, in `count` rows of `words` words each."""
    flat = f" {SEPARATOR} ".join(["", *documents]).split()
    return (" ".join(flat[start : start + words]) for start in range(0, count * words, words))
