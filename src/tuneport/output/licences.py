"""Licences by their ids on the Hub: which licence an output made of several models can have."""

from __future__ import annotations

import re
from collections.abc import Mapping

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}")
NAMED_BY_ITSELF = "other"  # the Hub's id of a licence that it has no id for
# Those that ask for no more than that their text stays: what is made of them and of another may stand under the other's.
_PERMISSIVE = frozenset(
    (
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "isc",
        "unlicense",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-3.0",
    )
)
_NO_DERIVATIVES = re.compile(r"cc-by(-nc)?-nd(-\d\.\d)?")
_BEFORE = "Check what they allow before you share this model; then name its licence with `--license` when you push."


def parse_licence(value: object) -> str:
    """A licence's id as the Hub has it (`apache-2.0`, `llama3.1`). Raises ValueError for anything else."""
    name = str(value)
    if not LICENCE.fullmatch(name):
        raise ValueError("is not a valid licence id; use the Hub's: apache-2.0, cc-by-4.0, llama3.1, other")
    return name


def licence_of(licences: Mapping[str, str | None]) -> tuple[str | None, str]:
    """The licence that an output can have (None if that is for the user to decide), and a sentence about it.

    ``licences`` are those of the parents by role, None where one is not known.
    """
    known = {role: name for role, name in licences.items() if name is not None and name != NAMED_BY_ITSELF}
    told = "; ".join(f"{role}: {name or 'not stated'}" for role, name in licences.items())
    closed = [role for role, name in known.items() if _NO_DERIVATIVES.fullmatch(name)]
    if closed:
        which = " and ".join(closed)
        return None, f"Licences of the parents ({told}): that of {which} does not allow sharing derivatives. {_BEFORE}"
    if len(known) < len(licences):
        return None, f"Licences of the parents ({told}): not all of them are known. {_BEFORE}"
    names = sorted(set(known.values()))
    demanding = [name for name in names if name not in _PERMISSIVE]
    if len(names) == 1:
        return names[0], f"All parents are under {names[0]}, and so is this model."
    if len(demanding) > 1:
        return None, f"Licences of the parents ({told}) differ. {_BEFORE}"
    chosen = demanding[0] if demanding else next((name for name in names if name == "apache-2.0"), names[0])
    return (
        chosen,
        f"Licences of the parents ({told}) differ; this model is under {chosen}, and the other terms still apply.",
    )
