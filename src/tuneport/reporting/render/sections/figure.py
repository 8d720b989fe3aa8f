"""A figure on the page: what it says in a sentence, the drawing, the table of its numbers, and these as CSV."""

from __future__ import annotations

from tuneport.reporting.render.figures import Figure
from tuneport.reporting.render.markup import Markup, script_data, tag


def figure(
    title: str, words: str, figure: Figure, csv: Markup, alternative: Markup | None = None, class_: str = ""
) -> Markup:
    """A figure with what it says in a sentence, the table of its numbers, and these as CSV."""
    data = tag("script", script_data(figure), type="application/json", class_="figure-data")
    same = tag("details", tag("summary", "The same as a table"), alternative) if alternative is not None else None
    return tag(
        "figure",
        tag("figcaption", tag("b", title), " ", words),
        tag(
            "div",
            data,
            class_="plot",
            role="img",
            aria_label=f"{title} {words}",
            style=f"min-height:{figure['layout']['height']}px",
        ),
        tag("div", csv, class_="under"),
        same,
        class_=class_ or None,
    )
