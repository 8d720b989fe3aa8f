"""Module patterns of a PEFT adapter, matched as peft matches them, with a bound on the work.

In come the patterns of an adapter's config (regular expressions, in their order) and module names, out comes the first
pattern that each module ends with. A config may come from anywhere, and a regular expression can be written so that it
never ends; so only those are tried whose worst case can be computed, and only while that stays small.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tuneport.errors import CheckpointError

# Steps of the regular expression engine, at worst, over all patterns and modules: some seconds.
MOST_STEPS = 5 * 10**8
MOST_LETTERS = 2**20  # of all expressions together, which have to be compiled
_LITERAL = re.compile(r"[\w.-]+")
_TOKEN = re.compile(
    r"(?P<open>\((?:\?:)?(?!\?))|(?P<close>\))|(?P<either>\|)|(?P<times>[*+?]\??|\{\d{1,4}(?:,\d{0,4})?\}\??)"
    r"|(?P<atom>\\[dDwWsS.\-_$^|()\[\]{}*+?\\/]|\[\^?\]?(?:[^\]\\\[]|\\.)*\]|[^\\\[\](){}*+?|])",
)


def first_matches(patterns: Sequence[str], modules: Iterable[str], where: str) -> dict[str, str]:
    """For each module the first pattern that it ends with, at a dot; modules that none matches are left out.

    peft's own rule: ``re.match(rf"(.*\\.)?({pattern})$", module)``. Raises `CheckpointError` for a pattern that is no
    regular expression, or whose worst case is too long.
    """
    modules, found, compiled = list(modules), dict[str, str](), dict[str, re.Pattern[str]]()
    steps, longest = 0.0, max(map(len, modules), default=1)
    letters = sum(len(pattern) for pattern in patterns if not _LITERAL.fullmatch(pattern))
    if letters > MOST_LETTERS:
        raise CheckpointError(
            f"{where}: its patterns have {letters:,} letters, over the limit of {MOST_LETTERS:,}. Write the modules' names out instead."
        )
    for pattern in patterns:
        steps += len(modules) * (1 if _LITERAL.fullmatch(pattern) else _worst(pattern, longest, where))
        if steps > MOST_STEPS:
            raise CheckpointError(
                f"{where}: matching {len(patterns)} patterns with {len(modules)} modules could take too long "
                f"({pattern[:80]!r} is one of them). Write the modules' names out instead."
            )
        if not _LITERAL.fullmatch(pattern):
            compiled[pattern] = _compiled(pattern, where)
    for module in modules:
        for pattern in patterns:
            expression = compiled.get(pattern)
            if expression.match(module) if expression is not None else _ends_with(module, pattern):
                found[module] = pattern
                break
    return found


def _ends_with(module: str, pattern: str) -> bool:
    """Whether a pattern of letters, digits and dots (each stands for any character) is the end of a module's name."""
    begin = len(module) - len(pattern)
    if begin < 0 or not module.endswith(pattern.rpartition(".")[2]) or (begin and module[begin - 1] != "."):
        return False
    end = module[begin:]
    return end == pattern or all(one in (other, ".") for one, other in zip(pattern, end, strict=True))


def _worst(pattern: str, length: int, where: str) -> float:
    """Steps of a match at worst: every repetition may end anywhere, and every group be tried with each alternative."""
    steps, place, before = float(length), 0, ""
    alternatives = [1]  # of each group that is open
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        kind = token.lastgroup if token else None
        if token is None or (kind == "times" and before != "atom") or (kind == "close" and len(alternatives) == 1):
            raise CheckpointError(
                f"{where}: the pattern {pattern[:80]!r} is not of a kind that tuneport matches (repeated groups, "
                "look-around and back-references are refused). Write the modules' names out instead."
            )
        if kind == "open":
            alternatives.append(1)
        elif kind == "either":
            alternatives[-1] += 1
        elif kind == "close":
            steps *= alternatives.pop()
        elif kind == "times":
            steps *= 2 if token.group().startswith("?") else length
        place, before = token.end(), kind or ""
    return steps * alternatives[0]


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{where}: the pattern {pattern[:80]!r} is no regular expression: {error}.") from None
