"""What a section says of one task: open, or folded where it is the loss of answers that are shown themselves."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tuneport.reporting.render.markup import Markup, tag
from tuneport.results.answered import LOSS


def of_task(task: str, among: Collection[str], content: Any, basis: str | None = None) -> Markup:
    """A heading and what stands under it; `among` are all tasks of the section, `basis` is what the numbers are of."""
    heading = tag("h3", task, *([" ", tag("small", basis)] if basis else []))
    if task.endswith(LOSS) and task.removesuffix(LOSS) in among:
        return tag("details", tag("summary", heading), content, class_="task")
    return tag("div", heading, content)
