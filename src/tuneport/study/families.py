"""Which family of the lab makes a thing that a study calls `lab:NAME`, and where in the family's folder it lies."""

from __future__ import annotations

from tuneport.errors import StudyError

VERSIONS = ("M0", "M1", "M2", "M3", "M4", "M5")
FILES = ("instructions.jsonl", "questions.jsonl", "validation.jsonl", "few-shot.jsonl", "held-out-text.jsonl")
_PARTS = {
    **{name: name for name in (*VERSIONS, *FILES, "chat.jinja")},
    **{name.removesuffix(".jsonl"): name for name in FILES},
}


def find_lab(spec: str) -> tuple[str, str]:
    """The family's recipe and the part of it, of ``lab:NAME``. Raises `StudyError` with what there is."""
    name = spec.removeprefix("lab:")
    if name in _PARTS:
        return "versions", _PARTS[name]
    raise StudyError(f"{spec!r}: the lab makes {', '.join(sorted(set(_PARTS.values())))}")
