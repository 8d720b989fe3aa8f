"""The paper's tables: rows are base, + Δ_j and FT; columns are the versions that Δ is added to.

A `Matrix` for each task of a study: Tables 1, 3, 7, 8 and 11 for transfer, Tables 4, 12 and 13 for transfer, then
fine-tuning. HTML and Markdown both print it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneport.reporting.tables.estimates import Change, Estimates, ShownScore, clear
from tuneport.results.compared_models import base_of, start_of, tuned_of
from tuneport.results.schema import (
    ADAPTED,
    BASE,
    DIRECT,
    DONE,
    FAILED,
    HEALED,
    ITERATIVE,
    NOT_RUN,
    PENDING,
    RECYCLED,
    THEN_TUNED,
    TRANSFER,
    TUNED,
    Model,
    Run,
)
from tuneport.results.study_reading import Reading
from tuneport.statistics import Estimate


@dataclass(frozen=True)
class Cell:
    """One model of a table. `gain` is over the model `over` (the base, or M_i + Δ_j where it was tuned on)."""

    model: Model
    status: str
    reason: str | None = None
    shown: ShownScore | None = None
    gain: Change | None = None
    over: Model | None = None
    against_base: Change | None = None
    clearly: int = 0  # against the base: 1 better, −1 worse, after Holm's adjustment among models of a kind
    recovered: Estimate | None = None
    published: float | None = None
    results: tuple[int, int] = (0, 0)  # how many are there, of how many families and seeds that were asked for
    pending: int = 0  # how many of them are still to come
    best_of_row: bool = False
    best_of_target: bool = False

    @property
    def word(self) -> str:
        """The text for a missing score."""
        if self.pending and self.pending == self.results[1]:
            return PENDING
        return self.status if self.status != DONE else "no score"


@dataclass(frozen=True)
class Row:
    """A row of a table: its label, and a cell for each target, None where there is nothing to be (the diagonal)."""

    label: str
    role: str  # base, delta or tuned
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """One table."""

    kind: str
    task: str
    metric: str
    share: bool
    targets: tuple[str, ...]
    rows: tuple[Row, ...]
    families: int
    seeds: int
    n: int

    @property
    def deltas(self) -> list[Cell]:
        """The cells of models that a diff vector was added to."""
        return [cell for row in self.rows if row.role == "delta" for cell in row.cells if cell is not None]

    @property
    def changed(self) -> list[Cell]:
        """The cells of all models that are compared with their base."""
        return [cell for row in self.rows if row.role != "base" for cell in row.cells if cell is not None]


def matrices(reading: Reading, estimates: Estimates, kind: str) -> list[Matrix]:
    """A table for each task on which models of this kind (transfer, adapted, transfer-then-tune) were, or should be, scored."""
    wanted = [run for run in reading.at_end if run.model.kind == kind and run.model.scale == run.model.rate == 1]
    return [_matrix(reading, estimates, kind, task, wanted) for task in _tasks(wanted, estimates)]


def _tasks(wanted: Sequence[Run], estimates: Estimates) -> list[str]:
    if not wanted:
        return []
    return [task for task in estimates.tasks if any(task in run.scores for run in wanted)] or list(estimates.tasks)


def _matrix(reading: Reading, estimates: Estimates, kind: str, task: str, wanted: Sequence[Run]) -> Matrix:
    # A tuning has a row only where its models were asked this task (each language its own test).
    scored_on = {run.model.tuning for run in reading.at_end if run.model.kind != BASE and task in run.scores}
    order = _order(reading)
    pairs = {(run.model.source or "", run.model.tuning): None for run in wanted if run.model.tuning in scored_on}
    targets = sorted({run.model.target for run in wanted}, key=order)
    cells = _Cells(reading, estimates, task, (kind,))

    def row(label: str, role: str, models: Iterable[Model], over: Callable[[Model], Model] | None) -> Row:
        made = [cells.of(model, None if over is None else over(model)) for model in models]
        return Row(label, role, tuple(made))

    rows = [row("base", "base", (Model(BASE, None, target) for target in targets), None)]
    arrow, over = {THEN_TUNED: (" → FT", start_of), ADAPTED: (" → adapted", base_of)}.get(kind, ("", base_of))
    for source, tuning in sorted(pairs, key=lambda pair: order(pair[0])):
        label = f"+ Δ({source}{cells.of_tuning(tuning)})"
        if kind == ADAPTED:  # beside what it began as, where that is scored too
            plain = row(label, "delta", (Model(TRANSFER, source, target, tuning) for target in targets), over)
            rows += [plain] if any(plain.cells) else []
        rows.append(row(label + arrow, "delta", (Model(kind, source, target, tuning) for target in targets), over))
    for tuning in dict.fromkeys(tuning for _, tuning in sorted(pairs, key=lambda pair: order(pair[0]))):
        label = f"FT(·{cells.of_tuning(tuning)})"
        tuned = row(label, "tuned", (Model(TUNED, None, target, tuning) for target in targets), base_of)
        rows += [tuned] if any(tuned.cells) else []
    return _whole(kind, task, targets, rows)


def recycling(reading: Reading, estimates: Estimates) -> list[Matrix]:
    """Iterative against direct against none (Table 6), on each task; gains count from M_i."""
    wanted = [run for run in reading.at_end if run.model.kind in RECYCLED and run.model.steps is None]
    found = [
        _recycled(reading, estimates, task, [run.model for run in wanted if run.model.tuning == tuning])
        for tuning in dict.fromkeys(run.model.tuning for run in wanted)
        for task in _tasks(wanted, estimates)
    ]
    return [matrix for matrix in found if matrix.n]


def _recycled(reading: Reading, estimates: Estimates, task: str, made: Sequence[Model]) -> Matrix:
    tuning = made[0].tuning
    recycled = {(model.kind, model.target): model for model in made}
    targets = sorted({model.target for model in made}, key=_order(reading))
    cells = _Cells(reading, estimates, task, RECYCLED)
    of = cells.of_tuning(tuning)

    def cell(kind: str, target: str) -> Cell | None:
        model = recycled.get((kind, target)) or Model(kind, None, target, None if kind == BASE else tuning)
        return cells.of(model, None if kind == BASE else base_of(model), share=False)

    kinds = (
        (BASE, "base", "base"),
        (TUNED, f"FT(·{of}), nothing recycled", "tuned"),
        (DIRECT, f"+ Δdir{of} → FT", "delta"),
        (ITERATIVE, f"+ Δiter{of} → FT", "delta"),
        (HEALED, f"+ Δiter{of} → adapted → FT", "delta"),
    )
    rows = [Row(label, role, tuple(cell(kind, target) for target in targets)) for kind, label, role in kinds]
    return _whole("recycling", task, targets, [row for row in rows if any(row.cells)])


def _order(reading: Reading) -> Callable[[str], int]:
    place = {name: number for number, name in enumerate(reading.versions)}
    return lambda name: place.get(name, 0)


class _Cells:
    """The cells of one table: each model's score, what it gains, and what the paper has."""

    def __init__(self, reading: Reading, estimates: Estimates, task: str, kinds: Collection[str]) -> None:
        self._reading, self._estimates, self._task, self._kinds = reading, estimates, task, kinds
        self._runs: dict[Model, list[Run]] = {}
        for run in reading.at_end:
            self._runs.setdefault(run.model, []).append(run)

    def of_tuning(self, tuning: str | None) -> str:
        """The tuning's name for a label, where a study has several."""
        return f", {tuning}" if self._reading.several_tunings and tuning else ""

    def of(self, model: Model, over: Model | None, share: bool = True) -> Cell | None:
        """A model's cell; None where nothing was asked of it. `share`: with the recovered gain of a transfer."""
        task, runs, estimates = self._task, self._runs.get(model), self._estimates
        if runs is None:
            return None
        status, reason = _status(runs)
        shown = estimates.value(model, task)
        if status == DONE and shown is None:
            return None
        base = base_of(model)
        recovered = (
            estimates.recovered(base, model, tuned_of(model), task) if share and model.source and shown else None
        )
        return Cell(
            model=model,
            status=status if shown is None else DONE,
            reason=reason if shown is None else None,
            shown=shown,
            results=(sum(task in run.scores for run in runs), len(runs)),
            pending=sum(run.pending and task not in run.scores for run in runs) if status != FAILED else 0,
            gain=None if over is None else estimates.change(model, over, task),
            over=over,
            against_base=None if model.kind == BASE else estimates.change(model, base, task),
            recovered=recovered,
            published=_published(self._reading.expected, task, model, self._kinds),
        )


