"""A screen that keeps what progress says, at every moment and at the end."""

from __future__ import annotations

import pytest

from tuneport import progress

Lines = list[str]


class Kept(progress._Screen):
    """Every line that would be shown."""

    seconds = 0.001

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def show(self, words: str, share: float) -> None:
        self._lines.append(words)

    def clear(self, words: str, whole: bool) -> None:
        self._lines.append(words)


def keep_lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What progress says from here on."""
    lines: Lines = []
    monkeypatch.setattr(progress, "_screen", lambda: Kept(lines))
    return lines
