"""What the lab makes for studies: the recipe of each `lab:NAME`, its place in the family's folder, and how to make it.

Nothing heavy is imported before a family is made. A new kind of family is one more entry in `RECIPES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tuneport.errors import UsageError
from tuneport.families import instructed, kin, versions
from tuneport.families.family import RECORD
from tuneport.files.opening import read_text

PREFIX = "lab:"


@dataclass(frozen=True)
class FamilyRecipe:
    """A kind of family: its models and files, its sizes with the choices each stands for, and what makes it."""

    name: str
    models: tuple[str, ...]
    files: tuple[str, ...]
    sizes: Mapping[str, Any]  # frozen dataclasses of choices
    make: Callable[[Path, int, Any], Path]  # folder, seed, the choices of a size


RECIPES: Mapping[str, FamilyRecipe] = {
    "versions": FamilyRecipe("versions", versions.MODELS, versions.FILES, versions.SIZES, versions.make_family),
    "languages": FamilyRecipe(
        "languages", instructed.MODELS, instructed.FILES, instructed.SIZES, instructed.make_instructed
    ),
    "kin": FamilyRecipe("kin", kin.MODELS, kin.FILES, kin.SIZES, kin.make_kin),
}


def find(spec: str) -> tuple[str, str]:
    """The recipe and the place in its folder of ``lab:NAME``; the ending ``.jsonl`` may be left out.

    Raises `UsageError` with the possible names.

        find("lab:M4") == ("versions", "M4")
        find("lab:questions") == ("versions", "questions.jsonl")
    """
    name = spec.removeprefix(PREFIX)
    known = {short: found for recipe in RECIPES.values() for short, found in _places(recipe).items()}
    if name not in known:
        near = get_close_matches(name, known, 3, cutoff=0.5)
        if near:
            meant = " or ".join(PREFIX + short for short in near)
            raise UsageError(f"The lab makes no {name!r}. Did you mean {meant}?")
        raise UsageError(f"The lab makes no {name!r}. It makes {', '.join(PREFIX + short for short in sorted(known))}.")
    return known[name]


def choices(recipe: str, size: str, seed: int) -> dict[str, Any]:
    """Everything that decides what a family holds, as JSON: what identifies the step that makes it."""
    if recipe not in RECIPES:
        raise UsageError(f"The lab has no recipe {recipe!r}: choose {', '.join(RECIPES)}.")
    sizes = RECIPES[recipe].sizes
    if size not in sizes:
        raise UsageError(f"The lab makes no family of size {size!r}: choose {' or '.join(sizes)}.")
    literal = json.loads(json.dumps(asdict(sizes[size])))
    return {"recipe": recipe, "size": size, "seed": seed, "literal": literal}


def make(chosen: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Make the family of these choices at `out`; returns what its record says about the text."""
    wanted = choices(chosen["recipe"], chosen["size"], chosen["seed"])
    if chosen.get("literal", wanted["literal"]) != wanted["literal"]:
        raise UsageError(
            f"The lab's recipe {chosen['recipe']!r} has changed since this study was planned. Run it from its file again."
        )
    recipe = RECIPES[chosen["recipe"]]
    recipe.make(out, chosen["seed"], recipe.sizes[chosen["size"]])
    record = json.loads(read_text(out / RECORD))
    return {name: record[name] for name in ("text", "examples")}


def _places(recipe: FamilyRecipe) -> dict[str, tuple[str, str]]:
    names = {name: name for name in (*recipe.models, *recipe.files)}
    names |= {name.removesuffix(".jsonl"): name for name in recipe.files}
    return {short: (recipe.name, place) for short, place in names.items()}
