"""A family with relatives, for studies of what a verdict can foresee: one run's checkpoints, and what others make of its end.

kin-M1 to kin-M5 are checkpoints of one run, as M1 to M5 are (`versions.py`). From the last one go on: other text at a high rate
(`domain`), a language of its own (`language`), more of the same text at a low rate (`more`), a vocabulary with another
language's words in it (`longer`), and an instruct model (`instruct`). `foreign` read the same text from another random start.
So distance is one thing and the number of tokens between two versions another. Beside the models lie their files.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tuneport.families import corpus, family, lesson_questions, lessons, tongues, versions, word_tokenizers
from tuneport.families.corpus import World
from tuneport.families.lesson_questions import KNOWN_FACTS, ORDERS
from tuneport.families.pretraining import Schedule
from tuneport.families.syllabus import TAUGHT_NAMES, Syllabus, in_rows, write_syllabus
from tuneport.families.tongues import TONGUES, Tongue
from tuneport.families.versions import VersionsRecipe
from tuneport.files.writing import write_lines, write_once
from tuneport.tuning.recipes import Recipe as TuningRecipe
from tuneport.tuning.recipes import SftRecipe, TuningRun

FORMAT = "tuneport-kin-1"
PREFIX = "kin-"
INSTRUCT, FOREIGN = "instruct", "foreign"
# The language of a branch whose vocabulary has its words from the beginning, and of one that gets them.
READ_TONGUE, ADDED_TONGUE = TONGUES[0], TONGUES[1]
_BRANCHES = ("domain", "language", "more", "longer")
MODELS = tuple(f"{PREFIX}{name}" for name in (*versions.MODELS, *_BRANCHES, INSTRUCT, FOREIGN))
FILES = tuple(
    f"{PREFIX}{name}"
    for name in (
        "instructions.jsonl",
        "questions.jsonl",
        "text.jsonl",
        *(f"{branch}-text.jsonl" for branch in _BRANCHES if branch != "more"),
        "chat.jinja",
    )
)
_FOREIGN_SEED = 1_000_000  # added to a family's: another random start, the same world


@dataclass(frozen=True)
class Branch:
    """How a version goes on: for how long, on which text of the lab's, and how much of it is in another language."""

    schedule: Schedule
    shares: Mapping[str, float]
    foreign_words: float = 0.0


def _second_stage() -> dict[str, float]:
    return dict(versions.SMALL.amounts.second_shares)


@dataclass(frozen=True)
class KinRecipe:
    """Everything such a family chooses but the seed. The run is that of `versions.SMALL`, with fewer questions."""

    run: VersionsRecipe = replace(
        versions.SMALL,
        amounts=replace(
            versions.SMALL.amounts, taught=6_400, preferred=1, rewarded=1, tested=150, completed=1, unseen=1, texts=100
        ),
    )
    domain: Branch = Branch(
        Schedule(steps=200, peak=2e-3, warmup=20), {"new-facts": 0.3, "general": 0.5, "echoes": 0.2}
    )
    language: Branch = field(
        default_factory=lambda: Branch(Schedule(steps=200, peak=1e-3, warmup=20), _second_stage(), 0.5)
    )
    more: Branch = field(default_factory=lambda: Branch(Schedule(steps=250, peak=2e-4, warmup=20), _second_stage()))
    longer: Branch = field(
        default_factory=lambda: Branch(Schedule(steps=200, peak=5e-4, warmup=20), _second_stage(), 0.3)
    )
    foreign: Schedule = Schedule(steps=400, peak=4e-3)
    instruct: TuningRecipe = SftRecipe(learning_rate=1e-3, steps=150, batch_size=32, beta2=0.95, weight_decay=0.01)
    instruct_shares: dict[str, float] = field(default_factory=lambda: {KNOWN_FACTS: 0.5, ORDERS: 0.5})


SMALL = KinRecipe()
LARGE = replace(
    SMALL,
    run=replace(SMALL.run, architecture=versions.LARGE.architecture, second_stage=versions.LARGE.second_stage),
)
SIZES: Mapping[str, KinRecipe] = {"small": SMALL, "large": LARGE}


