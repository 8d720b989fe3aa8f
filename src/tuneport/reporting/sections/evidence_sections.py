"""Sections that let a reader check: answers, failures, published numbers, all scores, every record, how to read the
numbers.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from tuneport.reporting.sections.parts import (
    Answers,
    Block,
    Bullets,
    Csv,
    Fold,
    Link,
    Part,
    Piece,
    Pre,
    Section,
    Table,
    TableColumn,
    Value,
    ends,
    optional,
    shown_value,
)
from tuneport.reporting.tables.matrix import without_result
from tuneport.reporting.tables.report_tables import Findings
from tuneport.reporting.tables.wording import counted, duration, listed, minus
from tuneport.results.schema import BASE, DONE, FAILED, NOT_RUN, PENDING, RECORD, STEPS, Model
from tuneport.results.study_reading import Reading, RecordedStep
from tuneport.results.torn_json import number_or

_MOST_OPEN, _MOST_CELLS = 10, 48  # lines of a list, and scores of a table, that stand open
_LONGEST_RECORD = 20_000  # letters shown of one; the file is a link away


def answers(found: Findings) -> Section | None:
    """Answers of three models at a time; another may be chosen for each."""
    shown = found.answers
    if shown is None:
        return None
    which = listed(
        f"{word} {each}" for word, each in (("family", shown.family), ("seed", shown.seed)) if each is not None
    )
    intro = (
        f"A few questions{f' ({which})' if which else ''} where the models shown first differ, in the files' order: "
        "not a sample. ✓ counted as right, ✗ as wrong."
    )
    names = [model.name(found.reading.several_tunings) for model in shown.models]
    return Section("answers", "What do the models answer?", [intro, Answers(shown, names)], page_only=True)


def failures(reading: Reading) -> Section | None:
    """Every failed step with its message, and every missing result."""
    missing = [run for run in reading.at_end if run.status != DONE and not run.pending]
    waiting = [step for step in reading.steps if step.outcome == NOT_RUN and step.error and step.kind != "evaluate"]
    if not missing and not waiting and all(step.outcome != FAILED for step in reading.steps):
        return None
    parts: list[Part] = [
        "Nothing is left out: every failure is here with its message. Steps that depend on a failed step were skipped."
    ]
    for step in reading.steps:
        if step.outcome == FAILED:
            told: list[Part] = [
                Pre(step.error or "The record has no details."),
                Link("Its record", f"#{_anchor(step)}"),
            ]
            parts.append(Fold(step.name, [Piece(" failed", "value")], told, open=True))
    if missing:
        columns = [
            TableColumn("model"),
            TableColumn("family", True),
            TableColumn("seed", True),
            TableColumn("status"),
            TableColumn("why"),
        ]
        rows = [
            [
                Value(run.model.name(reading.several_tunings)),
                optional(run.family),
                optional(run.seed),
                Value(f"{run.status}, in part" if run.in_part else run.status),
                _why(run.error),
            ]
            for run in missing
        ]
        parts.append(Table("Results that are missing, fully or in part", columns, rows))
    if waiting:
        rows = [[Value(step.name), Value(step.kind), _why(step.error)] for step in waiting]
        parts.append(
            Table("Steps that were skipped", [TableColumn("step"), TableColumn("kind"), TableColumn("why")], rows)
        )
    nothing = len(without_result(run for run in reading.at_end if not run.pending))
    if nothing:
        models = len({run.model for run in reading.at_end})
        has = "has" if nothing == 1 else "have"
        parts.append(f"{counted(nothing, 'model')} of {models} {has} no result at all.")
    return Section("failures", "What failed, and why?", parts)


def pending(reading: Reading) -> Section | None:
    """Steps that are still to come: the study is not finished."""
    waiting = [step for step in reading.steps if step.outcome == NOT_RUN and not step.error]
    if not waiting:
        return None
    counts = Counter(step.kind for step in waiting)
    words = (
        f"{counted(len(waiting), 'step')} {'is' if len(waiting) == 1 else 'are'} {PENDING}: "
        f"{listed(f'{number:,} {kind}' for kind, number in counts.items())}. None of these failed. Run the same "
        f"command again to resume the study, and `tuneport report` to update this page."
    )
    names = Bullets([step.name for step in waiting])
    body: list[Part] = [names] if len(waiting) <= _MOST_OPEN else [Fold("Their names", [], [names])]
    return Section("pending", "What is still to come?", [words, *body])


def published(found: Findings) -> Section | None:
    """The paper's numbers beside ours."""
    reading, several = found.reading, found.reading.several_tunings
    known = list(dict.fromkeys(run.model.tuning for run in reading.runs))
    columns = [
        TableColumn("table"), TableColumn("model"), TableColumn("task"), TableColumn("published", True), TableColumn("here", True),
        TableColumn("difference", True), TableColumn("note"),
    ]  # fmt: skip
    rows, lines = [], []
    for row in reading.expected:
        kind, source, target, task = (
            str(row.get("kind")),
            row.get("source") or None,
            str(row.get("target")),
            str(row.get("task")),
        )
        models = [Model(kind, source, target, None if kind == BASE else t) for t in (row.get("tuning") or None, *known)]
        shown = {model: found.estimates.value(model, task) for model in models}
        model = next((model for model in models if shown[model] is not None), models[0])
        ours, value = shown[model], number_or(row.get("value"), None)
        share = ours is not None and ours.score.is_share
        apart = None if ours is None or value is None or not share else 100 * ours.value - value
        rows.append(
            [
                Value(f"Table {row.get('table', '?')}"),
                Value(model.name(several)),
                Value(task),
                optional(value, lambda number: minus(f"{number:.1f}")),
                shown_value(ours),
                optional(apart, lambda points: minus(f"{points:+.1f}")),
                Value(str(row.get("note") or "")),
            ]
        )
        lines.append([f"Table {row.get('table', '?')}", model.name(several), task, value, ours.value if ours else None])
    if not rows:
        return None
    intro = "The paper's published numbers come from another setup: read them beside ours, not as a test of ours."
    csv = Csv("published", ["table", "model", "task", "published", "here"], lines)
    return Section(
        "published",
        "How do published numbers compare?",
        [intro, Table("Published numbers beside ours", columns, rows, csv)],
    )


