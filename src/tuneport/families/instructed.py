"""A family for studies of languages: two versions that follow instructions, and lessons and questions in each language.

`languages.py` writes all text. The study itself fine-tunes version 1 on a language and transfers the result. The files
are beside the models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from tuneport.families import family, languages, lessons
from tuneport.families.family import Architecture
from tuneport.families.languages import ENGLISH, TEMPLATE_OF_VERSION_2, Text, TextRecipe
from tuneport.families.tongues import TONGUES
from tuneport.files.writing import write_lines
from tuneport.tuning.recipes import TuningRun

FORMAT = "tuneport-instructed-1"
MODELS = ("v1-instruct", "v2-instruct")
NAMES = tuple(tongue.name for tongue in TONGUES)
FILES = (*(f"{name}.jsonl" for name in NAMES), *(f"{name}-questions.jsonl" for name in (ENGLISH, *NAMES)))
SIZES: Mapping[str, TextRecipe] = {
    "small": TextRecipe(),
    "large": replace(TextRecipe(), architecture=Architecture(hidden=128, layers=3, feedforward=256)),
}


def make_instructed(out: str | Path, seed: int = 0, recipe: TextRecipe = SIZES["small"]) -> Path:
    """Make both instruct models and all files at `out`; a stopped run resumes with the models it has. Raises
    `TuneportError`.
    """
    with family.family_folder(Path(out), FORMAT, seed, recipe) as place:
        if place is None:
            return Path(out)
        folder, told = place
        text = languages.write_text(seed, recipe)
        for name, lesson in text.lessons.items():
            write_lines(folder / f"{name}.jsonl", map(lessons.as_conversation, lesson))
        for name in (ENGLISH, *NAMES):
            asked = (question for question in text.asked if question.task == name)
            write_lines(folder / f"{name}-questions.jsonl", map(lessons.as_message, asked))

        # Both versions, and each one's instruct model.
        first, second, following = text.stages
        v1, v2 = folder / "v1", folder / "v2"
        size_of = recipe.architecture
        if not v1.exists():
            family.pretrain_version(v1, size_of, (first, second), seed, languages.words(1))
        if not v2.exists():
            family.pretrain_version(v2, size_of, (following,), seed + 1, languages.words(2), v1)
        lessons.write_lesson(folder / "lesson-v1", text.instructions[0])
        lessons.write_lesson(folder / "lesson-v2", text.instructions[1], template=TEMPLATE_OF_VERSION_2)
        for version, base in (("v1", v1), ("v2", v2)):
            made = folder / f"{version}-instruct"
            if not made.exists():
                lessons.fine_tune(made, base, folder / f"lesson-{version}", recipe.instruct, seed, TuningRun())
        told["text"] = _digest(text)
        told["examples"] = {name: len(lesson) for name, lesson in text.lessons.items()} | {"test": len(text.asked)}
    return Path(out)


def _digest(text: Text) -> str:
    rows = [documents for _, documents in text.stages]
    for some in (text.asked, *text.lessons.values(), *text.instructions):
        rows += [[question.task, question.prompt, question.answer] for question in some]
    return blake3(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
