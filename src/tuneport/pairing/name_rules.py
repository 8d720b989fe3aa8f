"""The user's rules for tensor names, by regular expression: another scale, another name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScaleRule:
    """``--rule REGEX=SCALE``: the last rule whose expression is found in a target's name replaces ``--scale``."""

    pattern: str
    scale: float

    def matches(self, name: str) -> bool:
        """Whether the expression is found in ``name``."""
        return re.search(self.pattern, name) is not None


def scale_of(name: str, scale: float, rules: Sequence[ScaleRule]) -> float:
    """The scale of one tensor."""
    return next((rule.scale for rule in reversed(rules) if rule.matches(name)), scale)


@dataclass(frozen=True)
class Rename:
    """``--rename REGEX=REPLACEMENT``: where the expression is found in a name of base or tuned, that takes its place."""

    pattern: str
    replacement: str

    def __call__(self, name: str) -> str:
        """The other name."""
        return re.sub(self.pattern, self.replacement, name)
