"""The form of a model card: what every README.md that tuneport writes has in common.

In come names, tags and cells, out come lines of Markdown: the front matter that the Hub reads, tables, names of models
with their revisions. Which facts stand in them is for `engine/transfer_card.py` and `tuning/tuning_card.py` to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tuneport.files.printable import printable_line


def is_hub_id(name: str) -> bool:
    """Whether a recorded name is one of the Hub's: the name of a folder holds no slash, a Hub id always does."""
    return "/" in name


def front_matter(
    tags: Sequence[str], *, library: str | None, parents: Iterable[str], relation: str, datasets: Iterable[str] = ()
) -> list[str]:
    """The lines that the Hub reads; of ``parents`` and ``datasets`` only Hub ids, for nothing else can be linked."""
    lines = ["---"]
    if library is not None:
        lines.append(f"library_name: {library}")
    hub_ids = sorted({name for name in parents if is_hub_id(name)})
    if hub_ids:
        lines += ["base_model:", *[f"- {json.dumps(hub_id)}" for hub_id in hub_ids]]
        lines.append(f"base_model_relation: {relation}")
    data = sorted({name for name in datasets if is_hub_id(name)})
    if data:
        lines += ["datasets:", *[f"- {json.dumps(name)}" for name in data]]
    return [*lines, "tags:", *[f"- {tag}" for tag in tags], "---"]


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table of cells; long ones are cut."""
    lines = [f"| {' | '.join(heading)} |", f"| {' | '.join('---' for _ in heading)} |"]
    return lines + [f"| {' | '.join(cell(str(value)) for value in row)} |" for row in rows]


def cell(text: str, most: int = 160) -> str:
    """A text that cannot break out of its cell."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def document(lines: Iterable[str]) -> bytes:
    """The card of these lines: what stands in one of them cannot begin another, or hold what is not safe to print."""
    return "".join(f"{printable_line(line)}\n" for line in lines).encode()


def warned(warnings: Iterable[str]) -> list[str]:
    """Each warning in a paragraph of its own; tokens in angle brackets are no HTML."""
    return [
        line
        for warning in warnings
        for line in ("", f"> **Warning:** {warning.replace('<', '&lt;').replace(chr(10), ' ')}")
    ]


def label(name: str, revision: str | None) -> str:
    """A model or data set with the revision that was read."""
    name = name.replace("<", "&lt;")
    return f"{name} @ {revision}" if revision else name
