"""A page that a script makes: written, or with ``--check`` compared with what is committed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def write_or_compare(page: Path, text: str, arguments: Sequence[str], made_from: str) -> int:
    """The exit status of such a script: 1 where ``--check`` is given and the page is not ``text``, which is said."""
    if "--check" not in arguments:
        page.write_text(text, encoding="utf-8")
        return 0
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return 0
    print(f"{page.name} is not what {made_from} says; run `make docs`.", file=sys.stderr)
    return 1
