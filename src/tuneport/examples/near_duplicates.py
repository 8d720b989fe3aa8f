"""Group texts that are the same or nearly the same, so that none of a group is fitted on and another one measured.

Two texts belong together if their words are the same (case, punctuation and spacing aside), or if they share most of
their runs of five words. Runs that many texts share (an instruction, a template) say nothing about a text and are not
counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from blake3 import blake3

_RUN = 5  # words
_SHARED = 0.8  # of all runs that one of two texts has: from here on they are nearly the same
_COMMON = 20  # a run in more texts than this is a template's
# A letter of a script that writes no spaces is a word.
_WORDS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]|\w+")


def grouped(texts: Sequence[str]) -> list[int]:
    """For each text the place of the first text of its group.

    >>> grouped(["What is 2 + 2?", "what is 2 + 2", "What is 2 + 3?"])
    [0, 0, 2]
    """
    first: dict[bytes, int] = {}
    group = []
    words = [_words(text) for text in texts]
    for place, own in enumerate(words):
        group.append(first.setdefault(_digest(own or [texts[place]]), place))
    different = sorted(set(group))
    runs = {place: _runs(words[place]) for place in different}
    found_in = Counter(run for own in runs.values() for run in own)
    having: dict[bytes, list[int]] = {}
    counted: dict[int, int] = {}
    leader = {place: place for place in different}

    def lead(place: int) -> int:
        while leader[place] != place:
            leader[place] = place = leader[leader[place]]
        return place

    for place in different:
        rare = [run for run in runs.pop(place) if found_in[run] <= _COMMON]
        counted[place] = len(rare)
        shared = Counter(other for run in rare for other in having.get(run, ()))
        for other, count in shared.items():
            if count >= _SHARED * (counted[other] + len(rare) - count):
                one, two = sorted((lead(other), lead(place)))
                leader[two] = one
        for run in rare:
            having.setdefault(run, []).append(place)
    return [lead(place) for place in group]


def _words(text: str) -> list[str]:
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def _runs(words: Sequence[str]) -> set[bytes]:
    return {_digest(words[start : start + _RUN]) for start in range(max(1, len(words) - _RUN + 1))}


def _digest(words: Sequence[str]) -> bytes:
    return blake3("\0".join(words).encode("utf-8", "surrogatepass")).digest(12)
