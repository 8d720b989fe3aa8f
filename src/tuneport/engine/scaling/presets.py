"""Published recipes by name: which options each stands for.

A preset is nothing but rules and choices of files that a user could write. They come before the user's own, so that these
win. docs/scales.md says where a recipe and its authors' script differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tuneport.errors import FLAGS
from tuneport.pairing.name_rules import ScaleRule
from tuneport.pairing.row_rules import ALL, TEMPLATE, RowRule

PresetName = Literal["chat-vector", "instruct-residual", "shadow"]


@dataclass(frozen=True)
class Preset:
    """A recipe: what it does, who published it, and the options that it stands for."""

    what: str
    source: str
    rules: tuple[ScaleRule, ...] = ()
    row_rules: tuple[RowRule, ...] = ()
    sidecar: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """The options, as the command line writes them."""
        settings = [("rules", f"{rule.pattern}={rule.shown}") for rule in self.rules]
        settings += [("row_rules", rule.shown) for rule in self.row_rules]
        settings += [("sidecar", f"{name}={side}") for name, side in self.sidecar.items()]
        return " ".join(FLAGS.setting(*setting) for setting in settings or [("scale", "1")])


# The matrices that Shadow-FT's script grafts; everything else stays the instruct model's.
_PROJECTIONS = "[qkvo]_proj|(up|gate|down)_proj"

PRESETS: Mapping[str, Preset] = {
    "chat-vector": Preset(
        "embeddings and head stay the target's, but for the tokens of the chat template",
        "Huang et al. 2024, arXiv 2310.04799",
        row_rules=(RowRule((ALL,), 0.0), RowRule((TEMPLATE,), None)),
    ),
    "instruct-residual": Preset(
        "new base + (old instruct − old base), every tensor",
        "Jindal et al. 2024, arXiv 2410.10739",
    ),
    "shadow": Preset(
        "instruct + (tuned base − base) in attention's and MLP's projections, with the instruct model's files",
        "Wu et al. 2025, arXiv 2505.12716",
        rules=(ScaleRule("^", 0.0), ScaleRule(_PROJECTIONS, None)),
        sidecar=dict.fromkeys(
            ("chat_template", "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
            "target",
        ),
    ),
}  # fmt: skip
assert set(PRESETS) == set(get_args(PresetName))


def in_words(name: str) -> str:
    """What a preset stands for, in one line."""
    preset = PRESETS[name]
    return f"{FLAGS.setting('preset', name)} stands for {preset.flags} ({preset.source}): {preset.what}"


def choices_of_files(name: str | None, chosen: Mapping[str, str], present: Collection[str]) -> Mapping[str, str]:
    """The choices of files without those of a preset for files that no model has, which would have no effect."""
    own = PRESETS[name].sidecar if name is not None else {}
    return {
        file: side
        for file, side in chosen.items()
        if file in present or file == "chat_template" or own.get(file) != side
    }
