"""The paper's tables: rows base, + Δ_j, FT; columns the versions that Δ is added to.

In come a study's runs and estimates, out comes a `Matrix` for each task: Tables 1, 3, 7, 8 and 11 for transfer, Tables
4, 12 and 13 for transfer, then fine-tuning. The page and the markdown both print it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneport.reporting.tables.estimates import Change, Estimates, Shown, clear
from tuneport.reporting.tables.scored_models import (
    BASE,
    DIRECT,
    DONE,
    ITERATIVE,
    THEN_TUNED,
    TRANSFER,
    TUNED,
    Model,
    Run,
)
from tuneport.reporting.tables.study_reading import Reading
from tuneport.statistics import Estimate

FAILED, NOT_RUN, ABSENT = "failed", "not run", "absent"


@dataclass(frozen=True)
class Cell:
    """One model of a table. `gain` is over the model `over` (the base, or M_i + Δ_j where it was tuned on)."""

    model: Model
    status: str
    reason: str | None = None
    shown: Shown | None = None
    gain: Change | None = None
    over: Model | None = None
    against_base: Change | None = None
    clearly: int = 0  # against the base: 1 better, −1 worse, after Holm's adjustment among models of a kind
    recovered: Estimate | None = None
    published: float | None = None
    results: tuple[int, int] = (0, 0)  # how many are there, of how many families and seeds that were asked for
    best_of_row: bool = False
    best_of_target: bool = False


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
    def cells(self) -> list[Cell]:
        """Every cell that there is."""
        return [cell for row in self.rows for cell in row.cells if cell is not None]

    @property
    def changed(self) -> list[Cell]:
        """The cells of all models that stand against their base."""
        return [cell for row in self.rows if row.role != "base" for cell in row.cells if cell is not None]


def matrices(reading: Reading, estimates: Estimates, kind: str) -> list[Matrix]:
    """A table for each task on which models of this kind (transfer, transfer-then-tune) were, or should be, scored."""
    at_end = [run for run in reading.runs if run.step is None]
    wanted = [run for run in at_end if run.model.kind == kind and run.model.scale == 1 and run.model.rate in (None, 1)]
    if not wanted:
        return []
    status = status_of(at_end)
    tasks = [task for task in estimates.tasks if any(task in run.scores for run in wanted)] or list(estimates.tasks)
    return [_matrix(reading, estimates, kind, task, wanted, at_end, status) for task in tasks]


def status_of(runs: Iterable[Run]) -> dict[Model, tuple[str, str | None]]:
    """What became of each model: done if any of its results is there, else failed or not run, with the first reason."""
    found: dict[Model, tuple[str, str | None]] = {}
    order = {DONE: 0, FAILED: 1, NOT_RUN: 2}
    for run in runs:
        now = (run.status, run.error)
        if run.model not in found or order.get(run.status, 3) < order.get(found[run.model][0], 3):
            found[run.model] = now
    return found


def _matrix(
    reading: Reading,
    estimates: Estimates,
    kind: str,
    task: str,
    wanted: Sequence[Run],
    at_end: Sequence[Run],
    status: Mapping[Model, tuple[str, str | None]],
) -> Matrix:
    order = {name: place for place, name in enumerate(reading.versions)}
    # A tuning has a row only where its models were asked this task (each language its own test).
    scored_on = {run.model.tuning for run in at_end if run.model.kind != BASE and task in run.scores}
    pairs = list(dict.fromkeys((run.model.source, run.model.tuning) for run in wanted if run.model.tuning in scored_on))
    pairs.sort(key=lambda pair: order.get(pair[0] or "", 0))
    tunings = list(dict.fromkeys(tuning for _, tuning in pairs))
    several = reading.several_tunings
    targets = sorted({run.model.target for run in wanted}, key=lambda name: order.get(name, 0))

    def cell(model: Model, over: Model | None = None) -> Cell | None:
        told, reason = status.get(model, (ABSENT, None))
        shown = estimates.value(model, task)
        if told == ABSENT or (told == DONE and shown is None):
            return None
        base = Model(BASE, None, model.target)
        against = estimates.change(model, base, task) if model.kind != BASE else None
        tuned = Model(TUNED, None, model.target, model.tuning)
        return Cell(
            model=model,
            status=told if shown is None else DONE,
            reason=reason if shown is None else None,
            shown=shown,
            results=_counted(at_end, model, task),
            gain=None if over is None else estimates.change(model, over, task),
            over=over,
            against_base=against,
            recovered=estimates.recovered(base, model, tuned, task) if model.source and shown else None,
            published=_published(reading.expected, task, model, (kind,)),
        )

    rows = [Row("base", "base", tuple(cell(Model(BASE, None, target)) for target in targets))]
    arrow = " → FT" if kind == THEN_TUNED else ""
    for source, tuning in pairs:
        label = f"+ Δ({source}{f', {tuning}' if several and tuning else ''}){arrow}"
        cells = []
        for target in targets:
            start = Model(TRANSFER, source, target, tuning)
            over = start if kind == THEN_TUNED else Model(BASE, None, target)
            cells.append(cell(Model(kind, source, target, tuning), over))
        rows.append(Row(label, "delta", tuple(cells)))
    for tuning in tunings:
        label = f"FT(·{f', {tuning}' if several and tuning else ''})"
        base_of = [Model(BASE, None, target) for target in targets]
        tuned_of = [cell(Model(TUNED, None, t, tuning), b) for t, b in zip(targets, base_of, strict=True)]
        if any(tuned_of):
            rows.append(Row(label, "tuned", tuple(tuned_of)))
    marked = _marked(rows)
    one = next((c.shown for row in marked for c in row.cells if c is not None and c.shown is not None), None)
    return Matrix(
        kind=kind,
        task=task,
        metric=one.score.metric if one else "",
        share=one is None or one.score.is_share,
        targets=tuple(targets),
        rows=tuple(marked),
        families=one.families if one else 0,
        seeds=one.seeds if one else 0,
        n=one.n if one else 0,
    )


def without_result(runs: Iterable[Run]) -> list[Model]:
    """The models of which nothing is there at all, not a single score."""
    found: dict[Model, bool] = {}
    for run in runs:
        found[run.model] = found.get(run.model, True) and run.missing
    return [model for model, nothing in found.items() if nothing]


def _counted(at_end: Iterable[Run], model: Model, task: str) -> tuple[int, int]:
    """How many results of a model on a task are there, of how many."""
    runs = [run for run in at_end if run.model == model]
    return sum(task in run.scores for run in runs), len(runs)


def _marked(rows: Sequence[Row]) -> list[Row]:
    """The rows with the best of each row, the best Δ of each target, and what is clearly above or below base marked."""
    real = _clear_by_kind([cell for row in rows if row.role != "base" for cell in row.cells if cell])
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
                clearly=real.get(cell.model, 0),
                best_of_row=cell.model in best,
                best_of_target=cell.model in best_of_target,
            )
            for cell in row.cells
        )
        found.append(replace(row, cells=cells))
    return found


def _clear_by_kind(cells: Iterable[Cell]) -> dict[Model, int]:
    """What is clear against the base, adjusted among models of a kind; recyclings are one kind."""
    kinds: dict[str, dict[Model, Change | None]] = {}
    for cell in cells:
        kind = "recycle" if cell.model.kind in (ITERATIVE, DIRECT) else cell.model.kind
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


def recycling(reading: Reading, estimates: Estimates) -> list[Matrix]:
    """Iterative against direct against none (Table 6), on each task; gains count from M_i."""
    at_end = [run for run in reading.runs if run.step is None]
    wanted = [run for run in at_end if run.model.kind in (DIRECT, ITERATIVE)]
    tasks = [task for task in estimates.tasks if any(task in run.scores for run in wanted)] or list(estimates.tasks)
    tunings = dict.fromkeys(run.model.tuning for run in wanted)
    found = [_recycled(reading, estimates, task, tuning, at_end) for tuning in tunings for task in tasks]
    return [matrix for matrix in found if matrix is not None]


def _recycled(
    reading: Reading, estimates: Estimates, task: str, tuning: str | None, at_end: Sequence[Run]
) -> Matrix | None:
    order = {name: place for place, name in enumerate(reading.versions)}
    made = {
        (run.model.kind, run.model.target): run.model
        for run in at_end
        if run.model.kind in (DIRECT, ITERATIVE) and run.model.tuning == tuning and run.model.steps is None
    }
    targets = sorted({target for _, target in made}, key=lambda name: order.get(name, 0))
    status = status_of(at_end)

    def cell(kind: str, target: str) -> Cell | None:
        model = made.get((kind, target)) or Model(kind, None, target, None if kind == BASE else tuning)
        told, reason = status.get(model, (ABSENT, None))
        shown, base = estimates.value(model, task), Model(BASE, None, target)
        if told == ABSENT or (told == DONE and shown is None):
            return None
        gain = None if kind == BASE else estimates.change(model, base, task)
        return Cell(
            model=model,
            status=told if shown is None else DONE,
            reason=reason if shown is None else None,
            shown=shown,
            results=_counted(at_end, model, task),
            gain=gain,
            over=None if kind == BASE else base,
            against_base=gain,
            published=_published(reading.expected, task, model, (DIRECT, ITERATIVE)),
        )

    of = f", {tuning}" if reading.several_tunings and tuning else ""
    kinds = (
        (BASE, "base", "base"),
        (TUNED, f"FT(·{of}), nothing recycled", "tuned"),
        (DIRECT, f"+ Δdir{of} → FT", "delta"),
        (ITERATIVE, f"+ Δiter{of} → FT", "delta"),
    )
    rows = [Row(label, role, tuple(cell(kind, target) for target in targets)) for kind, label, role in kinds]
    marked = tuple(_marked([row for row in rows if any(row.cells)]))
    one = next((c.shown for row in marked for c in row.cells if c and c.shown), None)
    if one is None:
        return None
    score = one.score
    return Matrix(
        "recycling", task, score.metric, score.is_share, tuple(targets), marked, one.families, one.seeds, one.n
    )
