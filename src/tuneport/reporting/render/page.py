"""The page: findings become one HTML file that opens from disk, with nothing fetched from anywhere.

Style sheet, script and plotly stand in the file itself, so it can be mailed, attached or kept. Every figure has a
sentence and a table that say the same, and its numbers as CSV.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tuneport import __version__
from tuneport.reporting.render.markup import Markup, tag
from tuneport.reporting.render.sections import answer_columns, evidence_tables, explanations, matrix_tables
from tuneport.reporting.tables.findings import Findings
from tuneport.reporting.tables.study_reading import Reading

# Nothing is fetched and nothing is sent, whatever stands in the records.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


def page(found: Findings, place: Path) -> str:
    """The whole file, for the place where it will lie (links to records are relative to it)."""
    sections = [
        matrix_tables.transfers(found),
        matrix_tables.tuned_on(found),
        matrix_tables.recycled(found),
        explanations.predictors(found),
        explanations.paths(found),
        explanations.distances(found),
        answer_columns.answers(found.answers, found.reading.several_tunings),
        evidence_tables.failures(found.reading),
        evidence_tables.published(found),
        evidence_tables.scores(found),
        evidence_tables.records(found.reading, place),
        evidence_tables.reading_it(found),
    ]
    shown = [section for section in sections if section is not None]
    links = [tag("li", tag("a", title, href=f"#{id}")) for id, title, _ in shown]
    body = [
        tag("a", "Skip to the results", href="#results", class_="skip"),
        tag(
            "header",
            tag("p", "tuneport report", class_="kicker"),
            tag("h1", found.reading.name),
            tag("p", " ".join(found.words), class_="summary"),
            _doubts(found.reading),
            tag("nav", tag("ul", links), aria_label="Sections"),
        ),
        tag(
            "main",
            [
                tag("section", tag("h2", title, id=f"{id}-title"), content, id=id, aria_labelledby=f"{id}-title")
                for id, title, content in shown
            ],
            id="results",
            tabindex="-1",
        ),
        tag(
            "footer",
            tag("p", f"Made from the records of a study by tuneport {__version__}; nothing on it is typed by hand."),
        ),
    ]
    here = files("tuneport.reporting.render")
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"tuneport {__version__}"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{found.reading.name} · tuneport report"),
        tag("style", Markup((here / "page.css").read_text(encoding="utf-8"))),
    ]
    scripts = [
        tag("script", Markup(_plotly())),
        tag("script", Markup((here / "page.js").read_text(encoding="utf-8"))),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body, scripts), lang='en')}\n"


def _plotly() -> str:
    """plotly.js, as the installed package brings it: one file less to lose than one beside the page."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _doubts(reading: Reading) -> Markup | None:
    if not reading.doubts:
        return None
    return tag("div", tag("ul", [tag("li", doubt) for doubt in reading.doubts]), class_="doubts", role="note")