def _status(runs: Sequence[Run]) -> tuple[str, str | None]:
    """What became of a model: done if any of its results is there, else failed or not run, with the first reason."""
    order = {DONE: 0, FAILED: 1, NOT_RUN: 2}
    best = min(runs, key=lambda run: order.get(run.status, 3))
    return best.status, best.error


def _whole(kind: str, task: str, targets: Sequence[str], rows: Sequence[Row]) -> Matrix:
    marked = tuple(_marked(rows))
    one = next((c.shown for row in marked for c in row.cells if c is not None and c.shown is not None), None)
    if one is None:
        return Matrix(kind, task, "", True, tuple(targets), marked, 0, 0, 0)
    score = one.score
    return Matrix(kind, task, score.metric, score.is_share, tuple(targets), marked, one.families, one.seeds, one.n)


def without_result(runs: Iterable[Run]) -> list[Model]:
    """The models of which nothing is there at all, not a single score."""
    found: dict[Model, bool] = {}
    for run in runs:
        found[run.model] = found.get(run.model, True) and run.missing
    return [model for model, nothing in found.items() if nothing]


def _marked(rows: Sequence[Row]) -> list[Row]:
    """The rows with the best of each row, the best Δ of each target, and what is significantly above or below base marked."""
    signs = _clear_by_kind([cell for row in rows if row.role != "base" for cell in row.cells if cell])
    best_of_target: set[Model] = set()
    for place in range(len(rows[0].cells) if rows else 0):
        column = [row.cells[place] for row in rows if row.role == "delta"]
        best_of_target |= _best(column)
    found = []
    for row in rows:
        best = _best(row.cells)
        cells = tuple(
            cell
            and replace(
                cell,
                clearly=signs.get(cell.model, 0),
                best_of_row=cell.model in best,
                best_of_target=cell.model in best_of_target,
            )
            for cell in row.cells
        )
        found.append(replace(row, cells=cells))
    return found


