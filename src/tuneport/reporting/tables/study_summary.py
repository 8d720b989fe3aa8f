"""Summarise a study in sentences made from its numbers: what was compared, and the result.

Failures are counted as well as gains; "significantly" means after Holm's adjustment within the task's table.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuneport.reporting.tables.estimates import Estimates
from tuneport.reporting.tables.further_tuning import Comparison, counted_clear
from tuneport.reporting.tables.matrix import Cell, Matrix, without_result
from tuneport.reporting.tables.training_curves import Panel, with_match
from tuneport.reporting.tables.wording import counted, listed, ratio, signed, with_unit
from tuneport.results.schema import (
    ADAPTED,
    BASE,
    DIRECT,
    DONE,
    FAILED,
    HEALED,
    ITERATIVE,
    LOSS,
    PENDING,
    THEN_TUNED,
    TRANSFER,
    TUNED,
)
from tuneport.results.study_reading import Reading

_MOST = 3  # tasks, or models, told of one by one


def asked_and_done(reading: Reading, estimates: Estimates) -> list[str]:
    """What the study asks for, and how much of it is there."""
    return [_asked(reading, estimates), _done(reading)]


def summary(
    reading: Reading,
    transfers: Sequence[Matrix],
    compared: Sequence[Comparison],
    panels: Sequence[Panel],
) -> list[str]:
    """What was gained, sentence by sentence."""
    told = []
    shares = [matrix for matrix in transfers if matrix.share] or list(transfers)
    for matrix in shares[:_MOST]:
        told.append(_transferred(matrix, reading.several_tunings))
    left_out = [matrix.task for matrix in transfers if matrix not in shares[:_MOST]]
    if len(left_out) > _MOST:
        told.append(f"The other {len(left_out)} tables are below.")
    elif left_out:
        told.append(f"{_tasks(left_out)} {'is' if len(left_out) == 1 else 'are'} below.")
    told += _tuned_on([row for row in compared if row.share] or list(compared))
    starts, matched, sooner = with_match(panels)
    if starts:
        never = starts - matched
        told.append(
            f"On validation data {sooner} of {counted(starts, 'curve')} from a transferred start "
            f"{'reaches' if sooner == 1 else 'reach'} plain fine-tuning's end in fewer steps"
            + (f"; {never} never {'does' if never == 1 else 'do'}." if never else ".")
        )
    return told


def _asked(reading: Reading, estimates: Estimates) -> str:
    at_end = reading.at_end
    models = dict.fromkeys(run.model for run in at_end)
    kinds = [
        (TUNED, "fine-tuned model", "fine-tuned models"),
        (TRANSFER, "transfer by addition alone", "transfers by addition alone"),
        (ADAPTED, "adapted transfer", "adapted transfers"),
        (THEN_TUNED, "transfer that was fine-tuned further", "transfers fine-tuned further"),
        (ITERATIVE, "step of iterative recycling", "steps of iterative recycling"),
        (HEALED, "step of recycling with adaptation", "steps of recycling with adaptation"),
        (DIRECT, "step of direct recycling", "steps of direct recycling"),
    ]
    plain = [m for m in models if m.steps is None and m.scale == 1 and m.rate == 1]
    counts = [(sum(m.kind == kind for m in plain), one, several) for kind, one, several in kinds]
    others = len([m for m in models if m.kind != BASE]) - sum(count for count, _, _ in counts)
    asked = [counted(*each) for each in counts if each[0]]
    asked += [f"{counted(others, 'variant')} of these (other steps, scales or rates)"] if others else []
    what = listed(asked)
    families = len({run.family for run in at_end if run.family is not None})
    seeds = len({run.seed for run in at_end if run.seed is not None})
    over = listed(
        [
            *([counted(families, "model family", "model families")] if families > 1 else []),
            *([counted(seeds, "fine-tuning seed")] if seeds > 1 else []),
        ]
    )
    versions = [
        v for v in reading.versions if any(m.kind == BASE and m.target == v for m in models)
    ] or reading.versions
    return (
        f"The study {reading.name} takes {counted(len(versions), 'version')} "
        + (f"({listed(versions)})" if len(versions) <= 3 else f"({versions[0]} to {versions[-1]})")
        + (f" and includes {what}" if what else "")
        + (f", over {over}" if over else "")
        + (f", scored on {_tasks(estimates.tasks)}." if estimates.tasks else "; there are no scores yet.")
    )


def _tasks(names: Sequence[str]) -> str:
    """Tasks in words; the loss of a task's answers is said so, not named as another task."""
    plain = [name for name in names if not name.endswith(LOSS)]
    of_loss = [name.removesuffix(LOSS) for name in names if name.endswith(LOSS)]
    if not of_loss:
        return listed(plain)
    if of_loss == plain:
        return f"{listed(plain)}, {'each ' if len(plain) > 1 else ''}with the loss of its answers"
    return listed([*plain, f"the loss of the answers of {listed(of_loss)}"])


