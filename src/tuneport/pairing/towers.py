"""What a multimodal model has besides its language model: vision tower, projector, audio tower.

In come names of tensors, out comes which of them lie beside those of the language model, and the expression that names them all. A
tensor inside the language model (a norm that one version has and the other lacks) is not beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

from tuneport.pairing.vocabulary_names import is_head_weight


def beside(language: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """Those of ``names`` that stand in no place where a tensor of the ``language`` model stands, and are no head."""
    places = {_place(name) for name in language}
    return frozenset(name for name in names if _place(name) not in places and not is_head_weight(name))


def pattern_of(towers: Set[str], names: Iterable[str]) -> str:
    """The shortest expression that finds all of ``towers`` and no other of ``names``."""
    others = [name for name in names if name not in towers]
    found: dict[str, None] = {}
    for name in sorted(towers):
        parts = name.split(".")
        for count in range(1, len(parts)):
            begin = ".".join(parts[:count]) + "."
            if not any(other.startswith(begin) for other in others):
                found[re.escape(begin)] = None
                break
        else:
            found[re.escape(name) + "$"] = None
    return f"^({'|'.join(found)})" if len(found) > 1 else f"^{next(iter(found), '')}"


def _place(name: str) -> str:
    """A name up to the number of its layer, or without its last part: what it shares with its neighbours."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[:number])
