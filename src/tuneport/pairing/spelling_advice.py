"""Advice if names disagree and no rule is known: the ``--rename`` that matches them, or how to save both alike.

The sentence names both spellings by example. A rename is only suggested if it was tried here and matches every tensor.
"""

from __future__ import annotations

import re
from collections import Counter

from tuneport.errors import named
from tuneport.files.printable import printable_line, quoted
from tuneport.pairing.name_rules import Rename
from tuneport.pairing.spelling_rules import Shapes, Tensors

# A model that is called otherwise in more places than this is more likely another model.
_MOST_RENAMES = 6
_MOST_TRIED = 8


def advice(own: Tensors, role: str, others: Tensors, other_role: str) -> str | None:
    """A sentence for two checkpoints of which most tensors pair by shape, but not by name; None where they do not."""
    tried = renames_in_words(own, role, others, other_role)
    told = _both_spellings(own, role, others, other_role)
    if tried is not None or told is None:
        return tried
    return f"{told} If they are one model, load each with AutoModelForCausalLM and save it again (save_pretrained)."


def renames_in_words(own: Tensors, role: str, others: Tensors, other_role: str) -> str | None:
    """The renames that pair every tensor, with an example of what they pair; None where none are found."""
    renames = suggested(_shapes(own), _shapes(others))
    told = _both_spellings(own, role, others, other_role)
    odd = any(printable_line(text) != text for each in renames for text in (each.pattern, each.replacement))
    if not renames or odd or told is None:
        return None
    flags = " ".join(named("renames", f"{each.pattern}={each.replacement}") for each in renames)
    return f"{told} Add {flags} (checked: then every tensor has its counterpart)."


def _both_spellings(own: Tensors, role: str, others: Tensors, other_role: str) -> str | None:
    mine, theirs = _shapes(own), _shapes(others)
    pairs = _nearest(mine, theirs)
    if not pairs or 2 * len(pairs) < min(len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys())):
        return None
    name, other = next(iter(pairs.items()))
    return f"Names differ: {role} has {quoted(name)}, {other_role} {quoted(other)}, and no renaming rule that tuneport knows matches them all."


def suggested(own: Shapes, reference: Shapes) -> list[Rename]:
    """Renames of ``own`` after which every tensor of one side is in the other, in their order; empty where none are found."""
    found: list[Rename] = []
    names = {name: name for name in own}
    while len(found) < _MOST_RENAMES:
        now = {other: own[name] for name, other in names.items()}
        pairs = _nearest(now, reference)
        if not now.keys() - reference.keys() or not reference.keys() - now.keys():
            return found
        votes = Counter(rename for name, other in pairs.items() for rename in _differences(name, other))
        for rename, _ in votes.most_common(_MOST_TRIED):
            others = {name: rename(other) for name, other in names.items()}
            kept = all(others[name] == other for name, other in names.items() if other in reference)
            better = len(set(others.values()) & reference.keys()) > len(now.keys() & reference.keys())
            if kept and better and len(set(others.values())) == len(own):
                names = others
                found.append(rename)
                break
        else:
            return []
    return []


def _nearest(own: Shapes, reference: Shapes) -> dict[str, str]:
    """For each name that the reference lacks, the one of the same shape and numbers that has most in common with it."""
    free: dict[tuple[tuple[int, ...], tuple[str, ...]], list[str]] = {}
    for name in sorted(reference.keys() - own.keys()):
        free.setdefault((reference[name], _numbers(name)), []).append(name)
    found = {}
    for name in sorted(own.keys() - reference.keys()):
        candidates = free.get((own[name], _numbers(name)), [])
        scores = Counter({other: sum(_common(name, other)) for other in candidates})
        best = scores.most_common(2)
        if best and best[0][1] > 0 and (len(best) == 1 or best[0][1] > best[1][1]):
            found[name] = best[0][0]
    return found


def _differences(name: str, other: str) -> list[Rename]:
    """Renames that make one name of the other: what lies between their common beginning and end, and what follows it."""
    before, after = _common(name, other)
    parts, others = name.split("."), other.split(".")
    taken, given = parts[before : len(parts) - after], others[before : len(others) - after]
    begin, end = ("^", "") if not before else (r"\.", "."), ("$", "") if not after else (r"\.", ".")
    found = []
    if taken:
        found.append(_rename(begin, taken, given, end))
    elif not before:
        found.append(Rename("^", _escaped(".".join(given)) + "."))
    if after:  # with the part behind, which stays: it tells this place from others
        behind = parts[len(parts) - after]
        end = ("$", "") if after == 1 else (r"\.", ".")
        found.append(_rename(begin, [*taken, behind], [*given, behind], end))
    return found


def _rename(begin: tuple[str, str], taken: list[str], given: list[str], end: tuple[str, str]) -> Rename:
    """A rename of whole parts, with the dots or ends of a name around them as they are found and as they are written."""
    replacement = begin[1] + _escaped(".".join(given)) + end[1]
    if not given:
        replacement = begin[1] if begin[1] and end[1] else ""
    return Rename(begin[0] + re.escape(".".join(taken)) + end[0], replacement)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\")


def _common(name: str, other: str) -> tuple[int, int]:
    """How many parts two names have in common at their beginning, and then at their end."""
    parts, others = name.split("."), other.split(".")
    shorter = min(len(parts), len(others))
    before = next((place for place in range(shorter) if parts[place] != others[place]), shorter)
    rest = shorter - before
    after = next((place for place in range(rest) if parts[-1 - place] != others[-1 - place]), rest)
    return before, after


def _numbers(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part.isdigit())


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