def _done(reading: Reading) -> str:
    runs = reading.at_end
    done = sum(run.status == DONE for run in runs)
    in_part = [run for run in runs if run.in_part]
    failed = sum(run.status == FAILED and run.missing for run in runs)
    to_come = sum(run.pending and run.missing for run in runs)
    waiting = len(runs) - done - len(in_part) - failed - to_come
    broken = sum(step.outcome == FAILED for step in reading.steps)
    if done == len(runs):
        there = f"All {counted(done, 'result')} {'is' if done == 1 else 'are'} available; " if runs else ""
        if broken:
            return f"{there}{counted(broken, 'step')} failed (see below)."
        return f"{there}nothing failed." if there else "Nothing failed."
    told = [f"{done:,} of {counted(len(runs), 'result')} {'is' if done == 1 else 'are'} available"]
    told += [f"{len(in_part):,} {'is' if len(in_part) == 1 else 'are'} incomplete"] if in_part else []
    told += [f"{failed:,} failed"] if failed else []
    told += [f"{waiting:,} {'was' if waiting == 1 else 'were'} skipped"] if waiting else []
    told += [f"{to_come:,} {'is' if to_come == 1 else 'are'} {PENDING}"] if to_come else []
    several = reading.several_tunings
    named = [
        f"{words}: {listed(model.name(several) for model in models)}"
        for words, models in (
            ("in part", list(dict.fromkeys(run.model for run in in_part))),
            ("without any result", without_result(run for run in runs if not run.pending)),
        )
        if 0 < len(models) <= _MOST
    ]
    return listed(told) + (f" ({'; '.join(named)})" if named else "") + "."


def _transferred(matrix: Matrix, several_tunings: bool) -> str:
    cells = [cell for cell in matrix.deltas if cell.against_base is not None and cell.shown is not None]
    if not cells:
        return f"On {matrix.task} no transfer is scored."

    def gain(cell: Cell) -> float:
        assert cell.against_base is not None
        return cell.against_base.value

    low, high = min(map(gain, cells)), max(map(gain, cells))
    better, worse = sum(c.clearly > 0 for c in cells), sum(c.clearly < 0 for c in cells)
    top = max(cells, key=gain)
    assert top.shown is not None
    unit = " points" if matrix.share else ""
    span = signed(low, matrix.share) + (f" to {signed(high, matrix.share)}" if len(cells) > 1 else "")
    told = (
        f"On {matrix.task} (n = {matrix.n:,}) addition alone changes the base's score by {span}{unit}; of "
        f"{counted(len(cells), 'model')} {better} {'is' if better == 1 else 'are'} significantly better, {worse} "
        "significantly worse"
    )
    if high <= 0:
        return f"{told}; none gains anything."
    share = "" if top.recovered is None else f", {ratio(top.recovered)} of what fine-tuning {top.model.target} gains"
    return f"{told}. Best: {top.model.name(several_tunings)} with {with_unit(top.shown)}{share}."


def _tuned_on(compared: Sequence[Comparison]) -> list[str]:
    told = []
    for which, words in ((0, "at the same steps"), (1, "at the same total of steps")):
        known, better, worse = counted_clear(compared, which)
        if known:
            told.append(
                f"significantly above plain fine-tuning's {words} in {better} of {known} cases, significantly below in {worse}"
            )
    return [f"Fine-tuned from a transferred start, scores are {', and '.join(told)}."] if told else []
