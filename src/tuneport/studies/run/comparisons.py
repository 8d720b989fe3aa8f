"""Which scored models are compared with which, and what comes out: differences, shares of a gain, steps to match.

In come the rows of results.json with what each model did on each example, out come the rows of `comparisons`: on the same
examples, in pairs, with intervals. The questions are the paper's:

| question | of | against | where |
| --- | --- | --- | --- |
| `gain-over-base` | every model that is no base | M_i | Tables 1, 3, 6, 11, 13 |
| `gain-over-transfer` | transfer-then-tune | M_i + Δ_j | Tables 4, 12 |
| `against-tuned` | transfer | FT(M_i) | section 4.2's gap |
| | transfer-then-tune, recycle | FT(M_i) of other steps, or of steps that nobody knows | |
| `recovered-gain` | transfer | M_i and FT(M_i) | SEMANTICS, Measures |
| `same-steps` | transfer-then-tune, recycle | FT(M_i), as many steps for this version | the paper's comparison |
| `same-total` | transfer-then-tune, recycle | FT(M_i) for as many steps as went into it in all | |
| `iterative-against-direct` | recycle-iterative | recycle-direct, as many steps for this version | Table 6 |
| `iterative-against-direct-same-total` | recycle-iterative | recycle-direct, as many steps in all | |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport import statistics
from tuneport.files.json_text import read_json
from tuneport.results.answered import Answered, answered
from tuneport.results.comparing import LEVEL

Row = Mapping[str, Any]
FURTHER = ("transfer-then-tune", "recycle-iterative", "recycle-direct")
_IDENTIFY = ("kind", "name", "source", "target", "tuning", "family", "seed", "rate", "scale")


@dataclass(frozen=True)
class Asked:
    """What one model did on one task, example by example."""

    metric: str
    higher_is_better: bool
    variant: str | None
    answered: Answered


def asked_in(scores: Mapping[str, Any], examples: str) -> dict[str, Asked]:
    """By task, from a record of scores and its examples. Tasks whose value is no mean over examples are left out."""
    by_task = answered(read_json(line) for line in examples.splitlines())
    return {
        name: Asked(task["metric"], bool(task["higher_is_better"]), task.get("variant"), by_task[name])
        for name, task in scores["models"][0]["tasks"].items()
        if name in by_task and task["interval"] is not None
    }


class Comparing:
    """Compares rows, and keeps what is drawn, so that a row that is added costs what it adds.

    ``asked`` gives what a row's model did, by task, ``outcome`` a digest of what an evaluation (by identity) left. ``earlier``
    rows (of a results.json) of the same evaluations with the same outcomes are taken as they stand.
    """

    def __init__(
        self,
        asked: Callable[[Row], Mapping[str, Asked]],
        outcome: Callable[[str], str],
        earlier: Iterable[Row] = (),
    ) -> None:
        """Begin with what an earlier run has compared."""
        self._asked, self._outcome = asked, outcome
        self._known = {_key(row): dict(row) for row in earlier if _is_whole(row)}
        self._drawn: dict[tuple[str, str], statistics.Matrix] = {}

    def rows(self, results: Sequence[Row]) -> list[dict[str, Any]]:
        """Every comparison that the rows at hand allow; p values are adjusted by Holm's method within a table.

        A table is a question, a task and a kind of model, as in the paper; both kinds of recycling stand in one.
        """
        ends = [row for row in results if row["step"] is None and row["split"] == "test"]
        # Asked of all, so that a longer fine-tuning does not stand in for one that failed; what failed has no scores.
        found = [row for question, model, others in _questions(ends) for row in self._compare(question, model, others)]
        tables: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in found:
            if "p" in row:
                kind = "recycle" if row["kind"].startswith("recycle") else row["kind"]
                tables[row["question"], row["task"], kind].append(row)
        for table in tables.values():
            for row, adjusted in zip(table, statistics.holm([row["p"] for row in table]), strict=True):
                row |= {"p_adjusted": adjusted, "significant": adjusted < LEVEL}
        return found

    def _compare(self, question: str, model: Row, others: Sequence[Row]) -> Iterator[dict[str, Any]]:
        rows = (*others, model)
        tasks = [task for task in model["scores"] if all(task in other["scores"] for other in others)]
        for task in tasks:
            evaluations = tuple(_evaluation(row, task) for row in rows)
            outcomes = tuple(map(self._outcome, evaluations))
            key = (question, task, evaluations, outcomes)
            if key not in self._known:
                self._known[key] = self._measured(task, rows, question)
            measured = self._known[key]
            if measured:
                told = {name: model[name] for name in _IDENTIFY if name in model}
                yield {
                    "question": question,
                    "task": task,
                    **told,
                    **_measured_only(measured),
                    "evaluations": list(evaluations),
                    "outcomes": list(outcomes),
                } | {
                    "against": [other["name"] for other in others],
                    "against_steps_total": [other["steps_total"] for other in others],
                    "steps_total": model["steps_total"],
                }

    def _measured(self, task: str, rows: Sequence[Row], question: str) -> dict[str, Any]:
        """The numbers of a comparison; nothing where the models were not asked the same."""
        asked = [self._asked(row).get(task) for row in rows]
        if any(each is None for each in asked):
            return {}
        each = [one for one in asked if one is not None]
        if not all(each[0].answered.like(other.answered) for other in each[1:]):
            return {}
        drawn = [self._draw(row, task, one) for row, one in zip(rows, each, strict=True)]
        last = each[-1]
        shared = {
            "metric": last.metric,
            "higher_is_better": last.higher_is_better,
            "n": len(last.answered.ids),
            **_across(each),
        }
        if question == "recovered-gain":
            base, tuned, moved = (one.answered.value for one in each)
            share = statistics.share_of_gain((base, moved, tuned), np.stack([drawn[0], drawn[2], drawn[1]], axis=1))
            return {
                **shared,
                "gain": moved - base,
                "gain_of_tuned": tuned - base,
                "recovered_gain": None if share is None else share.value,
                "interval": None if share is None else list(share.interval),
            }
        changes = drawn[1] - drawn[0]
        first, own = each[0].answered, last.answered
        p, method = statistics.tested(
            first.scores, own.scores, changes, right_or_wrong=first.right_or_wrong and own.right_or_wrong
        )
        return {
            **shared,
            "difference": own.value - first.value,
            "interval": list(statistics.central(changes)),
            "p": p,
            "method": method,
        }

    def _draw(self, row: Row, task: str, asked: Asked) -> statistics.Matrix:
        """Resampled values of one model; the seed is one, so that models on the same examples share each draw."""
        key = (_evaluation(row, task), task)
        if key not in self._drawn:
            own = asked.answered
            self._drawn[key] = statistics.weighted_means(own.scores[None, :], own.weights, seed=0)[:, 0]
        return self._drawn[key]


def _questions(rows: Sequence[Row]) -> Iterator[tuple[str, Row, Sequence[Row]]]:
    """Each question with the model it is about, and whom it is compared with."""
    bases = {(row["target"], row["family"]): row for row in rows if row["kind"] == "base"}
    tuned: dict[Any, list[Row]] = defaultdict(list)
    moved: dict[Any, Row] = {}
    direct: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "tuned":
            tuned[row["target"], row["tuning"], row["family"]].append(row)
        elif row["kind"] == "transfer" and "scale" not in row:
            moved[_pair(row)] = row
        elif row["kind"] == "recycle-direct":
            direct[_pair(row)].append(row)
    for row in rows:
        kind = row["kind"]
        base = bases.get((row["target"], row["family"])) or bases.get((row["target"], None))
        of_seed = [
            other
            for other in tuned[row["target"], row["tuning"], row["family"]] or tuned[row["target"], row["tuning"], None]
            if other["seed"] in (row["seed"], None)
        ]
        plain = _shortest(of_seed)
        if kind != "base" and base is not None:
            yield "gain-over-base", row, [base]
        if kind == "transfer" and plain is not None:
            yield "against-tuned", row, [plain]
            if base is not None:
                yield "recovered-gain", row, [base, plain]
        if kind == "transfer-then-tune" and _pair(row) in moved:
            yield "gain-over-transfer", row, [moved[_pair(row)]]
        if kind in FURTHER and plain is not None:
            # A longer direct recycling stands beside the iterative one, at the same total alone.
            if kind != "recycle-direct" or row is _shortest(direct[_pair(row)]):
                alike = _as_long(row, of_seed)
                yield ("against-tuned", row, [plain]) if alike is None else ("same-steps", row, [alike])
            longer = _of_total(row, of_seed)
            if longer is not None:
                yield "same-total", row, [longer]
        shortest = _shortest(direct[_pair(row)]) if kind == "recycle-iterative" else None
        if shortest is not None:
            yield "iterative-against-direct", row, [shortest]
            longer = _of_total(row, direct[_pair(row)])
            if longer is not None and longer is not shortest:
                yield "iterative-against-direct-same-total", row, [longer]


def _shortest(rows: Sequence[Row]) -> Row | None:
    """Of fine-tunings for several numbers of steps, the one for the study's own."""
    return min(rows, key=lambda row: row["steps_total"] or 0, default=None)


