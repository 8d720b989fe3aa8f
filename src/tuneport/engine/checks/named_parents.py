"""What a model was made from, as the files beside its weights say: the card's ``base_model``, config.json's ``_name_or_path``.

Names as people wrote them: Hub ids, paths on another machine, the model's own name. They prove nothing, but where the name
of one given model stands in the files of another, it is known what was meant.
"""

from __future__ import annotations

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.output.model_card import is_hub_id
from tuneport.output.parent_cards import named_in_card


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
