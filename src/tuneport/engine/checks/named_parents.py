"""What a model was made from, as the files beside its weights say: the card's ``base_model``, config.json's ``_name_or_path``.

Names as people wrote them: Hub ids, paths on another machine, the model's own name. They prove nothing, but where the name
of one given model stands in the files of another, it is known what was meant.
"""

from __future__ import annotations

import re

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.files.opening import read_bytes
from tuneport.output.model_card import is_hub_id

CARD = "README.md"
_MOST_CARD_BYTES = 2**20
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(
    r"^base_model:[ \t]*(?P<one>[^\r\n]*)\r?\n?(?P<list>(?:[ \t]*-[ \t]+[^\r\n]*\r?\n?)*)", re.MULTILINE
)


def named_parents(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names, each once."""
    found = [*checkpoint.parents, *_of_card(checkpoint)]
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


def _of_card(checkpoint: Checkpoint) -> list[str]:
    """``base_model`` in the front matter of README.md: one name, or a list of them."""
    path = checkpoint.path / CARD
    try:
        front = _FRONT.match(read_bytes(path, checkpoint.path, _MOST_CARD_BYTES).decode("utf-8", "replace"))
    except OSError:
        return []  # a card is for people; nothing depends on it
    entry = _ENTRY.search(front[1]) if front else None
    if entry is None:
        return []
    listed = [line.strip().removeprefix("-") for line in entry["list"].splitlines()]
    return [name for text in (entry["one"], *listed) if (name := text.strip().strip("\"'").strip())]