def _clear_by_kind(cells: Iterable[Cell]) -> dict[Model, int]:
    """Significant differences from the base, adjusted among models of a kind; recyclings are one kind."""
    kinds: dict[str, dict[Model, Change | None]] = {}
    for cell in cells:
        kind = "recycle" if cell.model.kind in RECYCLED else cell.model.kind
        kinds.setdefault(kind, {})[cell.model] = cell.against_base
    return {model: sign for changes in kinds.values() for model, sign in clear(changes).items()}


def _best(cells: Iterable[Cell | None]) -> set[Model]:
    """The models with the highest score (or the lowest loss) of several; of one, or of equals, nobody is the best."""
    known = [(cell.model, cell.shown) for cell in cells if cell is not None and cell.shown is not None]
    if len(known) < 2:
        return set()
    sign = 1 if known[0][1].score.higher_is_better else -1
    values = [sign * shown.value for _, shown in known]
    top = max(values)
    if min(values) == top:
        return set()  # nor of equals
    return {model for model, shown in known if sign * shown.value == top}


def _published(expected: Sequence[Mapping[str, Any]], task: str, model: Model, kinds: Collection[str]) -> float | None:
    """The paper's number for this model and task, as it is printed there (per cent).

    Where several of its tables have one, that of a table that holds models of these `kinds` as well: FT(M5) on GSM8K is 75.5
    in Table 3 and 75.6 in Table 6.
    """
    alike = {row.get("table") for row in expected if row.get("task") == task and row.get("kind") in kinds}
    fitting = [row for row in expected if row.get("task") == task and _is_of(row, model)]
    fitting.sort(key=lambda row: row.get("table") not in alike)
    return float(fitting[0]["value"]) if fitting else None


def _is_of(row: Mapping[str, Any], model: Model) -> bool:
    """Whether a number that was expected is one of this model."""
    tuning = row.get("tuning") or model.tuning
    return (
        row.get("kind") == model.kind
        and (row.get("source") or None) == model.source
        and row.get("target") == model.target
        and (model.kind == BASE or model.tuning is None or tuning == model.tuning)
        and isinstance(row.get("value"), int | float)
    )


@dataclass(frozen=True)
class Scaled:
    """target + α·Δ for several α: what each scores."""

    source: str
    target: str
    tuning: str | None
    task: str
    shown: tuple[tuple[float, ShownScore | None], ...]


def scaled(reading: Reading, estimates: Estimates) -> list[Scaled]:
    """Every transfer that was done at several scales, on each task."""
    moved = [run.model for run in reading.at_end if run.model.kind == TRANSFER]
    scales = sorted({model.scale for model in moved})
    if len(scales) < 2:
        return []
    found = []
    for task in estimates.tasks:
        for model in dict.fromkeys(replace(model, scale=1.0) for model in moved):
            shown = tuple((scale, estimates.value(replace(model, scale=scale), task)) for scale in scales)
            if any(each for _, each in shown):
                found.append(Scaled(str(model.source), model.target, model.tuning, task, shown))
    return found
