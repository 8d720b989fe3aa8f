"""Which kinds of models belong together: versions of one kind, and a text class with the multimodal models around it.

Decides from configs whether a difference between two such models can have a meaning. transformers has one model under
several types: a language model (`llama`, `qwen3_5_text`), and the language model inside a multimodal one (`llava` with
a `text_config`, `qwen3_5`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import PairingError, named
from tuneport.files.printable import printable_line, quoted
from tuneport.pairing.name_rules import Rename
from tuneport.pairing.spelling_advice import suggested
from tuneport.pairing.spelling_rules import data
from tuneport.sidecars.config import TEXT_CONFIGS
from tuneport.sidecars.config_kinds import entry_of, kind_of

Config = Mapping[str, Any]

MOST_MUST_PAIR = 0.9


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


def is_of_custom_code(config: Config) -> bool:
    """Whether a config is of a kind that transformers does not have."""
    kind = kind_of(config)
    return kind is not None and not entry_of(kind)


def check_architectures(*checkpoints: Checkpoint, renames: Sequence[Rename] | None = None) -> None:
    """One message when the models are of different kinds, instead of hundreds of names. Raises `PairingError`.

    ``renames`` may say where the language model of the others is inside the last one (`is_placed`); None where the
    caller takes none.
    """
    last = checkpoints[-1]
    if is_placed(checkpoints[:-1], last, renames or ()):
        return
    if all(belong_together(checkpoint.config, other.config) for checkpoint in checkpoints for other in checkpoints):
        return
    told = "; ".join(
        f"{c.role} {c.label} is {in_words(c)} with {len(c.tensors)} tensors and {c.parameters:,} parameters"
        for c in checkpoints
    )
    texts = _texts(last.config)
    inside = f" (a model of the kind {' or '.join(sorted(texts))} is inside {last.role} {last.label})" if texts else ""
    way = "" if renames is None else _way_inside(checkpoints[0], last)
    raise PairingError(
        f"These are different architectures: {told}. A diff vector can only be added to another version of the "
        f"same architecture{inside}.{way}"
    )


def is_placed(parents: Sequence[Checkpoint], whole: Checkpoint, renames: Sequence[Rename]) -> bool:
    """Whether ``--rename`` puts a language model's tensors into a model of custom code, whose config does not say what is inside.

    The parents are of one kind, and nearly all of their tensors have then a partner of their shape; rows may differ.
    """
    models = [parent for parent in parents if parent.adapter is None]
    kinds = {kind_of(parent.config) for parent in models}
    if not renames or len(kinds) != 1 or kind_of(whole.config) in kinds or not is_of_custom_code(whole.config):
        return False
    return all(_share(parent, whole, renames) >= MOST_MUST_PAIR for parent in models)


def _share(parent: Checkpoint, whole: Checkpoint, renames: Sequence[Rename]) -> float:
    """Which part of a model's parameters has a partner in another one after renaming."""
    total = paired = 0
    for name, tensor in parent.tensors.items():
        for rename in renames:
            name = rename(name)
        partner = whole.tensors.get(name)
        total += tensor.elements
        paired += tensor.elements if partner is not None and partner.shape[1:] == tensor.shape[1:] else 0
    return paired / max(total, 1)


def _way_inside(text: Checkpoint, whole: Checkpoint) -> str:
    """The renames that put a language model into a model of custom code, in words; empty where none are found."""
    if not is_of_custom_code(whole.config) or text.adapter is not None:
        return ""
    renames = suggested(*({name: tensor.shape for name, tensor in each.tensors.items()} for each in (text, whole))) or [
        Rename("^", "")
    ]
    if _share(text, whole, renames) < MOST_MUST_PAIR:
        return ""
    flags = " ".join(named("renames", f"{each.pattern}={each.replacement}") for each in renames)
    return (
        f" transformers does not know the model type {quoted(kind_of(whole.config))}. If {whole.role} {whole.label} "
        f"is a multimodal model around a {printable_line(str(kind_of(text.config)))}, add {flags}: the difference is "
        "then added to the language model only; all else stays unchanged."
    )


def in_words(checkpoint: Checkpoint) -> str:
    """A checkpoint's model type, and its class where the config names it."""
    kind = checkpoint.config.get("model_type")
    architectures = checkpoint.config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    return f"{quoted(kind)} ({printable_line(str(name))})" if name else quoted(kind) if kind else "of unknown type"


def _texts(whole: Config) -> set[str]:
    """Model types of the language model inside a multimodal one: its own, and the one with the same tensors."""
    name = name_of_text(whole)
    kind = kind_of(whole[name]) if name is not None else None
    if kind is None:
        kind = data()["texts"].get(kind_of(whole))
    if kind is None:
        return set()
    return {kind, data()["twins"].get(kind, kind)}


def name_of_text(whole: Config) -> str | None:
    """The name of a language model's config inside that of a multimodal one; None where it has none."""
    names = TEXT_CONFIGS if is_of_custom_code(whole) else TEXT_CONFIGS[:1]
    return next((name for name in names if isinstance(whole.get(name), Mapping)), None)
