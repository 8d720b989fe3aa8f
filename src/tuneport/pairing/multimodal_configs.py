"""View a language model's config as that of a multimodal model around it, and the reverse.

So three configs of one kind can be merged field by field: what the fine-tuning of a text class changed is found where
the multimodal config has it. What a view cannot know (vision, the other class's name) is taken from the other config,
so it is never a difference.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tuneport.pairing.model_kinds import name_of_text
from tuneport.sidecars.config_kinds import entry_of, kind_of
from tuneport.sidecars.token_ids import is_token_field

Config = Mapping[str, Any]

# What says of a file which class it is for, or who wrote it: never a part of a language model.
_OF_THE_CLASS = frozenset(
    {"model_type", "architectures", "auto_map", "transformers_version", "_name_or_path", "dtype", "torch_dtype"}
)


def seen_as_whole(text: Config, whole: Config) -> dict[str, Any]:
    """The config of a language model in the words of ``whole``, the config of a multimodal model of its kind."""
    view = copy.deepcopy(dict(whole))
    own = _with_defaults(text)
    text_config = name_of_text(whole)
    if text_config is None:
        return view | own
    inner = whole[text_config]
    kept = {name: inner[name] for name in _OF_THE_CLASS & inner.keys()}
    view[text_config] = own | kept
    # What the multimodal config says once more on top (end tokens, tying), it takes from the same place.
    view |= {name: own[name] for name in own.keys() & whole.keys() if name != text_config}
    return view


def seen_as_text(whole: Config, text: Config) -> dict[str, Any]:
    """The config of a multimodal model's language model in the words of ``text``, a config of its text class."""
    name = name_of_text(whole)
    found = dict(whole[name]) if name is not None else {n: v for n, v in whole.items() if not n.endswith("_config")}
    on_top = {n: v for n, v in whole.items() if n not in found and (is_token_field(n) or n == "tie_word_embeddings")}
    known = {name: value for name, value in on_top.items() if name in text}
    return {**found, **known, **{name: text[name] for name in _OF_THE_CLASS & text.keys()}}


def _with_defaults(text: Config) -> dict[str, Any]:
    """A config's fields, with those that its own kind's defaults fill in: another kind may have other ones."""
    stated = entry_of(kind_of(text)).get("defaults", {})
    defaults = {name: value for name, value in stated.items() if value is not None}  # null: what the class computes
    return {name: value for name, value in {**defaults, **text}.items() if name not in _OF_THE_CLASS}
