"""A family of five versions for studies: one pretraining in two stages, saved at six moments (section 4.1 at small scale).

M1, M2 and M3 are at one third, two thirds and the end of stage 1, M4 and M5 at half and the end of stage 2, like the
paper's checkpoints of OLMo 2 7B. M0 is the same run after a handful of steps, near chance: a control that must gain
nothing. The files for a study are beside the models: what to teach, what to ask, and what to measure loss on.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tuneport.families import corpus, family, lessons, pretraining, word_tokenizers
from tuneport.families.family import Architecture
from tuneport.families.lesson_questions import KNOWN_FACTS, ORDERS, WORD_PROBLEMS
from tuneport.families.pretraining import Schedule
from tuneport.families.syllabus import Amounts, Syllabus, without_steps, write_syllabus
from tuneport.files.writing import whole, write_lines, write_once

FORMAT = "tuneport-family-1"
MODELS = ("M0", "M1", "M2", "M3", "M4", "M5")
FILES = (
    "instructions.jsonl", "mixed-instructions.jsonl", "preferences.jsonl", "prompts.jsonl",
    "questions.jsonl", "validation.jsonl", "few-shot.jsonl", "unseen.jsonl", "held-out-text.jsonl", "chat.jinja",
)  # fmt: skip
STATE = "state.pt"  # of a run that is under way: weights and optimizer at the last version kept


@dataclass(frozen=True)
class VersionsRecipe:
    """Everything a family chooses but the seed.

    The rate falls in stage 1 and reaches zero at the end of stage 2; without that, transfer fails.
    """

    architecture: Architecture = Architecture()
    untrained: int = 5  # steps of M0
    first_stage: Schedule = Schedule(steps=900, peak=4e-3, shape="cosine", final=0.19)
    second_stage: Schedule = Schedule(steps=400, peak=0.5 * 4e-3, warmup=20)
    amounts: Amounts = field(
        default_factory=lambda: Amounts(
            first_shares={"facts": 0.3, "echoes": 0.25, "general": 0.1, "stories": 0.2, "arithmetic": 0.15},
            second_shares={
                "worked-stories": 0.4, "arithmetic": 0.15, "facts": 0.2, "echoes": 0.15, "stories": 0.05, "general": 0.05,
            },
            taught_shares={WORD_PROBLEMS: 0.5, KNOWN_FACTS: 0.25, ORDERS: 0.25},
            taught=8_000,
            preferred=1_280,
            rewarded=960,
            tested=300,
            validated=100,
            completed=200,
            unseen=100,
            texts=200,
            text_words=56,
        )
    )  # fmt: skip


SMALL = VersionsRecipe()
LARGE = replace(
    SMALL,
    architecture=Architecture(hidden=128, layers=3, feedforward=256),
    second_stage=replace(SMALL.second_stage, steps=300),
)
SIZES: Mapping[str, VersionsRecipe] = {"small": SMALL, "large": LARGE}


def make_family(out: str | Path, seed: int = 0, recipe: VersionsRecipe = SMALL) -> Path:
    """Pretrain a family at `out`: the models M0 to M5, and the files that `write_files` lists.

    A stopped run resumes from the last version it saved, and ends with the same bytes; a finished folder is left
    unchanged. Raises `TuneportError`.
    """
    with family.family_folder(Path(out), FORMAT, seed, recipe) as place:
        if place is not None:
            folder, told = place
            schedules = (recipe.first_stage, recipe.second_stage)
            text = write_syllabus(seed, schedules, recipe.architecture.context, recipe.amounts)
            write_files(folder, text)
            pretrain_run(folder, recipe, text, seed, words())
            told["text"] = text.digest()
            told["examples"] = {name: len(getattr(text, name)) for name in ("taught", "test", "few_shot", "unseen")}
    return Path(out)


def write_files(folder: Path, text: Syllabus) -> None:
    """The family's files: to teach (messages, preferences, prompts), to ask, to measure, and the chat template."""
    write_lines(folder / "instructions.jsonl", map(lessons.as_conversation, text.taught))
    write_lines(folder / "mixed-instructions.jsonl", map(lessons.as_conversation, text.mixed))
    hasty = (lessons.as_preference(question, without_steps(question).answer) for question in text.preferred)
    write_lines(folder / "preferences.jsonl", hasty)
    write_lines(folder / "prompts.jsonl", map(lessons.as_prompt, text.rewarded))
    write_lines(folder / "questions.jsonl", map(asdict, text.test))
    write_lines(folder / "validation.jsonl", map(asdict, text.validation))
    write_lines(folder / "few-shot.jsonl", map(asdict, text.few_shot))
    write_lines(folder / "unseen.jsonl", map(asdict, text.unseen))
    write_lines(folder / "held-out-text.jsonl", ({"text": row} for row in text.held_out_text))
    write_once(folder / "chat.jinja", word_tokenizers.CHAT_TEMPLATE)


def words() -> list[str]:
    """Every token of the family: all versions know all names; the chat tokens are at the end."""
    *plain, user, assistant, end = word_tokenizers.words(version=2)
    return [*dict.fromkeys([*plain, *corpus.NAMES]), user, assistant, end]


def pretrain_run(
    folder: Path, recipe: VersionsRecipe, text: Syllabus, seed: int, vocabulary: Sequence[str], prefix: str = ""
) -> None:
    """Both stages, each version kept on the way as `prefix` and its name; from where an earlier run stopped, if one did."""
    import torch

    tokenizer = word_tokenizers.tokenizer_of(vocabulary)
    torch.manual_seed(seed)
    model = family.new_model(recipe.architecture, tokenizer)
    state = _state(folder)
    if state is not None:
        model.load_state_dict(state["model"])
    begun, done = (0, 0) if state is None else (state["stage"], state["done"])
    first, second = recipe.first_stage.steps, recipe.second_stage.steps
    moments = (
        {recipe.untrained: "M0", first // 3: "M1", 2 * first // 3: "M2", first: "M3"},
        {second // 2: "M4", second: "M5"},
    )

    def keep(name: str, stage: int, step: int, optimizer: Any) -> None:
        place = folder / f"{prefix}{name}"
        shutil.rmtree(place, ignore_errors=True)  # of a run that was stopped before it wrote its state
        family.save(copy.deepcopy(model), tokenizer, place)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "stage": stage, "done": step}
        with whole(folder / STATE) as file:
            torch.save(state, file)

    for stage, schedule in enumerate((recipe.first_stage, recipe.second_stage)):
        if stage < begun or (stage == begun and done == schedule.steps):
            continue
        going_on = state is not None and stage == begun
        pretraining.pretrain(
            model,
            family.pack(text.stages[stage], tokenizer, recipe.architecture),
            schedule,
            after={step: partial(keep, name, stage, step) for step, name in moments[stage].items()},
            done=done if going_on else 0,
            optimizer_state=state["optimizer"] if going_on and state is not None else None,
        )
    (folder / STATE).unlink()


def _state(folder: Path) -> dict[str, Any] | None:
    import torch

    if not (folder / STATE).exists():
        return None
    found: dict[str, Any] = torch.load(folder / STATE, weights_only=True)
    return found
