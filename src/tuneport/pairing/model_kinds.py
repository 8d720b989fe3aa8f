"""Which kinds of models belong together: versions of one kind, and a text class with the multimodal models around it.

In come configs, out comes whether a difference between two such models can mean anything. transformers has one model under
several types: a language model of its own (`llama`, `qwen3_5_text`), and the language model inside a multimodal one (`llava`
with a `text_config`, `qwen3_5`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import PairingError
from tuneport.pairing.spelling_rules import data
from tuneport.sidecars.config_kinds import kind_of

Config = Mapping[str, Any]


def is_text_of(text: Config, whole: Config) -> bool:
    """Whether ``text`` is the config of a language model that stands inside models of ``whole``'s kind."""
    kind = kind_of(text)
    return kind is not None and kind != kind_of(whole) and kind in _texts(whole)


def belong_together(one: Config, other: Config) -> bool:
    """Whether two configs are of one kind, or one is the text class of the other's; a config without a type is of any."""
    kinds = kind_of(one), kind_of(other)
    if None in kinds or kinds[0] == kinds[1]:
        return True
    return is_text_of(one, other) or is_text_of(other, one)


def check_architectures(*checkpoints: Checkpoint) -> None:
    """One message when the models are of different kinds, instead of hundreds of names. Raises `PairingError`."""
    last = checkpoints[-1]
    if all(belong_together(checkpoint.config, other.config) for checkpoint in checkpoints for other in checkpoints):
        return
    told = "; ".join(
        f"{c.role} {c.label} is {in_words(c)} with {len(c.tensors)} tensors and {c.parameters:,} parameters"
        for c in checkpoints
    )
    texts = _texts(last.config)
    inside = f" (a model of the kind {' or '.join(sorted(texts))} is inside {last.role} {last.label})" if texts else ""
    raise PairingError(
        f"These are different architectures: {told}. A diff vector can only be added to another version of the "
        f"same architecture{inside}."
    )


def in_words(checkpoint: Checkpoint) -> str:
    """A checkpoint's model type, and its class where the config names it."""
    kind = checkpoint.config.get("model_type")
    architectures = checkpoint.config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    return f"`{kind}` ({name})" if name else f"`{kind}`" if kind else "of unknown type"


def _texts(whole: Config) -> set[str]:
    """Model types of the language model inside a multimodal one: its own, and the one with the same tensors."""
    inner = whole.get("text_config")
    kind = kind_of(inner) if isinstance(inner, Mapping) else None
    if kind is None:
        kind = data()["texts"].get(kind_of(whole))
    if kind is None:
        return set()
    return {kind, data()["twins"].get(kind, kind)}