def _as_long(row: Row, rows: Sequence[Row]) -> Row | None:
    """The one that got as many steps as this model got on its own version."""
    steps = row["steps_on_target"]
    return next((other for other in rows if steps is not None and other["steps_on_target"] == steps), None)


def _of_total(row: Row, rows: Sequence[Row]) -> Row | None:
    """The one that as many steps went into in all."""
    total = row["steps_total"]
    return next((other for other in rows if total is not None and other["steps_total"] == total), None)


def convergence(results: Sequence[Row]) -> list[dict[str, Any]]:
    """Peaks, and the steps after which a model reaches what FT(M_i) has at its end; on validation data only.

    `steps_to_match` is the first point of the curve at which the value is as good as the last one of FT(M_i), 0 where the
    start already is; null where no point is, and where FT(M_i) itself is no better at its end than at its start. Curves have
    points as often as the study says, so it is known to that grain.
    """
    curves: dict[Any, list[Row]] = defaultdict(list)
    for row in results:
        if row["split"] == "validation" and row["status"] == "done":
            curves[tuple(row.get(name) for name in _IDENTIFY)].append(row)
    found = []
    for points in curves.values():
        first = points[0]
        # Of plain fine-tunings the shortest is FT(M_i); longer ones are for the comparison at the same total.
        rivals = [
            other
            for other in curves.values()
            if other[0]["kind"] == "tuned"
            and all(other[0][name] == first[name] for name in ("target", "tuning", "family", "seed"))
        ]
        rival = min(rivals, key=lambda other: max(point["step"] for point in other), default=None)
        for task in dict.fromkeys(task for point in points for task in point["scores"]):
            own = _series(points, task)
            if not own:
                continue
            higher = bool(
                next(point for point in points if task in point["scores"])["scores"][task]["higher_is_better"]
            )
            best = max(own, key=lambda pair: (pair[1] if higher else -pair[1], -pair[0]))
            row = {
                **{name: first[name] for name in _IDENTIFY if name in first},
                "task": task,
                "peak": {"step": best[0], "value": best[1]},
                "against": None,
                "level": None,
                "steps_to_match": None,
            }
            reference = _series(rival, task) if rival is not None else []
            if first["kind"] in FURTHER and rival is not None and reference:
                level = reference[-1][1]
                gained = level > reference[0][1] if higher else level < reference[0][1]
                reached = [step for step, value in own if gained and (value >= level if higher else value <= level)]
                row |= {
                    "against": rival[0]["name"],
                    "level": level,
                    "steps_to_match": min(reached, default=None),
                    "steps_of_reference": reference[-1][0],
                    "peak_of_reference": _peak(reference, higher),
                }
            found.append(row)
    return found


