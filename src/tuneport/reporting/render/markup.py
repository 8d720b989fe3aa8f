"""HTML, escaped by construction: text becomes markup only through `tag`, which escapes whatever is not markup already.

    tag("p", "1 < 2 ", tag("b", name), id="note")

Everything a study holds (names, errors, answers) was written by others, models among them, so no text is ever put
between tags by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from tuneport.files.printable import printable

_VOID = frozenset({"meta", "link", "br", "hr", "input"})

Content = "str | Iterable[Content] | None"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """An element; `class_` and `aria_label` become class and aria-label, True stands bare, None and False are nothing."""
    shown = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        shown.append(f" {key}" if value is True else f' {key}="{escape(clean(str(value)))}"')
    opening = f"<{name}{''.join(shown)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(content)}</{name}>")


def join(content: Any) -> Markup:
    """Pieces one after another; texts are escaped, None is nothing."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(clean(content), quote=False))
    if isinstance(content, Iterable):
        return Markup("".join(join(piece) for piece in content))
    return Markup(escape(str(content), quote=False))


def script_data(value: Any) -> Markup:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def clean(text: str) -> str:
    """Control characters shown as such, so that what a model wrote can be read and written."""
    return printable(text.replace("\r\n", "\n"), "\N{REPLACEMENT CHARACTER}")
