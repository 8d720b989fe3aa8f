"""Sections on when transfer works: what predicts it, the loss along the paths between models, and their distances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tuneport.reporting.render import figures
from tuneport.reporting.render.html_tables import Column, Value, download, ratio_value, table
from tuneport.reporting.render.markup import Markup, tag
from tuneport.reporting.render.sections import Section
from tuneport.reporting.render.sections.figure import figure
from tuneport.reporting.render.sections.tasks import of_task
from tuneport.reporting.tables.findings import Findings
from tuneport.reporting.tables.predictors import PREDICTORS, Line, Scatter
from tuneport.reporting.tables.wording import DASH, counted, listed, minus, number, span

_MOST_LINES = 8  # in one figure of paths
_WHICH = {
    "bases": "between versions",
    "tuned": "between tuned versions",
    "transferred to tuned": "from target + Δ to the tuned target",
    "along Δ": "from target along α·Δ",
}


def predictors(found: Findings) -> Section | None:
    """What might predict a transfer, against how much it recovered."""
    if not found.scatters:
        return None
    intro = (
        "Each point is a pair of versions: how far apart they are, against how much of the target's fine-tuning gain their "
        "transfer recovered (0: nothing, 1: all of it; dotted). Where the target's own fine-tuning gains nothing, or harms, there "
        "is nothing to recover, and no point. Pairs share versions and are not independent; ρ is Spearman's rank correlation, "
        "without a test."
    )
    content: list[Any] = [tag("p", intro)]
    tasks = list(dict.fromkeys(scatter.task for scatter in found.scatters))
    for task in tasks:
        drawn = [_scatter(scatter) for scatter in found.scatters if scatter.task == task]
        content.append(of_task(task, tasks, tag("div", drawn, class_="grid")))
    return "when", "When does it work?", content


def paths(found: Findings) -> Section | None:
    """Loss along each path, and all barriers."""
    if not found.lines:
        return None
    threshold = listed(sorted({f"{line.threshold:g}" for line in found.lines if line.threshold is not None}))
    intro = (
        "Loss at points on the straight line between two models' weights; dotted, the straight line between their losses. The "
        "barrier is the highest rise above it, located on one half of the examples and measured on the other."
        + (
            f" Called connected where the barrier is clearly below {threshold}, a threshold stated beforehand."
            if threshold
            else ""
        )
    )
    content: list[Any] = [tag("p", intro)]
    for which in dict.fromkeys(line.which for line in found.lines):
        of_kind = [line for line in found.lines if line.which == which]
        title = _WHICH.get(which, which)
        title = f"{title[0].upper()}{title[1:]}"
        groups = _grouped(of_kind, title)
        if len(groups) > 1:
            content.append(tag("h3", title))
        content.append(tag("div", [_path_figure(lines, named) for named, lines in groups.items()], class_="grid"))
    columns = [
        Column("path"), Column("kind"), Column("family", True), Column("seed", True), Column("barrier", True),
        Column("95 % interval", True), Column("at α", True), Column("connected"), Column("n", True),
    ]  # fmt: skip
    rows = [
        [
            Value(line.name),
            Value(_WHICH.get(line.which, line.which)),
            Value(DASH if line.family is None else str(line.family), line.family),
            Value(DASH if line.seed is None else str(line.seed), line.seed),
            Value(DASH if line.barrier is None else minus(f"{line.barrier:.3f}"), line.barrier),
            Value(span(line.interval, False) or DASH, line.interval[1] if line.interval else None),
            Value(DASH if line.at is None else f"{line.at:.2f}", line.at),
            Value(line.verdict),
            Value(DASH if line.n is None else f"{line.n:,}", line.n),
        ]
        for line in found.lines
    ]
    return (
        "paths",
        "Loss along the paths",
        [*content, tag("h3", "Barriers"), table("Barriers of all paths", columns, rows)],
    )


def distances(found: Findings) -> Section | None:
    """How far versions and their diff vectors lie apart."""
    if not found.distances:
        return None
    intro = (
        "Lengths of differences over all parameters: from one version to the other, and from each version to its fine-tuned "
        "model; and the cosine of the angle between the two diff vectors. A dash stands where a version has no diff vector."
    )
    columns = [
        Column("versions"), Column("fine-tuning"), Column("family", True), Column("seed", True),
        Column("‖M_i − M_j‖", True), Column("‖Δ_i‖", True), Column("‖Δ_j‖", True), Column("cos(Δ_i, Δ_j)", True),
    ]  # fmt: skip
    rows = [
        [
            Value(f"{row.a} – {row.b}"),
            Value(row.tuning or DASH),
            Value(DASH if row.family is None else str(row.family), row.family),
            Value(DASH if row.seed is None else str(row.seed), row.seed),
            *(
                Value(DASH if value is None else f"{value:.4g}", value)
                for value in (row.distance, row.diff_norm_a, row.diff_norm_b)
            ),
            Value(DASH if row.cosine is None else minus(f"{row.cosine:.3f}"), row.cosine),
        ]
        for row in found.distances
    ]
    csv = download(
        "distances",
        ["a", "b", "tuning", "family", "seed", "distance", "diff_norm_a", "diff_norm_b", "cosine"],
        [list(vars(row).values()) for row in found.distances],
    )
    content = [tag("p", intro), table("Distances of versions", columns, rows), tag("div", csv, class_="under")]
    return "distances", "Distances", content


def _scatter(scatter: Scatter) -> Markup:
    named, unit = PREDICTORS[scatter.predictor]
    rho = scatter.rank_correlation
    words = f"{counted(len(scatter.points), 'pair')}" + (
        "." if rho is None else f", ρ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{minus(f'{rho:.2f}')}."
    )
    columns = [Column("transfer"), Column(unit, True), Column("recovered gain", True)]
    rows = [
        [
            Value(f"{p.source} → {p.target}{f', {p.tuning}' if p.tuning else ''}"),
            Value(minus(f"{p.x:.4g}"), p.x),
            ratio_value(p.y),
        ]
        for p in scatter.points
    ]
    csv = download(
        f"{scatter.predictor}-{scatter.task}",
        ["source", "target", "tuning", scatter.predictor, "recovered_gain", "low", "high", "families"],
        [[p.source, p.target, p.tuning, p.x, p.y.value, *p.y.interval, p.families] for p in scatter.points],
    )
    title = f"{named[0].upper()}{named[1:]}."
    return figure(title, words, figures.scatter_figure(scatter), csv, table(f"{named}, {scatter.task}", columns, rows))


def _grouped(lines: Sequence[Line], title: str) -> dict[str, list[Line]]:
    """Figures by their names: all paths in one, or one for each target, or one for each path over families and seeds."""
    if len(lines) <= _MOST_LINES:
        return {title: list(lines)}
    by_target, by_name = defaultdict(list), defaultdict(list)
    for line in lines:
        by_target[f"To {line.target}"].append(line)
        by_name[line.name].append(line)
    return by_target if max(map(len, by_target.values())) <= _MOST_LINES else by_name


def _path_figure(group: Sequence[Line], named: str) -> Markup:
    named += "."
    one_pair = len({line.name for line in group}) == 1
    highest = max(group, key=lambda line: line.barrier if line.barrier is not None else float("-inf"))
    words = counted(len(group), "path") + "."
    if highest.barrier is not None:
        words += f" Highest barrier: {minus(f'{highest.barrier:.3f}')} {span(highest.interval, False)}".rstrip()
        words += "." if one_pair or len(group) == 1 else f", {highest.name}."
    lines = [
        [
            line.name,
            line.which,
            line.family,
            line.seed,
            alpha,
            loss,
            *(() if line.accuracy is None else (line.accuracy[place],)),
        ]
        for line in group
        for place, (alpha, loss) in enumerate(zip(line.alphas, line.loss, strict=True))
    ]
    columns = [
        Column("path"),
        Column("family", True),
        Column("α", True),
        Column("loss", True),
        Column("accuracy", True),
    ]
    rows = [
        [
            Value(line[0]),
            Value(DASH if line[2] is None else str(line[2]), line[2]),
            Value(f"{line[4]:.3f}", line[4]),
            Value(f"{line[5]:.3f}", line[5]),
            Value(number(line[6], True), line[6]) if len(line) > 6 else Value(DASH),
        ]
        for line in lines
    ]
    csv = download(f"path-{named}", ["path", "kind", "family", "seed", "alpha", "loss", "accuracy"], lines)
    return figure(named, words, figures.line_figure(group), csv, table(f"Loss along: {named}", columns, rows))