def scores(found: Findings) -> Section | None:
    """Every scored model on every task."""
    reading, tasks = found.reading, found.estimates.tasks
    if not tasks:
        return None
    columns = [TableColumn("model"), TableColumn("kind"), *(TableColumn(task, True) for task in tasks)]
    rows, lines = [], []
    for model in dict.fromkeys(run.model for run in reading.at_end):
        shown = [found.estimates.value(model, task) for task in tasks]
        if not any(shown):
            continue
        name = model.name(reading.several_tunings)
        rows.append([Value(name), Value(model.kind), *map(shown_value, shown)])
        what = [name, model.kind, model.source, model.target, model.tuning]
        lines += [
            [*what, task, s.score.metric, s.value, *ends(s.interval), s.n, s.families, s.seeds]
            for task, s in zip(tasks, shown, strict=True)
            if s
        ]
    names = ["model", "kind", "source", "target", "tuning", "task", "metric", "value", "low", "high", "n"]
    csv = Csv("scores", [*names, "families", "seeds"], lines)
    intro = "Every scored model on every task, with 95 % intervals; headings sort."
    table: Part = Table("All scores", columns, rows, csv)
    if len(rows) * len(tasks) > _MOST_CELLS:
        table = Fold(f"{counted(len(rows), 'model')} on {counted(len(tasks), 'task')}", [], [table], "task")
    return Section("scores", "What did every model score?", [intro, table])


