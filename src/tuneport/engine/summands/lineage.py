"""Whether a target is one of the models that a diff vector was taken from, descends from one, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tuneport.files.printable import printable_line

Kin = Literal["parent", "descendant", "stranger", "unknown"]
Evidence = Literal["tensors", "hub", "headers"]

_PARENTS = {"base": "the base", "tuned": "the tuned model"}
_EVIDENCE = {
    "tensors": "by the digests of {} tensors",
    "hub": "by the Hub's hashes",
    "headers": "by name and headers",
}


@dataclass(frozen=True)
class Lineage:
    """What a target is to a diff vector of this ``role`` and ``name``.

    ``parent`` is the one that it is or descends from (base, tuned), ``by`` how that is known, ``tensors`` how many were compared
    (0: none). A stranger is what nobody said to be kin: usually a new version of the base. Unknown: its weights are on the Hub only.
    """

    role: str
    name: str
    kin: Kin
    parent: str | None = None
    by: Evidence | None = None
    tensors: int = 0

    def record(self) -> dict[str, Any]:
        """The entry of a plan and a manifest."""
        return asdict(self)


def lineage_in_words(found: Sequence[Mapping[str, Any]]) -> str:
    """What the target is to each diff vector, from the entries of a plan or a manifest."""
    return "; ".join(map(_in_words, found))


def _in_words(entry: Mapping[str, Any]) -> str:
    vector = printable_line(str(entry["name"]))
    if entry["kin"] == "stranger":
        return f"the target is neither a parent of {vector} nor a known descendant"
    if entry["kin"] == "unknown":
        return f"whether the target is a parent of {vector} is not known: its weights are not on this disk yet"
    how = _EVIDENCE[entry["by"]].format(entry["tensors"])
    what = "is" if entry["kin"] == "parent" else "descends from"
    return f"the target {what} {_PARENTS[entry['parent']]} of {vector} ({how})"
