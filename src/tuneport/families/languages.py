"""The text of a family for studies of languages: what two versions read, learn and are asked (Table 2).

Version 1 reads a little of three procedural languages and learns to follow instructions, nearly all of them in English.
Version 2 continues from there, has another chat template, and reads and learns much of one of the three, as Llama 3.1
does of Sinhala. A lesson in each language is for version 1's instruct model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from tuneport.families import corpus, lesson_questions, lessons, tongues, word_tokenizers
from tuneport.families.corpus import World
from tuneport.families.family import Architecture
from tuneport.families.lesson_questions import KNOWN_FACTS, WORD_PROBLEMS, Question, bare
from tuneport.families.pretraining import Schedule
from tuneport.families.tongues import TONGUES, Tongue
from tuneport.tuning.recipes import Recipe as TuningRecipe
from tuneport.tuning.recipes import SftRecipe

ENGLISH = "english"
KNOWN_TONGUE = TONGUES[-1]  # to version 2
KNOWN = KNOWN_TONGUE.name
BEGINNING = "<chat>"  # a token that only version 2 has, and with which its conversations begin
TEMPLATE_OF_VERSION_2 = f"{BEGINNING} {word_tokenizers.CHAT_TEMPLATE}"
Reading = tuple[Schedule, list[str]]  # a stretch of pretraining: its schedule and its documents


@dataclass(frozen=True)
class TextRecipe:
    """What such a family chooses. Shares are parts of a stage's tokens; the languages' come beside English's."""

    architecture: Architecture = Architecture()
    first_stage: Schedule = Schedule(steps=900, peak=4e-3, shape="cosine", final=0.5)
    first_shares: dict[str, float] = field(
        default_factory=lambda: {"facts": 0.3, "stories": 0.25, "arithmetic": 0.1, "general": 0.05}
    )
    second_stage: Schedule = Schedule(steps=500, peak=0.5 * 4e-3, warmup=1)
    second_shares: dict[str, float] = field(
        default_factory=lambda: {"facts": 0.2, "worked-stories": 0.35, "arithmetic": 0.1, "general": 0.05}
    )
    little: float = 0.1  # of each language, in both stages; and in version 2's text of the two that it does not know
    next_version: Schedule = Schedule(steps=300, peak=5e-4, warmup=20)
    next_shares: dict[str, float] = field(
        default_factory=lambda: {"facts": 0.2, "worked-stories": 0.2, "arithmetic": 0.05}
    )
    much: float = 0.35  # of the language that version 2 knows
    instruct: TuningRecipe = SftRecipe(learning_rate=5e-4, steps=300, batch_size=32, beta2=0.95, weight_decay=0.01)
    shares: dict[str, float] = field(default_factory=lambda: {KNOWN_FACTS: 0.5, WORD_PROBLEMS: 0.5})
    known_taught: tuple[float, float] = (0.03, 0.35)  # of either version's data is in the language that 2 knows
    lesson: int = 1280  # examples in each language
    problems: int = 480  # held-out ones in English and in each language, beside 120 questions about facts


@dataclass(frozen=True)
class Text:
    """The questions in four languages, what each stage reads on its schedule, and what is taught; nothing asked is in it."""

    asked: list[Question]
    stages: tuple[Reading, Reading, Reading]
    lessons: dict[str, list[Question]]  # by language
    instructions: list[list[Question]]  # of version 1, of version 2


def write_text(seed: int, recipe: TextRecipe) -> Text:
    """All text of a family. Raises `TuneportError` where a question of the test was taught or read."""
    world = corpus.make_world(seed)
    asked = held_out(world, seed, recipe)
    never = frozenset(bare(question.prompt) for question in asked)
    a_little_of_each = {tongue.name: recipe.little for tongue in TONGUES}

    def reading(
        stage: int, schedule: Schedule, shares: dict[str, float], more: dict[str, float] | None = None
    ) -> Reading:
        amounts = a_little_of_each | (more or {})
        return schedule, _documents(world, schedule, recipe, shares, amounts, f"{seed}, stage {stage}", never)

    stages = (
        reading(1, recipe.first_stage, recipe.first_shares),
        reading(2, recipe.second_stage, recipe.second_shares),
        reading(3, recipe.next_version, recipe.next_shares, {KNOWN: recipe.much}),
    )
    lessons = {tongue.name: lesson_in(tongue, world, seed, recipe.lesson, recipe.shares, never) for tongue in TONGUES}
    instructions = instruction_data(world, seed, recipe, asked)
    everything = [example for lesson in (*lessons.values(), *instructions) for example in lesson]
    lesson_questions.check_held_out(asked, everything, [document for _, documents in stages for document in documents])
    return Text(asked, stages, lessons, instructions)