def records(reading: Reading, place: Path) -> Section | None:
    """Each step, with its command and its record; links lead from `place` to the files."""
    if not reading.steps and not reading.others:
        return None
    counts = Counter(step.outcome for step in reading.steps)
    seconds = sum(step.seconds or 0 for step in reading.steps)
    words = (
        f"{counted(len(reading.steps), 'step')}: {listed(f'{n:,} {outcome}' for outcome, n in counts.items())}; "
        f"{duration(seconds)} of work in all. Open a step to see its record and the command that does the same by hand."
    )
    parts: list[Part] = [words]
    for kind, number in Counter(step.kind for step in reading.steps).items():
        of_kind = [_record(step, reading, place) for step in reading.steps if step.kind == kind]
        parts.append(Fold(kind, [Piece(f" {counted(number, 'step')}", "value")], of_kind, "steps"))
    if reading.others:
        others = "These steps are not part of the study's latest run: its file, inputs or families have changed. They are not counted."
        listed_apart: list[Part] = [others, *(_record(step, reading, place) for step in reading.others)]
        parts.append(
            Fold(
                "of other choices",
                [Piece(f" {counted(len(reading.others), 'record')}", "value")],
                listed_apart,
                "steps",
            )
        )
    return Section("records", "How was each result made?", parts, page_only=True)


def reading_it(found: Findings) -> Section:
    """How the numbers were computed, as sentences."""
    reading, estimates = found.reading, found.estimates
    told = [
        "Intervals are 95 %: Wilson's for the right answers of one model; for several families, differences and "
        f"recovered gains from one joint bootstrap of {estimates.resamples:,} draws over model families and, within a "
        "family, over the examples that all models share. Fine-tuning seeds are averaged first.",
        "“Significantly” and the signs ▲ and ▼ mean p < 0.05 after Holm's adjustment within a table. No mark does not "
        "mean equal.",
        "Recovered gain is (score(target + Δ) − score(target)) / (score(tuned target) − score(target)); a dash where "
        "the tuned target's own gain may be zero.",
        "Curves, peaks and steps to match come from validation data; everything else comes from test data.",
    ]
    families = {run.family for run in reading.runs if run.family is not None}
    if len(families) < 2:
        told.append(
            "There is only one model family: intervals cover other questions to these models, not other pretraining "
            "runs."
        )
    elif len(families) < 5:
        told.append(f"There are only {len(families)} model families: intervals over so few families are too narrow.")
    if estimates.without_outcomes:
        told.append(
            f"{counted(estimates.without_outcomes, 'score')} came without outcomes for each example; their "
            f"differences are tested by standard errors, as if on different questions."
        )
    parts: list[Part] = [Bullets(told)]
    parts += [Block("Notes of the study", [Bullets(reading.notes)])] if reading.notes else []
    if reading.text:
        parts.append(Fold("The study file", [], [Pre(reading.text, code=True)], page_only=True))
    return Section("reading", "How should these numbers be read?", parts)


def _record(step: RecordedStep, reading: Reading, place: Path) -> Fold:
    notes = [Piece(step.outcome, f"outcome {step.outcome.replace(' ', '-')}")]
    notes += [Piece(duration(step.seconds), "interval")] if step.seconds is not None else []
    parts: list[Part] = []
    if step.error:
        parts.append(Pre(step.error))
    if step.command:
        parts += ["By hand:", Pre(step.command, code=True)]
    if step.folder and step.record is not None:
        shown = json.dumps(step.record, indent=1, ensure_ascii=False)
        if len(shown) > _LONGEST_RECORD:
            shown = f"{shown[:_LONGEST_RECORD]}\n… {len(shown) - _LONGEST_RECORD:,} more characters in the file"
        parts += [_link(step.folder, reading, place), Pre(shown, code=True)]
    return Fold(step.name, notes, parts or ["It was skipped, so it has no record."], "record", anchor=_anchor(step))


def _link(folder: str, reading: Reading, place: Path) -> Link:
    """A link to a record from `place`; of a study behind a URL its name in the study (a URL may hold a password)."""
    if reading.url is not None:
        return Link(f"{STEPS}/{folder}/{RECORD}", None)
    parts = Path(os.path.relpath(reading.root / STEPS / folder, place.parent)).parts
    return Link(f"{folder}/{RECORD}", "/".join(quote(part, safe="") for part in [*parts, RECORD]))


def _anchor(step: RecordedStep) -> str:
    return f"step-{step.identity or step.folder or step.name}".replace(" ", "-")


def _why(words: str | None) -> Value:
    lines = (words or "").strip().splitlines()
    return Value(lines[0] if lines else "–", style="prose")
