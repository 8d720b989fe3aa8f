"""Match the module patterns of a PEFT adapter as peft does, with a bound on the work.

Finds the first pattern of the config that each module name ends with. Anyone may have written the config, and some
regular expressions never finish; so only patterns whose worst case can be computed are tried, and only while that stays
small.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

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

    peft's own rule: ``re.match(rf"(.*\\.)?({pattern})$", module)``. Raises `CheckpointError` for a pattern that is not
    a valid regular expression, or whose worst case takes too long.
    """
    modules, found = list(modules), dict[str, str]()
    plain, expressions = _Plain(), dict[int, str]()
    for order, pattern in enumerate(patterns):
        if _LITERAL.fullmatch(pattern):
            plain.add(pattern, order)
        else:
            expressions[order] = pattern
    letters = sum(map(len, expressions.values()))
    if letters > MOST_LETTERS:
        raise CheckpointError(
            f"{where}: its patterns have {letters:,} letters, over the limit of {MOST_LETTERS:,}. List the modules' "
            f"names instead."
        )
    steps, longest = float(20 * sum(map(plain.steps, modules))), max(map(len, modules), default=1)
    for pattern in expressions.values():
        steps += len(modules) * _worst(pattern, longest, where)
        if steps > MOST_STEPS:
            break
    if steps > MOST_STEPS:
        shown = next(iter(expressions.values()), next(iter(patterns), ""))
        raise CheckpointError(
            f"{where}: matching {len(patterns)} patterns with {len(modules)} modules could take too long "
            f"({shown[:80]!r} is one of them). List the modules' names instead."
        )
    compiled = {order: _compiled(pattern, where) for order, pattern in expressions.items()}
    for module in modules:
        first = plain.first(module)
        for order, expression in compiled.items():
            if first is not None and order > first:
                break
            if expression.match(module):
                first = order
                break
        if first is not None:
            found[module] = patterns[first]
    return found


class _Plain:
    """Patterns of letters, digits, dashes and dots, each of which dots stands for any character.

    Those with dots at the same places are kept together: one of them matches a name's end if it is that end with
    dots written at these places, so one look finds it, however many there are.
    """

    def __init__(self) -> None:
        self._by_length: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}

    def add(self, pattern: str, order: int) -> None:
        """Keep a pattern; the first of several equal ones counts."""
        dots = tuple(place for place, letter in enumerate(pattern) if letter == ".")
        self._by_length.setdefault(len(pattern), {}).setdefault(dots, {}).setdefault(pattern, order)

    def steps(self, module: str) -> int:
        """How often is looked for a module."""
        return sum(len(self._by_length.get(len(end), ())) for end in _ends(module))

    def first(self, module: str) -> int | None:
        """The place of the first pattern that the module ends with."""
        found: int | None = None
        for end in _ends(module):
            for dots, patterns in self._by_length.get(len(end), {}).items():
                letters = list(end)
                for dot in dots:
                    letters[dot] = "."
                order = patterns.get("".join(letters))
                if order is not None and (found is None or order < found):
                    found = order
        return found


def _ends(module: str) -> Iterator[str]:
    """The module's name, and what stands behind each of its dots."""
    yield module
    for place, letter in enumerate(module):
        if letter == ".":
            yield module[place + 1 :]


def _worst(pattern: str, length: int, where: str) -> float:
    """Steps of a match at worst: every repetition may end anywhere, and every group be tried with each alternative."""
    steps, place, before = float(length), 0, ""
    alternatives = [1]  # of each group that is open
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        kind = token.lastgroup if token else None
        if token is None or (kind == "times" and before != "atom") or (kind == "close" and len(alternatives) == 1):
            raise CheckpointError(
                f"{where}: the pattern {pattern[:80]!r} is of a kind that tuneport does not support (repeated groups, "
                "look-around and back-references are refused). List the modules' names instead."
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
        raise CheckpointError(
            f"{where}: the pattern {pattern[:80]!r} is not a valid regular expression: {error}."
        ) from None
