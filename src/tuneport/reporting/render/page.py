"""Write the sections as one HTML file that opens offline.

Style sheet, script and plotly are part of the file, so it can be mailed, attached or kept. Others, models among them,
wrote all texts of a study (names, errors, answers): the template escapes every text, and only our own files and data
for scripts are marked as safe.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tuneport import __version__
from tuneport.files.printable import printable
from tuneport.reporting.sections.contents import Contents
from tuneport.reporting.sections.parts import Answers, Csv
from tuneport.reporting.tables.answers_side_by_side import shortened


def page(shown: Contents) -> str:
    """The whole file."""
    here = files("tuneport.reporting.render")
    plotly = files("plotly") / "package_data" / "plotly.min.js"  # one file less to lose than one beside the page
    own = {"style": here / "page.css", "script": here / "page.js", "plotly": plotly}
    template = environment().from_string((here / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        shown=shown,
        version=__version__,
        **{name: Markup(file.read_text(encoding="utf-8")) for name, file in own.items()},  # our own files
    )


def environment() -> Environment:
    """What templates are rendered with: every text is escaped, with control characters shown as such; None is nothing."""
    made = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True)
    made.filters |= {"script_data": script_data, "saved": saved, "sorted_by": _sorted_by, "shortened": shortened}
    made.filters["answers_data"] = _answers_data
    before: Counter[str] = Counter()

    def alone(label: str) -> str:
        """A region's label that no other region of the page has: a screen reader lists them."""
        before[label] += 1
        return label if before[label] == 1 else f"{label} ({before[label]})"

    made.filters["alone"] = alone
    return made


def script_data(value: Any) -> Markup:
    """JSON that is safe in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )  # no <, > or & is left in it


def saved(rows: Csv) -> str:
    """The address of a file that is held in the page itself."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_safe(column) for column in rows.columns])
    writer.writerows([_safe(value) for value in row] for row in rows.rows)
    # A byte order mark: spreadsheets read Δ wrongly without it.
    return "data:text/csv;charset=utf-8," + quote("\ufeff" + text.getvalue())


def clean(text: str) -> str:
    """Control characters shown as such, so that what a model wrote can be read and written."""
    return printable(text.replace("\r\n", "\n"), "\N{REPLACEMENT CHARACTER}")


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sorted_by(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _safe(value: Any) -> Any:
    """What a spreadsheet would run as a formula is marked as text; numbers stay numbers."""
    if isinstance(value, str):
        value = clean(value)
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t") else value
    return "" if value is None else value


def _answers_data(part: Answers) -> dict[str, Any]:
    """What each model said, by example, for the page's script to choose from."""
    said = [[example.said.get(model) for model in part.found.models] for example in part.found.asked]
    return {
        "models": part.names,
        "said": [[None if a is None else [shortened(a.said), a.score] for a in each] for each in said],
    }