def _peak(series: Sequence[tuple[int, float]], higher: bool) -> dict[str, Any]:
    step, value = max(series, key=lambda pair: (pair[1] if higher else -pair[1], -pair[0]))
    return {"step": step, "value": value}


def _series(points: Sequence[Row], task: str) -> list[tuple[int, float]]:
    return sorted((point["step"], point["scores"][task]["value"]) for point in points if task in point["scores"])


def _pair(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("source", "target", "tuning", "family", "seed"))


def _evaluation(row: Row, task: str) -> str:
    return str(row["scores"][task]["evaluation"])


def _is_whole(row: Any) -> bool:
    """Whether a row of an earlier file can be told from others; what cannot is compared again."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("question", "task")):
        return False
    if not isinstance(row.get("p", 0.0), int | float):
        return False
    lists = (row.get("evaluations"), row.get("outcomes"))
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)


def _key(row: Row) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    return row["question"], row["task"], tuple(row["evaluations"]), tuple(row["outcomes"])


def _measured_only(row: Row) -> dict[str, Any]:
    """The numbers of a row, without what it is about (that may be called otherwise by now) and what the table decides."""
    names = (
        "metric", "higher_is_better", "n", "across_variants", "difference", "interval", "p", "method",
        "gain", "gain_of_tuned", "recovered_gain",
    )  # fmt: skip
    return {name: row[name] for name in names if name in row}


def _across(asked: Sequence[Asked]) -> dict[str, Any]:
    variants = [one.variant for one in asked]
    return {"across_variants": variants} if len(set(variants)) > 1 else {}
