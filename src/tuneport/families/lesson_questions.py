"""The questions: what the fine-tuning teaches, and what the models are asked afterwards.

Three instruction tasks: word problems with written steps, facts about names that the fine-tuning never mentions, and
orders to repeat words, list them or say the first. Two tasks ask about what only version 2 has read: in chat form (for
tuned models) and as a sentence to complete (for base models). `check_held_out` checks that no training saw a test
question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tuneport.errors import TuneportError
from tuneport.families import corpus
from tuneport.families.corpus import World
from tuneport.families.word_tokenizers import ASSISTANT, SEPARATOR, USER, chat_prompt

WORD_PROBLEMS, KNOWN_FACTS, ORDERS = "word-problems", "known-facts", "orders"
INSTRUCTION_TASKS = (WORD_PROBLEMS, KNOWN_FACTS, ORDERS)
NEW_FACTS, NEW_FACTS_COMPLETED = "new-facts", "new-facts-completed"
NEW_KNOWLEDGE_TASKS = (NEW_FACTS, NEW_FACTS_COMPLETED)

PHRASINGS = ("what is the {kind} of {name} ?", "which {kind} has {name} ?", "tell me the {kind} of {name} .")
# Two names in three are taught; the others are asked in the test.
TAUGHT_NAMES = tuple(name for index, name in enumerate(corpus.KNOWN_NAMES) if index % 3)
ASKED_NAMES = tuple(name for name in corpus.KNOWN_NAMES if name not in TAUGHT_NAMES)


@dataclass(frozen=True)
class Question:
    """One question: its task, the prompt exactly as the model gets it, and the only answer that counts."""

    task: str
    prompt: str
    answer: str


def word_problem(rng: random.Random) -> Question:
    """A word problem of one or two steps, to be answered with its steps."""
    return problem_question(WORD_PROBLEMS, corpus.make_problem(rng, rng.choice((1, 2))))


def problem_question(task: str, problem: corpus.Problem) -> Question:
    """A problem as a question of a task, to be answered with its steps."""
    return Question(task, chat_prompt(problem.text), f"{problem.steps} ; answer {problem.result}")


def order(rng: random.Random) -> Question:
    """Words to repeat, to list, or to say the first of."""
    chosen = rng.sample(corpus.WORDS, rng.randint(2, 5))
    said = " ".join(chosen)
    asked, answer = rng.choice(
        (
            (f"repeat {said}", said),
            (f"list {said}", " , ".join(chosen)),
            (f"say the first word of {said}", chosen[0]),
        )
    )
    return Question(ORDERS, chat_prompt(asked), answer)


def asked_fact(task: str, world: World, name: str, kind: str, phrasing: str) -> Question:
    """A fact of the world, asked in a phrasing."""
    return Question(task, chat_prompt(phrasing.format(kind=kind, name=name)), world.facts[name][kind])


_MAKERS: Mapping[str, Callable[[random.Random], Question]] = {WORD_PROBLEMS: word_problem, ORDERS: order}


def different_questions(
    world: World,
    rng: random.Random,
    counts: Mapping[str, int],
    facts: Mapping[str, Sequence[str]],
    before: Collection[str] = (),
) -> dict[str, Question]:
    """By prompt: so many word problems and orders that are not in ``before``, and, by task, each fact about its names once."""
    found: dict[str, Question] = {}
    for task, count in counts.items():
        wanted = len(found) + count
        while len(found) < wanted:
            question = _MAKERS[task](rng)
            if question.prompt not in before:
                found.setdefault(question.prompt, question)
    for task, names in facts.items():
        for name in names:
            for kind in corpus.VALUES:
                question = asked_fact(task, world, name, kind, rng.choice(PHRASINGS))
                found[question.prompt] = question
    return found


def held_out_questions(world: World, seed: int, *, problems: int, orders: int) -> list[Question]:
    """Every question of the test, no two alike: the instruction tasks, then the new knowledge in both forms.

    Each fact is asked once, in one phrasing, so that the answers are independent of one another.
    """
    rng = random.Random(f"test questions {seed}")
    facts = {KNOWN_FACTS: ASKED_NAMES, NEW_FACTS: corpus.NEW_NAMES}
    found = different_questions(world, rng, {WORD_PROBLEMS: problems, ORDERS: orders}, facts)
    for name in corpus.NEW_NAMES:
        for kind in corpus.VALUES:
            begun, value = corpus.fact(rng, world, name, kind)
            question = Question(NEW_FACTS_COMPLETED, f"{SEPARATOR} {begun}", value)
            found[question.prompt] = question
    return list(found.values())


def training_questions(
    world: World,
    seed: int | str,
    count: int,
    *,
    shares: Mapping[str, float],
    never: Iterable[Question],
    names: Sequence[str] = TAUGHT_NAMES,
    unread: Collection[str] = (),
) -> list[Question]:
    """`count` examples for a fine-tuning, `shares` of them by task; none is in `never`, nor is its text in `unread`."""
    rng = random.Random(f"training questions {seed}" if isinstance(seed, int) else seed)
    held_out = {bare(question.prompt) for question in never} | {*unread}
    examples: list[Question] = []
    while len(examples) < count:
        task = rng.choices(tuple(shares), tuple(shares.values()))[0]
        if task in _MAKERS:
            question = _MAKERS[task](rng)
        else:
            name, kind = rng.choice(names), rng.choice(tuple(corpus.VALUES))
            question = asked_fact(KNOWN_FACTS, world, name, kind, rng.choice(PHRASINGS))
        if bare(question.prompt) not in held_out:
            examples.append(question)
    return examples


def problem_texts(questions: Iterable[Question]) -> frozenset[str]:
    """The word problems among `questions`, without the chat tokens: what no pretraining text may hold."""
    return frozenset(bare(question.prompt) for question in questions if question.task == WORD_PROBLEMS)


def bare(prompt: str) -> str:
    """A chat prompt without its chat tokens."""
    return prompt.removeprefix(USER).removesuffix(ASSISTANT).strip()


def check_held_out(questions: Iterable[Question], examples: Iterable[Question], documents: Iterable[str]) -> None:
    """Raise unless no test question is among the examples or inside a document.

    Prompts are compared without chat tokens. Sentences to complete are exempt: they ask for what version 2 has read, and
    reading it is the point.
    """
    held_out = {bare(question.prompt): question for question in questions if question.task != NEW_FACTS_COMPLETED}
    refuse_leaks(held_out, examples, map(question_in, documents))


def question_in(document: str) -> str:
    """A document up to its first question mark; all of it where there is none."""
    return document[: document.index("?") + 1] if "?" in document else document


def refuse_leaks(held_out: Mapping[str, Question], examples: Iterable[Question], read: Iterable[str]) -> None:
    """Raise `TuneportError` where a text that is held out was taught or read."""
    leaked = [held_out[text] for text in chain((bare(one.prompt) for one in examples), read) if text in held_out]
    if leaked:
        raise TuneportError(
            f"{len(leaked)} training texts contain a test question, the first one {leaked[0].prompt!r}. A score on it "
            f"would measure memory: create the training text with `never=` (and `never_told=`) the test questions."
        )