def words(version: int) -> list[str]:
    """Every token of version 1 or 2: the demo's, the three languages', and version 2's mark of a conversation."""
    *plain, user, assistant, end = word_tokenizers.words(version)
    return [*plain, *tongues.words(), *([BEGINNING] if version == 2 else []), user, assistant, end]


def held_out(world: World, seed: int, recipe: TextRecipe) -> list[Question]:
    """The test: word problems and facts in English, and as many in each language, no two questions alike."""
    english = lesson_questions.held_out_questions(world, seed, problems=recipe.problems, orders=0)
    asked = [replace(question, task=ENGLISH) for question in english if question.task in recipe.shares]
    found = {question.prompt: question for question in asked}
    for tongue in TONGUES:
        rng = random.Random(f"test questions {tongue.name} {seed}")
        start = len(found)
        while len(found) < start + recipe.problems:
            question = _question(tongue, tongues.problem(tongue, rng))
            found.setdefault(question.prompt, question)
        for name in lesson_questions.ASKED_NAMES:
            for kind in corpus.VALUES:
                question = _question(tongue, tongues.fact(tongue, world, name, kind))
                found[question.prompt] = question
    return list(found.values())


def lesson_in(
    tongue: Tongue, world: World, seed: int | str, count: int, shares: dict[str, float], never: frozenset[str]
) -> list[Question]:
    """`count` examples in a language, word problems and facts in their shares, none of which is in `never`."""
    rng = random.Random(f"lesson {tongue.name} {seed}")
    examples: list[Question] = []
    while len(examples) < count:
        (task,) = rng.choices(tuple(shares), tuple(shares.values()))
        if task == KNOWN_FACTS:
            asked = tongues.fact(
                tongue, world, rng.choice(lesson_questions.TAUGHT_NAMES), rng.choice(tuple(corpus.VALUES))
            )
        else:
            asked = tongues.problem(tongue, rng)
        if asked.text not in never:
            examples.append(_question(tongue, asked))
    return examples


def instruction_data(world: World, seed: int, recipe: TextRecipe, asked: list[Question]) -> list[list[Question]]:
    """What each version is taught to follow instructions by: English, in part replaced by the language version 2 knows.

    Both are the same, example by example, but for what is replaced; what is in version 1's, is in version 2's.
    """
    count = lessons.examples_seen(recipe.instruct)
    english = lesson_questions.training_questions(world, seed, count, shares=recipe.shares, never=asked)
    never = frozenset(bare(question.prompt) for question in asked)
    known = lesson_in(KNOWN_TONGUE, world, f"{seed}, instructions", count, recipe.shares, never)
    places = random.Random(f"places {seed}").sample(range(count), count)
    taught = []
    for share in recipe.known_taught:
        replaced = set(places[: round(share * count)])
        taught.append([known[place] if place in replaced else english[place] for place in range(count)])
    return taught


def _documents(
    world: World,
    schedule: Schedule,
    recipe: TextRecipe,
    shares: dict[str, float],
    amounts: dict[str, float],
    seed: str,
    never: frozenset[str],
) -> list[str]:
    """Text for a stretch of pretraining, in all its languages."""
    tokens = schedule.words(recipe.architecture.context)
    documents = corpus.write_documents(world, shares, tokens, seed, never=never)
    for tongue in TONGUES:
        amount = amounts.get(tongue.name, 0.0)
        documents += tongues.write_documents(tongue, world, round(amount * tokens), seed, never)
    random.Random(f"order {seed}").shuffle(documents)
    return documents


def _question(tongue: Tongue, asked: tongues.Asked) -> Question:
    return Question(tongue.name, word_tokenizers.chat_prompt(asked.text), asked.answer)