def make_kin(out: str | Path, seed: int = 0, recipe: KinRecipe = SIZES["small"]) -> Path:
    """Make all models and files at `out`; a stopped run resumes with what it has. Raises `TuneportError`."""
    with family.family_folder(Path(out), FORMAT, seed, recipe) as place:
        if place is None:
            return Path(out)
        folder, told = place
        run, context = recipe.run, recipe.run.architecture.context
        text = write_syllabus(seed, (run.first_stage, run.second_stage), context, run.amounts)
        write_files(folder, text, recipe, seed)
        last = folder / f"{PREFIX}M5"
        if not last.exists() or (folder / versions.STATE).exists():
            versions.pretrain_run(folder, run, text, seed, words(), PREFIX)
        for number, name in enumerate(_BRANCHES, 1):
            branch, made = _branch(recipe, name), folder / f"{PREFIX}{name}"
            if not made.exists():
                read = documents(text, name, branch, f"{seed}, {name}", branch.schedule.words(context))
                known = words(longer=name == "longer")
                once = ((branch.schedule, read),)
                family.pretrain_version(made, run.architecture, once, seed + number, known, last)
        foreign, instruct = folder / f"{PREFIX}{FOREIGN}", folder / f"{PREFIX}{INSTRUCT}"
        if not foreign.exists():
            family.pretrain_version(
                foreign, run.architecture, ((recipe.foreign, text.stages[1]),), seed + _FOREIGN_SEED, words()
            )
        if not instruct.exists():
            lesson = folder / "instruct-lesson"
            lessons.write_lesson(lesson, _instruct_lesson(text, recipe, seed))
            lessons.fine_tune(instruct, last, lesson, recipe.instruct, seed, TuningRun())
        told["text"] = text.digest()
        told["examples"] = {name: len(getattr(text, name)) for name in ("taught", "test")}
    return Path(out)


def words(*, longer: bool = False) -> list[str]:
    """Every token of the run, or of the branch whose vocabulary is longer; the words it adds stand before the chat tokens."""
    *plain, user, assistant, end = versions.words()
    spoken = [READ_TONGUE, *([ADDED_TONGUE] if longer else [])]
    return [*plain, *(word for tongue in spoken for word in tongues.words_of(tongue)), user, assistant, end]


def write_files(folder: Path, text: Syllabus, recipe: KinRecipe, seed: int) -> None:
    """To teach, to ask, and texts on whose loss is seen what a version keeps: the run's, and each branch's own."""
    amounts = recipe.run.amounts
    write_lines(folder / f"{PREFIX}instructions.jsonl", map(lessons.as_conversation, text.taught))
    write_lines(folder / f"{PREFIX}questions.jsonl", map(asdict, text.test))
    kept = {"": text.held_out_text}
    for name in _BRANCHES:
        if name != "more":  # it reads what the run reads
            unread = documents(
                text, name, _branch(recipe, name), f"{seed}, {name}, held out", amounts.texts * amounts.text_words
            )
            kept[f"{name}-"] = tuple(in_rows(unread, amounts.text_words, amounts.texts))
    for name, rows in kept.items():
        task = f"{name or 'run-'}text"
        write_lines(folder / f"{PREFIX}{name}text.jsonl", ({"task": task, "text": row} for row in rows))
    write_once(folder / f"{PREFIX}chat.jinja", word_tokenizers.CHAT_TEMPLATE)


def documents(text: Syllabus, name: str, branch: Branch, drawn: str, tokens: int) -> list[str]:
    """About so many tokens of what a branch reads; no question that is asked is in them."""
    never = lesson_questions.problem_texts((*text.test, *text.validation))
    plain = round((1 - branch.foreign_words) * tokens)
    found = corpus.write_documents(
        text.world, branch.shares, plain, drawn, never=never, never_told=never, names=corpus.NAMES
    )
    tongue = {"language": READ_TONGUE, "longer": ADDED_TONGUE}.get(name)
    if tongue is not None:
        found += _in_tongue(tongue, text.world, tokens - plain, drawn)
        random.Random(f"order {drawn}").shuffle(found)
    lesson_questions.check_held_out(text.test, (), found)
    return found


def _in_tongue(tongue: Tongue, world: World, tokens: int, drawn: str) -> list[str]:
    return tongues.write_documents(tongue, world, tokens, drawn, never=frozenset())


def _instruct_lesson(text: Syllabus, recipe: KinRecipe, seed: int) -> Sequence[lesson_questions.Question]:
    """What the instruct model is taught: to follow orders and answer questions, and no word problems."""
    return lesson_questions.training_questions(
        text.world,
        f"taught instruct {seed}",
        lessons.examples_seen(recipe.instruct),
        shares=recipe.instruct_shares,
        never=text.test,
        names=TAUGHT_NAMES,
    )


def _branch(recipe: KinRecipe, name: str) -> Branch:
    found: Branch = getattr(recipe, name)
    return found
