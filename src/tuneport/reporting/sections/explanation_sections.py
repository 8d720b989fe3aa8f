"""Sections on when transfer works: what predicts it, the loss along the paths between models, and their distances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tuneport.reporting.render import figures
from tuneport.reporting.sections.matrix_sections import of_task
from tuneport.reporting.sections.parts import (
    Block,
    Csv,
    Figure,
    Group,
    Part,
    Section,
    Table,
    TableColumn,
    Value,
    optional,
    ratio_value,
)
from tuneport.reporting.tables.predictors import PREDICTORS, Line, Scatter
from tuneport.reporting.tables.report_tables import Findings
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
        "transfer recovered (0: nothing, 1: all of it; dotted). If the target's own fine-tuning gains nothing or "
        "harms, there is nothing to recover and no point. Pairs share versions, so they are not independent; ρ is "
        "Spearman's rank correlation, without a test."
    )
    tasks = list(dict.fromkeys(scatter.task for scatter in found.scatters))
    drawn = {task: [_scatter(scatter) for scatter in found.scatters if scatter.task == task] for task in tasks}
    blocks = [of_task(task, tasks, [Group(drawn[task], "grid")]) for task in tasks]
    return Section("when", "When does it work?", [intro, *blocks])


def paths(found: Findings) -> Section | None:
    """Loss along each path, and all barriers."""
    if not found.lines:
        return None
    threshold = listed(sorted({f"{line.threshold:g}" for line in found.lines if line.threshold is not None}))
    intro = (
        "Loss at points on the straight line between two models' weights; dotted, the straight line between their "
        "losses. The barrier is the highest rise above that line, found on one half of the examples and measured on "
        "the other."
        + (
            f" Called connected where the barrier is significantly below {threshold}, a threshold set beforehand."
            if threshold
            else ""
        )
    )
    parts: list[Part] = [intro]
    for which in dict.fromkeys(line.which for line in found.lines):
        title = _WHICH.get(which, which)
        title = f"{title[0].upper()}{title[1:]}"
        groups = _grouped([line for line in found.lines if line.which == which], title)
        grid = Group([_path_figure(lines, named) for named, lines in groups.items()], "grid")
        parts.append(Block(title, [grid]) if len(groups) > 1 else grid)
    columns = [
        TableColumn("path"), TableColumn("kind"), TableColumn("family", True), TableColumn("seed", True), TableColumn("barrier", True),
        TableColumn("95 % interval", True), TableColumn("at α", True), TableColumn("connected"), TableColumn("n", True),
    ]  # fmt: skip
    rows = [
        [
            Value(line.name),
            Value(_WHICH.get(line.which, line.which)),
            optional(line.family),
            optional(line.seed),
            optional(line.barrier, lambda barrier: minus(f"{barrier:.3f}")),
            Value(span(line.interval, False) or DASH, line.interval[1] if line.interval else None),
            optional(line.at, "{:.2f}".format),
            Value(line.verdict),
            optional(line.n, "{:,}".format),
        ]
        for line in found.lines
    ]
    barriers = Block("Barriers", ["Nats per token.", Table("Barriers of all paths", columns, rows)])
    return Section("paths", "Are the models linearly connected?", [*parts, barriers])


def distances(found: Findings) -> Section | None:
    """How far versions and their diff vectors lie apart."""
    if not found.distances:
        return None
    intro = (
        "Lengths of differences over all parameters: from one version to the other, and from each version to its "
        "fine-tuned model; and the cosine of the angle between the two diff vectors. A dash means that a version has "
        "no diff vector."
    )
    columns = [
        TableColumn("versions"), TableColumn("fine-tuning"), TableColumn("family", True), TableColumn("seed", True),
        TableColumn("‖M_i − M_j‖", True), TableColumn("‖Δ_i‖", True), TableColumn("‖Δ_j‖", True), TableColumn("cos(Δ_i, Δ_j)", True),
    ]  # fmt: skip
    rows = [
        [
            Value(f"{row.a} – {row.b}"),
            Value(row.tuning or DASH),
            optional(row.family),
            optional(row.seed),
            *(optional(value, "{:.4g}".format) for value in (row.distance, row.diff_norm_a, row.diff_norm_b)),
            optional(row.cosine, lambda cosine: minus(f"{cosine:.3f}")),
        ]
        for row in found.distances
    ]
    names = ["a", "b", "tuning", "family", "seed", "distance", "diff_norm_a", "diff_norm_b", "cosine"]
    csv = Csv("distances", names, [list(vars(row).values()) for row in found.distances])
    return Section(
        "distances", "How far apart are the versions?", [intro, Table("Distances of versions", columns, rows, csv)]
    )


def _scatter(scatter: Scatter) -> Figure:
    named, unit = PREDICTORS[scatter.predictor]
    rho, gap = scatter.rank_correlation, "\N{NO-BREAK SPACE}"
    words = counted(len(scatter.points), "pair") + ("." if rho is None else f", ρ{gap}={gap}{minus(f'{rho:.2f}')}.")
    columns = [TableColumn("transfer"), TableColumn(unit, True), TableColumn("recovered gain", True)]
    rows = [
        [
            Value(f"{p.source} → {p.target}{f', {p.tuning}' if p.tuning else ''}"),
            Value(minus(f"{p.x:.4g}"), p.x),
            ratio_value(p.y),
        ]
        for p in scatter.points
    ]
    csv = Csv(
        f"{scatter.predictor}-{scatter.task}",
        ["source", "target", "tuning", scatter.predictor, "recovered_gain", "low", "high", "families"],
        [[p.source, p.target, p.tuning, p.x, p.y.value, *p.y.interval, p.families] for p in scatter.points],
    )
    title, table = f"{named[0].upper()}{named[1:]}.", Table(f"{named}, {scatter.task}", columns, rows)
    return Figure(title, words, figures.scatter_figure(scatter), csv, table)


def _grouped(lines: Sequence[Line], title: str) -> dict[str, list[Line]]:
    """Figures by their names: all paths in one, or one for each target, or one for each path over families and seeds."""
    if len(lines) <= _MOST_LINES:
        return {title: list(lines)}
    by_target, by_name = defaultdict(list), defaultdict(list)
    for line in lines:
        by_target[f"To {line.target}"].append(line)
        by_name[line.name].append(line)
    return by_target if max(map(len, by_target.values())) <= _MOST_LINES else by_name


def _path_figure(group: Sequence[Line], named: str) -> Figure:
    named += "."
    one_pair = len({line.name for line in group}) == 1
    highest = max(group, key=lambda line: line.barrier if line.barrier is not None else float("-inf"))
    words = counted(len(group), "path") + "."
    if highest.barrier is not None:
        words += f" Highest barrier: {minus(f'{highest.barrier:.3f}')} {span(highest.interval, False)}".rstrip()
        words += "." if one_pair or len(group) == 1 else f", {highest.name}."
    columns = [
        TableColumn("path"), TableColumn("family", True), TableColumn("α", True), TableColumn("loss", True), TableColumn("accuracy", True),
    ]  # fmt: skip
    rows, lines = [], []
    for line in group:
        for place, (alpha, loss) in enumerate(zip(line.alphas, line.loss, strict=True)):
            right = None if line.accuracy is None else line.accuracy[place]
            values = Value(f"{alpha:.3f}", alpha), Value(f"{loss:.3f}", loss)
            accuracy = optional(right, lambda share: number(share, True))
            rows.append([Value(line.name), optional(line.family), *values, accuracy])
            known = () if right is None else (right,)
            lines.append([line.name, line.which, line.family, line.seed, alpha, loss, *known])
    csv = Csv(f"path-{named}", ["path", "kind", "family", "seed", "alpha", "loss", "accuracy"], lines)
    return Figure(named, words, figures.line_figure(group), csv, Table(f"Loss along: {named}", columns, rows))
