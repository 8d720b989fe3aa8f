"""What a model was made from, according to the files beside its weights: ``base_model`` of the card, ``_name_or_path`` of
config.json.

People wrote these names: Hub ids, paths on another machine, the model's own name. They prove nothing, but if the files
of one given model name another, that can show that roles are swapped.
"""

from __future__ import annotations

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.comparison.model_roles import Doubt
from tuneport.errors import named
from tuneport.output.model_card import is_hub_id
from tuneport.output.parent_cards import named_in_card


def named_doubts(base: Checkpoint, tuned: Checkpoint, target: Checkpoint | None) -> tuple[Doubt, ...]:
    """Doubts from the names in cards and configs. Those of an adapter are reported where it is applied to its base."""
    if tuned.adapter is not None:
        return ()
    if _made_from(base, tuned) and not _made_from(tuned, base):
        doubt = Doubt(
            "base-names-tuned",
            f"base and tuned look swapped: the files of the base ({base.label}) say that it was made from {tuned.label}, "
            f"which is given as {named('tuned')}.",
        )
    elif target is not None and _made_from(tuned, target) and not _made_from(tuned, base):
        doubt = Doubt(
            "tuned-names-target",
            f"base and target look swapped: the files of the tuned model ({tuned.label}) say that it was made from "
            f"{target.label}, which is given as {named('onto')}, and do not name {base.label}.",
        )
    elif target is not None and _made_from(target, tuned):
        doubt = Doubt(
            "target-names-tuned",
            f"the target seems to contain this fine-tuning already: its files ({target.label}) say that it was made "
            f"from {tuned.label}, which is given as {named('tuned')}.",
        )
    else:
        return ()
    return (doubt,)


def _made_from(model: Checkpoint, parent: Checkpoint) -> bool:
    """Whether a model's files name the other one, and that is not also its own name."""
    names = [name for name in named_parents(model) if not is_called(model, name)]
    return any(is_called(parent, name) for name in names)


def named_parents(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names, each once."""
    found = [*checkpoint.parents, *named_in_card(checkpoint, "base_model")]
    name = checkpoint.config.get("_name_or_path")
    if isinstance(name, str) and checkpoint.adapter is None:
        found.append(name)
    return tuple(dict.fromkeys(name for name in found if name))


def is_called(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a name may be this model's: Hub ids as they stand, of a path its last part."""
    own = checkpoint.hub_id or checkpoint.label
    if checkpoint.hub_id is not None and is_hub_id(name) and not name.startswith(("/", ".", "~")):
        return own.casefold() == name.casefold() or (name.count("/") > 1 and last_part(name) == last_part(own))
    return last_part(own) == last_part(name)


def last_part(name: str) -> str:
    """What a path or a Hub id ends with, in small letters."""
    return name.rstrip("/").rpartition("/")[2].casefold()
