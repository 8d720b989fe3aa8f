"""Sections with the paper's tables: transfer, transfer then fine-tuning, recycling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tuneport.reporting.render import figures
from tuneport.reporting.sections.curve_figures import curves
from tuneport.reporting.sections.parts import (
    Block,
    Csv,
    Figure,
    Fold,
    Group,
    Legend,
    Part,
    Piece,
    Section,
    Table,
    TableColumn,
    Value,
    change_value,
    ends,
    optional,
    shown_value,
)
from tuneport.reporting.tables.estimates import Change
from tuneport.reporting.tables.further_tuning import Comparison, counted_clear
from tuneport.reporting.tables.matrix import Cell, Matrix
from tuneport.reporting.tables.report_tables import Findings
from tuneport.reporting.tables.wording import (
    FALLEN,
    PER_CENT,
    counted,
    listed,
    minus,
    number,
    points,
    signed,
    with_unit,
)
from tuneport.results.schema import ADAPTED, HEALED, LOSS, PENDING, THEN_TUNED, TRANSFER
from tuneport.results.study_reading import Reading
from tuneport.results.torn_json import number_or, whole

_TWICE = ("at the same steps", "at the same total")
_COUNT = "{:,}".format
_MOST_OPEN = 3  # tasks of a section that are all open


def transfers(found: Findings) -> Section | None:
    """M_i + Δ_j: Tables 1, 3, 7, 8 and 11; the first of them stands with the answer."""
    if len(found.transfers) < 2 and not found.scaled:
        return None
    intro = (
        "What the target scores with the diff vector of another version added, without any training. Rows: the base, "
        "the base with Δ of another version, and the version's own fine-tuning; columns: the version that Δ is added "
        "to."
    )
    parts = [intro, *_matrices(found.transfers, found, "the base")[1:], *_scaled(found)]
    return Section("transfer", "What does addition alone gain on each task?", parts)


def _scaled(found: Findings) -> list[Part]:
    """target + α·Δ beside target + Δ."""
    if not found.scaled:
        return []
    scales = [scale for scale, _ in found.scaled[0].shown]
    columns = [TableColumn("transfer"), TableColumn("task"), *(TableColumn(f"α = {scale:g}", True) for scale in scales)]
    rows, lines = [], []
    for each in found.scaled:
        name = f"{each.target} + α·Δ({each.source}{f', {each.tuning}' if found.reading.several_tunings else ''})"
        rows.append([Value(name), Value(each.task), *(shown_value(shown) for _, shown in each.shown)])
        lines += [
            [each.source, each.target, each.tuning, each.task, scale, shown.value, *ends(shown.interval)]
            for scale, shown in each.shown
            if shown is not None
        ]
    csv = Csv("scales", ["source", "target", "tuning", "task", "scale", "value", "low", "high"], lines)
    return [Block("At other scales", [Table("target + α·Δ", columns, rows, csv)])]


def adapted(found: Findings) -> Section | None:
    """What the ladder made of M_i + Δ_j, beside it."""
    if not found.adapted:
        return None
    intro = (
        "Transfers that `tuneport adapt` went on with, without training on labelled examples unless the study gave some: "
        "a scale, then distillation from the tuned source. A rung is kept only if it is better on prompts of its own; where "
        "none is, the adapted model is the plain transfer. Each step's adapt.json says which rung was chosen."
    )
    return Section(
        "adapted", "What does adapting close of the gap?", [intro, *_matrices(found.adapted, found, "the base")]
    )


def tuned_on(found: Findings) -> Section | None:
    """M_i + Δ_j, fine-tuned: Tables 4, 5, 12 and 13, Figures 2 and 4."""
    panels = [panel for panel in found.panels if panel.kinds == "further fine-tuning"]
    if not found.tuned_on and not panels:
        return None
    intro = (
        "Fine-tuned again after the transfer, with the same data and schedule. Small numbers show what this adds to "
        "the transferred model (as Tables 4 and 12 of the paper do); gains over the base (Table 13) are below, "
        "compared with plain fine-tuning."
    )
    compared = [row for row in found.compared if row.model.kind == THEN_TUNED]
    parts = [
        intro,
        *_matrices(found.tuned_on, found, "the transferred model"),
        *_compared(compared, found, THEN_TUNED),
        *curves(panels, found),
    ]
    return Section("further", "Does fine-tuning from a transferred start help?", parts)


def recycled(found: Findings) -> Section | None:
    """Algorithm 1: Table 6 and Figure 3."""
    if not found.recycled:
        return None
    several = found.reading.several_tunings
    intro = (
        "Algorithm 1 of the paper: Δ of the previous version, which itself started from a Δ (iterative), against Δ of "
        "a separately fine-tuned version (direct), against no recycling. Small numbers are gains over the base."
    )
    parts: list[Part] = [intro]
    if any(run.model.kind == HEALED for run in found.reading.at_end):
        parts.append("“→ adapted → FT” is iterative too; each of its transfers was adapted before its fine-tuning.")
    tasks = [matrix.task for matrix in found.recycled]
    for matrix in found.recycled:
        words = "Score version by version; lines are iterative, direct and no recycling."
        drawn = figures.recycling_figure(matrix, several)
        figure = Figure("Iterative, direct, none.", words, drawn, _csv(matrix, "recycling", several))
        parts.append(of_task(matrix.task, tasks, [_beside(figure, matrix, "the base")], _basis(matrix)))
    compared = [row for row in found.compared if row.model.kind != THEN_TUNED]
    parts += _against_direct(found)
    parts += _compared(compared, found, "recycling")
    parts += curves([panel for panel in found.panels if panel.kinds == "recycling"], found)
    return Section("recycling", "Does recycling version after version help?", [*parts, *_rounding(found.reading)])


def of_task(task: str, among: Iterable[str], parts: Sequence[Part], basis: str | None = None) -> Block:
    """What a section says of one task.

    Folded where it is the loss of answers that are shown themselves, and, where there are many tasks, all but the first.
    """
    every = list(among)
    of_loss = task.endswith(LOSS) and task.removesuffix(LOSS) in every
    return Block(task, parts, basis, folded=of_loss or (len(every) > _MOST_OPEN and task != every[0]))


def block(matrix: Matrix, parts: Sequence[Part]) -> Block:
    """A matrix by itself, never folded."""
    return Block(matrix.task, parts, _basis(matrix))


def _matrices(matrices: Sequence[Matrix], found: Findings, over: str) -> list[Part]:
    tasks = [matrix.task for matrix in matrices]
    return [of_task(matrix.task, tasks, [pair(matrix, found, over)], _basis(matrix)) for matrix in matrices]


def pair(matrix: Matrix, found: Findings, over: str) -> Group:
    """A matrix by colour and, beside it, by its numbers."""
    several = found.reading.several_tunings
    drawn, csv = figures.heat_map(matrix, several), _csv(matrix, matrix.kind, several)
    return _beside(Figure("Heat map.", _matrix_words(matrix, several), drawn, csv), matrix, over)


def _beside(figure: Figure, matrix: Matrix, over: str) -> Group:
    unit = "per cent" if matrix.share else f"{matrix.metric} (lower is better; a gain is how far it fell)"
    legend = (
        f"In {unit}. Beside each number is its gain over {over}, below it the 95 % interval. Bold: best in its row. "
        "★ best Δ for its target. ▲ significantly better than the base, ▼ significantly worse."
    )
    columns = [TableColumn("model"), *(TableColumn(target, True, f"target {target}") for target in matrix.targets)]
    rows = [[Value(row.label), *(_cell(cell, matrix.share, row.role) for cell in row.cells)] for row in matrix.rows]
    named = {TRANSFER: "addition alone", ADAPTED: "adapted transfers", THEN_TUNED: "transfer, then fine-tuning"}
    what = named.get(matrix.kind, matrix.kind)
    caption = f"{what}, {matrix.task}: rows are base, + Δ and fine-tuned, columns are targets"
    styles = [f"role-{row.role}" for row in matrix.rows]
    table = Table(caption, columns, rows, style="matrix", row_styles=styles)
    return Group([figure, Group([table, Legend(legend)], "beside")], "pair")


def _cell(cell: Cell | None, share: bool, role: str) -> Value:
    """A number with its interval, what it gains, and the published one where there is one."""
    if cell is None:
        return Value((Piece("·", "nothing"),), style="empty")
    published = (
        []
        if cell.published is None
        else [Piece(f"paper {minus(f'{cell.published:.1f}')}", "published", "published, in another setup")]
    )
    if cell.shown is None:
        style = "pending" if cell.word == PENDING else "missing"
        return Value((Piece(cell.word, style, cell.reason), *published), style="empty")
    value, interval, (done, asked) = number(cell.shown.value, share), cell.shown.interval, cell.results
    told = [Piece(value, "best", "best in its row") if cell.best_of_row else Piece(value, "value")]
    told += [Piece("★", "mark", f"best Δ for {cell.model.target}")] if cell.best_of_target else []
    told += [Piece("▲", "mark", "significantly above the base")] if cell.clearly > 0 else []
    told += [Piece("▼", "mark", "significantly below the base")] if cell.clearly < 0 else []
    if cell.gain is not None and role != "base":
        told.append(Piece(signed(cell.gain.value, share), "gain", points(cell.gain, share)))
    if interval is not None:
        told.append(Piece(f"{number(interval[0], share)}–{number(interval[1], share)}", "interval"))
    if done < asked:
        waits = cell.pending == asked - done
        why = f"{asked - done} of {asked} results are {PENDING if waits else 'missing'}"
        told.append(Piece(f"{done} of {asked}", "pending" if waits else "missing", why))
    return Value((*told, *published), cell.shown.value, "worse" if cell.clearly < 0 else None)


def _csv(matrix: Matrix, kind: str, several: bool) -> Csv:
    """The same as lines: one model a line."""
    columns = ["model", "kind", "source", "target", "tuning", "task", "metric", "status", "value", "low", "high", "n"]
    columns += ["families", "seeds", "gain", "gain_low", "gain_high", "gain_over", "clear_against_base"]
    columns += ["recovered_gain", "recovered_low", "recovered_high", "published"]
    lines = []
    for row in matrix.rows:
        for cell in row.cells:
            if cell is None:
                continue
            model, shown, recovered = cell.model, cell.shown, cell.recovered
            lines.append(
                [
                    *(model.name(several), model.kind, model.source, model.target, model.tuning),
                    *(matrix.task, matrix.metric, cell.status),
                    *(
                        (shown.value, *ends(shown.interval), shown.n, shown.families, shown.seeds)
                        if shown
                        else [None] * 6
                    ),
                    *_ends_of(cell.gain),
                    cell.over.name(several) if cell.over else None,
                    {1: "better", -1: "worse", 0: "neither"}[cell.clearly] if row.role != "base" else None,
                    *((recovered.value, *recovered.interval) if recovered else [None] * 3),
                    cell.published,
                ]
            )
    return Csv(f"{kind}-{matrix.task}", columns, lines)


def _basis(matrix: Matrix) -> str:
    told = [f"{matrix.metric}, n = {matrix.n:,}" if matrix.metric else f"n = {matrix.n:,}"]
    told += [counted(matrix.families, "family", "families")] if matrix.families > 1 else []
    told += [counted(matrix.seeds, "seed")] if matrix.seeds > 1 else []
    return ", ".join(told)


def _matrix_words(matrix: Matrix, several: bool) -> str:
    """The figure in a sentence."""
    known = [(cell, cell.shown) for cell in matrix.deltas if cell.shown is not None]
    if not known:
        return "No model with a diff vector is scored yet."
    higher = matrix.share or known[0][1].score.higher_is_better
    best, shown = max(known, key=lambda pair: pair[1].value if higher else -pair[1].value)
    told = f"{'Highest' if higher else 'Lowest'} with Δ: {best.model.name(several)}, {with_unit(shown)}."
    changed = [cell for cell in matrix.changed if cell.shown is not None]
    worse = [cell.model.name(several) for cell in changed if cell.clearly < 0]
    if not worse:
        return f"{told} None is significantly worse than its base."
    named = listed(worse) if len(worse) <= 3 else f"{len(worse)} of {len(changed)}"
    return f"{told} Significantly worse than the base: {named}."


def _against_direct(found: Findings) -> list[Part]:
    rows = found.against_direct
    if not rows:
        return []
    several = found.reading.several_tunings
    columns = [
        TableColumn("version"), TableColumn("task"),
        TableColumn(_TWICE[0], True, "iterative minus direct, both fine-tuned for the same number of steps on this "
            "version"),
        TableColumn(_TWICE[1], True, "iterative minus direct, with the same total of steps, including those for "
            "earlier versions"),
        TableColumn("steps in all, iterative", True), TableColumn("direct", True),
    ]  # fmt: skip
    shown = [
        [
            Value(row.model.target + (f", {row.model.tuning}" if several else "")),
            Value(row.task),
            *_changes(row),
            *(optional(total, _COUNT) for total in row.totals),
        ]
        for row in rows
    ]
    csv = Csv(
        "iterative-against-direct",
        ["version", "tuning", "task", *_columns("same_steps", "same_total"), "steps_iterative", "steps_direct"],
        [[row.model.target, row.model.tuning, row.task, *_ends_of(*row.changes), *row.totals] for row in rows],
    )
    words = (
        f"Iterative minus direct, twice: at the same steps for this version (the paper's comparison), where the "
        f"iterative model has the steps of all earlier versions too, and at the same total of steps. The first "
        f"version of a chain is the same model in both.{_fallen(rows)}"
    )
    return [Block("Iterative against direct", [words, Table("Iterative minus direct", columns, shown, csv)])]


def _changes(row: Comparison) -> list[Value]:
    return [change_value(change, row.share, sign) for change, sign in zip(row.changes, row.clearly, strict=True)]


def _fallen(rows: Iterable[Comparison]) -> str:
    return "" if all(row.share for row in rows) else f" {FALLEN}"


def _columns(*differences: str) -> list[str]:
    """Headings of differences as CSV, each followed by the ends of its interval."""
    return [f"{name}{end}" for name in differences for end in ("", "_low", "_high")]


def _ends_of(*changes: Change | None) -> list[float | None]:
    """What stands under these headings."""
    return [value for c in changes for value in ((None, None, None) if c is None else (c.value, *ends(c.interval)))]


def _compared(rows: Sequence[Comparison], found: Findings, name: str) -> list[Part]:
    if not rows:
        return []
    several = found.reading.several_tunings
    lines = [
        [
            *(row.model.name(several), row.task, row.shown.value),
            *_ends_of(row.over_base, *row.changes),
            *row.totals,
        ]
        for row in rows
    ]
    names = ["model", "task", "value", *_columns("over_base", "same_steps", "same_total"), "steps_in_all"]
    words = (
        f"Each appears twice: against FT of its version at the same steps (the paper's comparison), and at the same "
        f"total of steps. A cell is empty where no fine-tuning had as many.{_fallen(rows)}"
    )
    what = "Transferred and tuned" if name == THEN_TUNED else "Recycled"
    folds: list[Part] = []
    csv: Csv | None = Csv(f"{name}-against-plain", names, lines)
    for task in dict.fromkeys(row.task for row in rows):
        folds.append(_compared_on(task, [row for row in rows if row.task == task], several, csv, what))
        csv = None  # one file holds all tasks
    return [Block("Against plain fine-tuning", [words, *folds])]


def _compared_on(task: str, rows: Sequence[Comparison], several: bool, csv: Csv | None, what: str) -> Fold:
    columns = [
        TableColumn("model"), TableColumn("score", True), TableColumn("over the base", True),
        TableColumn(_TWICE[0], True, "minus plain fine-tuning for as many steps as this version had"),
        TableColumn(_TWICE[1], True, "minus plain fine-tuning for as many steps as the model had in total"),
        TableColumn("steps in all", True),
    ]  # fmt: skip
    body = [
        [
            Value(row.model.name(several)),
            shown_value(row.shown),
            change_value(row.over_base, row.share),
            *_changes(row),
            *(optional(total, _COUNT) for total in row.totals),
        ]
        for row in rows
    ]
    told = []
    for which, words in enumerate(_TWICE):
        known, above, below = counted_clear(rows, which)
        told += [f"{words} {above} of {known} significantly above, {below} significantly below"] if known else []
    notes = [Piece(f": {'; '.join(told)}", "value")] if told else []
    table = Table(f"{what} against plain fine-tuning, {task}", columns, body, csv)
    return Fold(task, notes, [table], open=len(rows) <= 8)


def _rounding(reading: Reading) -> list[Part]:
    """What keeping Δ in a smaller dtype would have lost, with the dtype that the study used."""
    if not reading.rounding:
        return []
    columns = [
        TableColumn("Δ of"), TableColumn("family", True), TableColumn("seed", True), TableColumn("kept in"),
        TableColumn("share of ‖Δ‖ lost", True), TableColumn("elements rounded away", True),
    ]  # fmt: skip
    rows = []
    for row in reading.rounding:
        gone, changed = whole(row.get("vanished")), whole(row.get("changed"))
        lost = number_or(row.get("share_lost"), None)
        vanished = gone / changed if gone is not None and changed else None
        which = [optional(whole(row.get(name))) for name in ("family", "seed")]
        shares: list[Any] = [optional(each, lambda share: f"{100 * share:.2f}{PER_CENT}") for each in (lost, vanished)]
        rows.append([Value(str(row.get("tuned", "?"))), *which, Value(str(row.get("dtype", "?"))), *shares])
    words = "What is lost if a fine-tuned model is stored in another dtype and its Δ is computed from that."
    if reading.carried is not None:
        words += f" The study itself kept Δ in {reading.carried}"
        same = any(row.get("dtype") == reading.carried for row in reading.rounding)
        words += ": its own loss is not in these numbers." if same else "."
    return [Block("Rounding", [words, Table("What another dtype would have lost", columns, rows)])]
