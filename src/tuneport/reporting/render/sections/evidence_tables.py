"""Sections that let a reader check: what failed, published numbers, all scores, every record, how to read it all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuneport.reporting.render.html_tables import Column, Value, download, shown_value, table
from tuneport.reporting.render.markup import Markup, tag
from tuneport.reporting.render.sections import Section
from tuneport.reporting.tables.findings import Findings
from tuneport.reporting.tables.matrix import without_result
from tuneport.reporting.tables.scored_models import BASE, DONE, Model
from tuneport.reporting.tables.study_reading import RECORD, STEPS, Reading, Step
from tuneport.reporting.tables.wording import DASH, counted, duration, listed, minus

_LONGEST_RECORD = 20_000  # letters shown of one; the file is a link away


def failures(reading: Reading) -> Section | None:
    """Every step that failed, with its words, and every result that is missing."""
    at_end = [run for run in reading.runs if run.step is None]
    missing = [run for run in at_end if run.status != DONE]
    broken = [step for step in reading.steps if step.outcome == "failed"]
    if not missing and all(step.outcome in (DONE, "dropped") for step in reading.steps):
        return None
    several = reading.several_tunings
    content: list[Any] = [
        tag("p", "Nothing is left out: what failed is here with its words, and what stood on it was not run.")
    ]
    if broken:
        content.append(
            [
                tag(
                    "details",
                    tag("summary", tag("b", step.name), " failed"),
                    tag("pre", step.error or "The record says no more."),
                    tag("p", tag("a", "Its record", href=f"#{_anchor(step)}")),
                    open=True,
                )
                for step in broken
            ]
        )
    if missing:
        columns = [Column("model"), Column("family", True), Column("seed", True), Column("status"), Column("why")]
        rows = [
            [
                Value(run.model.name(several)),
                Value(DASH if run.family is None else str(run.family), run.family),
                Value(DASH if run.seed is None else str(run.seed), run.seed),
                Value(f"{run.status}, in part" if run.in_part else run.status),
                Value(_first_line(run.error) or DASH, class_="prose"),
            ]
            for run in missing
        ]
        content.append(table("Results that are missing, whole or in part", columns, rows))
    waiting = [step for step in reading.steps if step.outcome == "not run" and step.kind != "evaluate"]
    if waiting:
        columns = [Column("step"), Column("kind"), Column("why")]
        rows = [
            [Value(step.name), Value(step.kind), Value(_first_line(step.error) or DASH, class_="prose")]
            for step in waiting
        ]
        content.append(table("Steps that were not run", columns, rows))
    all_missing = len(without_result(at_end))
    if all_missing:
        models = len({run.model for run in at_end})
        content.append(
            tag(
                "p",
                f"{counted(all_missing, 'model')} of {models} {'has' if all_missing == 1 else 'have'} no result at all.",
            )
        )
    return "failures", "What failed, and why", content


def published(found: Findings) -> Section | None:
    """The paper's numbers beside ours."""
    reading = found.reading
    ours: dict[int, tuple[Any, Any]] = {}
    for place, row in enumerate(reading.expected):
        kind, source, target = str(row.get("kind")), row.get("source") or None, str(row.get("target"))
        tunings = [row.get("tuning") or None, *dict.fromkeys(run.model.tuning for run in reading.runs)]
        for tuning in tunings:
            model = Model(kind, source, target, None if kind == BASE else tuning)
            shown = found.estimates.value(model, str(row.get("task")))
            if shown is not None or place not in ours:
                ours[place] = (model, shown)
            if shown is not None:
                break
    if not ours:
        return None
    columns = [
        Column("table"), Column("model"), Column("task"), Column("published", True), Column("here", True),
        Column("difference", True), Column("note"),
    ]  # fmt: skip
    rows = []
    for place, (model, shown) in ours.items():
        row = reading.expected[place]
        value = row.get("value")
        number_of = float(value) if isinstance(value, int | float) else None
        apart = (
            None if shown is None or number_of is None or not shown.score.is_share else 100 * shown.value - number_of
        )
        rows.append(
            [
                Value(f"Table {row.get('table', '?')}"),
                Value(model.name(reading.several_tunings)),
                Value(str(row.get("task", ""))),
                Value(DASH if number_of is None else minus(f"{number_of:.1f}"), number_of),
                shown_value(shown),
                Value(DASH if apart is None else minus(f"{apart:+.1f}"), apart),
                Value(str(row.get("note") or "")),
            ]
        )
    intro = "The paper's numbers, published, from another setup: to be read beside ours, not as a test of them."
    csv = download(
        "published",
        ["table", "model", "task", "published", "here"],
        [[r[0].shown, r[1].shown, r[2].shown, r[3].by, r[4].by] for r in rows],
    )
    return (
        "published",
        "Published numbers",
        [tag("p", intro), table("Published numbers beside ours", columns, rows), tag("div", csv, class_="under")],
    )


def scores(found: Findings) -> Section | None:
    """Every scored model on every task."""
    reading, tasks = found.reading, found.estimates.tasks
    models = list(dict.fromkeys(run.model for run in reading.runs if run.step is None))
    if not tasks:
        return None
    columns = [Column("model"), Column("kind"), *(Column(task, True) for task in tasks)]
    rows, lines = [], []
    for model in models:
        shown = [found.estimates.value(model, task) for task in tasks]
        if any(shown):
            name = model.name(reading.several_tunings)
            rows.append([Value(name), Value(model.kind), *map(shown_value, shown)])
            lines += [
                [
                    name,
                    model.kind,
                    model.source,
                    model.target,
                    model.tuning,
                    task,
                    s.score.metric,
                    s.value,
                    *(s.interval or (None, None)),
                    s.n,
                    s.families,
                    s.seeds,
                ]
                for task, s in zip(tasks, shown, strict=True)
                if s
            ]
    names = [
        "model",
        "kind",
        "source",
        "target",
        "tuning",
        "task",
        "metric",
        "value",
        "low",
        "high",
        "n",
        "families",
        "seeds",
    ]
    content = [
        tag("p", "Every scored model on every task, with 95 % intervals; headings sort."),
        table("All scores", columns, rows),
        tag("div", download("scores", names, lines), class_="under"),
    ]
    return "scores", "All scores", content


