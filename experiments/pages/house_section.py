"""The outline of the house in docs/design.md: every room, what it is for, and which rooms it imports, drawn from the source.

``python -m experiments.pages.house_section`` writes it into the page; ``--check`` exits with status 1 where the page has another.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import tuneport
from experiments.pages.write_page import DOCS, write_or_compare

PAGE = DOCS / "design.md"
SOURCE = Path(tuneport.__file__).parent
_BEGIN, _END = "<!-- house -->\n", "<!-- end of house -->\n"


def outline(order: Sequence[str]) -> str:
    """The table, rooms in the given order: each with its first line, its page where it has one, and the rooms that it imports."""
    lines = ["| room | what it is for | imports |", "| --- | --- | --- |"]
    for room in order:
        files = _files(room)
        first = SOURCE / room / "__init__.py"
        doc = ast.get_docstring(ast.parse((first if first.exists() else files[0]).read_text(encoding="utf-8"))) or ""
        known = {name for file in files for name in _rooms_in(file)} - {room}
        name = f"`{room}/`" if first.exists() else f"`{room}.py`"
        if (DOCS / "design" / f"{room}.md").exists():
            name = f"[{name}](design/{room}.md)"
        purpose = re.split(r"\n\n", doc)[0].replace("\n", " ").replace("|", "\\|")
        imports = ", ".join(other for other in order if other in known) or "nothing"
        lines.append(f"| {name} | {purpose} | {imports} |")
    return "\n".join(lines) + "\n"


def _files(room: str) -> list[Path]:
    folder = SOURCE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{room}.py"]


def _rooms_in(file: Path) -> set[str]:
    """Rooms of tuneport that a file imports, at the top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("tuneport.")}
    return found


def with_outline(page: str, table: str) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    return before + _BEGIN + table + _END + rest.partition(_END)[2]


def main() -> int:
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from test_imports import ORDER

    text = with_outline(PAGE.read_text(encoding="utf-8"), outline(ORDER))
    return write_or_compare(PAGE, text, sys.argv[1:], "the source")


if __name__ == "__main__":
    sys.exit(main())
