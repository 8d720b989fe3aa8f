"""Write the sections as Markdown, for a model card or an issue: sentences and tables, no drawings, records or answers.

Names, errors and notes are escaped, so that no text from a file can become markup, a mention or a table cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tuneport.files.printable import printable
from tuneport.reporting.sections.contents import Contents
from tuneport.reporting.sections.parts import (
    Block,
    Bullets,
    Facts,
    Figure,
    Fold,
    Group,
    Lead,
    Legend,
    Part,
    Piece,
    Pre,
    Table,
    Value,
)

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&@])")
_BLANKS = re.compile(r"[ \t\r\n]+")  # a no-break space stays one
_AROUND = {"best": "**{}**", "missing": "*{}*", "published": "*{}*", "gain": "({})", "nothing": ""}


def markdown(shown: Contents) -> str:
    """The whole text."""
    parts = [f"# {text(shown.name)}", text(shown.summary), *(f"> {text(doubt)}" for doubt in shown.doubts)]
    for section in shown.sections:
        if not section.page_only:
            parts += [f"## {text(section.title)}", *_all(section.parts)]
    return "\n\n".join(parts) + "\n"


def text(words: str) -> str:
    """Words of a file as Markdown that shows them as they are, on one line."""
    shown = _BLANKS.sub(" ", printable(words, "\N{REPLACEMENT CHARACTER}")).strip(" ")
    return _SPECIAL.sub(r"\\\1", shown)


def _all(parts: Iterable[Part]) -> Iterator[str]:
    for part in parts:
        yield from _shown(part)


def _shown(part: Part) -> Iterator[str]:
    match part:
        case str():
            yield text(part)
        case Lead():
            yield f"**{text(part.answer)}** {text(part.words)}"
        case Facts():
            yield f"{text(part.basis)}:"
            facts = [
                f"- **{text(fact.label)}: {text(f'{fact.value} {fact.interval}')}.** {text(fact.words)}"
                for fact in part.facts
            ]
            yield "\n".join(facts)
        case Table():
            yield _table(part)
        case Figure():
            yield f"**{text(part.title)}** {text(part.words)}".rstrip()
            if part.table is not None and not part.table_page_only:
                yield _table(part.table)
        case Bullets():
            yield "\n".join(f"- {text(line)}" for line in part.lines)
        case Pre() if not part.page_only:
            yield text(part.text)
        case Legend():
            yield text(part.text)
        case Group():
            yield from _all(part.parts)
        case Block():
            yield f"### {text(part.title)}" + (f" ({text(part.basis)})" if part.basis else "")
            yield from _all(part.parts)
        case Fold() if not part.page_only:
            yield f"**{text(part.title)}**" + "".join(_span(note) for note in part.notes)
            yield from _all(part.parts)
        case _:  # links and answers, which only a page has
            return


def _table(table: Table) -> str:
    head = [text(column.heading) for column in table.columns]
    rule = ["---:" if column.numbers else "---" for column in table.columns]
    lines = [head, rule, *([_value(value) for value in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value: Value) -> str:
    if isinstance(value.shown, str):
        return text(value.shown)
    return " ".join(filter(None, map(_span, value.shown)))


def _span(span: Piece) -> str:
    words = text(span.text)
    if not span.text.startswith(" "):
        return _AROUND.get(span.style, "{}").format(words)
    return f" {words}"