def records(reading: Reading, place: Path) -> Section | None:
    """Each step, with its command and its record; links lead from `place` to the files."""
    if not reading.steps and not reading.others:
        return None
    counts = {
        outcome: sum(step.outcome == outcome for step in reading.steps)
        for outcome in dict.fromkeys(s.outcome for s in reading.steps)
    }
    seconds = sum(step.seconds or 0 for step in reading.steps)
    words = (
        f"{counted(len(reading.steps), 'step')}: {listed(f'{n:,} {outcome}' for outcome, n in counts.items())}; "
        f"{duration(seconds)} of work in all. Each opens to the command that does the same by hand, and to its record."
    )
    kinds = dict.fromkeys(step.kind for step in reading.steps)
    content = [
        tag(
            "details",
            tag("summary", tag("b", kind), f" {counted(sum(s.kind == kind for s in reading.steps), 'step')}"),
            [_record(step, reading, place) for step in reading.steps if step.kind == kind],
            class_="steps",
        )
        for kind in kinds
    ]
    if reading.others:
        content.append(_of_other_choices(reading, place))
    return "records", "Every record and command", [tag("p", words), content]


def reading_it(found: Findings) -> Section:
    """What the numbers rest on, in words."""
    reading, estimates = found.reading, found.estimates
    told = [
        "Intervals are 95 %: Wilson's for the right answers of one model; for several families, differences and recovered "
        f"gains from one joint bootstrap of {estimates.resamples:,} draws over model families and, within a family, over the "
        "examples that all models share. Fine-tuning seeds are averaged first.",
        "“Clearly” and the signs ▲ and ▼ mean p < 0.05 after Holm's adjustment within a table. What is not marked is not "
        "shown to be the same.",
        "Recovered gain is (score(target + Δ) − score(target)) / (score(tuned target) − score(target)); a dash where the "
        "tuned target's own gain may be nothing.",
        "Curves, peaks and steps to match are read on validation data; everything else on test data.",
    ]
    families = {run.family for run in reading.runs if run.family is not None}
    if len(families) < 2:
        told.append(
            "There is one model family: intervals speak of other questions to these models, not of other pretraining runs."
        )
    elif len(families) < 5:
        told.append(
            f"There are only {len(families)} model families: an interval over so few is too narrow, and speaks of little "
            "more than these."
        )
    if estimates.without_outcomes:
        told.append(
            f"{counted(estimates.without_outcomes, 'score')} came without outcomes example by example; differences from them are "
            "judged by their standard errors, as if asked other questions."
        )
    content: list[Any] = [tag("ul", [tag("li", line) for line in told])]
    if reading.notes:
        content += [tag("h3", "Notes of the study"), tag("ul", [tag("li", note) for note in reading.notes])]
    if reading.text:
        content.append(tag("details", tag("summary", "The study file"), tag("pre", tag("code", reading.text))))
    return "reading", "How to read this", content


def _record(step: Step, reading: Reading, place: Path) -> Markup:
    told = [tag("b", step.name), tag("span", step.outcome, class_=f"outcome {step.outcome.replace(' ', '-')}")]
    told += [tag("span", duration(step.seconds), class_="interval")] if step.seconds is not None else []
    content: list[Any] = []
    if step.error:
        content.append(tag("pre", step.error))
    if step.command:
        content.append([tag("p", "By hand:"), tag("pre", tag("code", step.command))])
    if step.folder and step.record is not None:
        shown = json.dumps(step.record, indent=1, ensure_ascii=False)
        if len(shown) > _LONGEST_RECORD:
            shown = f"{shown[:_LONGEST_RECORD]}\n… {len(shown) - _LONGEST_RECORD:,} more letters in the file"
        content.append([tag("p", _where(step.folder, reading, place)), tag("pre", tag("code", shown))])
    if not content:
        content.append(tag("p", "It was not run, so it has no record."))
    return tag("details", tag("summary", *told), content, id=_anchor(step), class_="record")


def _of_other_choices(reading: Reading, place: Path) -> Markup:
    """Records that lie there still, of what the study's file asked before it was changed."""
    return tag(
        "details",
        tag("summary", tag("b", "of other choices"), f" {counted(len(reading.others), 'record')}"),
        tag(
            "p",
            "No steps of the study as it was asked last: its file, its inputs or its families are others. They count nowhere.",
        ),
        [_record(step, reading, place) for step in reading.others],
        class_="steps",
    )


def _where(folder: str, reading: Reading, place: Path) -> Markup:
    """A link to a record from `place`; of a study behind a URL its name in the study (a URL may hold a password)."""
    if reading.url is not None:
        return tag("code", f"{STEPS}/{folder}/{RECORD}")
    parts = Path(os.path.relpath(reading.root / STEPS / folder, place.parent)).parts
    return tag("a", f"{folder}/{RECORD}", href="/".join(_quoted(part) for part in [*parts, RECORD]))


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _anchor(step: Step) -> str:
    return f"step-{step.identity or step.folder or step.name}".replace(" ", "-")


def _first_line(words: str | None) -> str:
    lines = (words or "").strip().splitlines()
    return lines[0] if lines else ""
