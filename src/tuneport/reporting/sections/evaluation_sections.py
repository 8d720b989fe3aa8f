"""The page of a file of scores: which model is better, every score, which differences are significant, and all settings.

All numbers are the file's. If it names a target, a transfer and a tuned target, the question is whether recycling is
worth it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tuneport.reporting.sections.parts import (
    Bullets,
    Csv,
    Fact,
    Facts,
    Fold,
    Lead,
    Part,
    Piece,
    Pre,
    Section,
    Table,
    TableColumn,
    Value,
    ends,
)
from tuneport.reporting.tables.wording import DASH, counted, listed, minus, number, signed, span
from tuneport.results.evaluation_reading import Difference, EvaluationResult, Recovered, TaskScore
from tuneport.statistics import NO_HARM

_MOST_NAMED, _MOST_ROWS = 4, 12


def sections(found: EvaluationResult) -> list[Section]:
    """The sections in their order."""
    every = [_answer(found), _differences(found), _leakage(found), _settings(found)]
    return [section for section in every if section is not None]


def summary(found: EvaluationResult) -> str:
    """What is in the file."""
    return f"{counted(len(found.models), 'model')} on {counted(len(found.tasks), 'task')}, scored by tuneport evaluate."


def _answer(found: EvaluationResult) -> Section:
    if found.recovered:
        first = found.recovered[0]
        asked = [each for each in found.recovered if each.transferred == first.transferred]
        title, lead = "Is it worth recycling?", _recycling(found, asked)
        facts: list[Part] = [_facts(found, first)]
    else:
        title, lead, facts = "Which model is better?", _better(found), []
    return Section("answer", title, [lead, *facts, _scores(found)])


def _recycling(found: EvaluationResult, asked: Sequence[Recovered]) -> Lead:
    """The transfer against its target, on every task."""
    moved, target = asked[0].transferred, asked[0].target
    known = {each.task: _between(found, target, moved, each.task) for each in asked}
    better, worse, even = (
        [task for task, change in known.items() if change is not None and change.better == sign] for sign in (1, -1, 0)
    )
    told = [f"significantly better than {target} on {_tasks(better)}"] if better else []
    told += [f"significantly worse than {target} on {_tasks(worse)}"] if worse else []
    rest = f"; on {_tasks(even)} no difference is shown" if even and told else ""
    if told:
        word = "In part." if better and worse else "Yes." if better else "No."
        return Lead(word, f"{moved} is {' and '.join(told)}{rest}.")
    if not even:
        return Lead("No answer.", f"{moved} and {target} were not compared on the same examples.")
    harmless = all(_harmless(found, change) for change in known.values() if change is not None)
    if harmless:
        words = f"{moved} is not significantly better than {target} on {_tasks(even)}, and no worse by {100 * NO_HARM:g} points."
        return Lead("No gain, no harm.", words)
    return Lead(
        "The data do not show it.", f"Whether {moved} is better or worse than {target} on {_tasks(even)} is not shown."
    )


def _better(found: EvaluationResult) -> Lead:
    """Of two models which is better, of several the best of each task, of one that there is nothing to compare."""
    if len(found.models) == 1:
        return Lead("Nothing to compare.", f"Only {found.models[0]} was scored.")
    clear = [each for each in found.differences if each.better]
    if not clear:
        word = "Not shown." if found.differences else "No answer."
        rest = (
            "is significant after Holm's adjustment"
            if found.differences
            else "was tested: the models share no examples"
        )
        return Lead(word, f"No difference between the {len(found.models)} models {rest}.")
    wins: dict[tuple[str, str], list[str]] = {}
    for each in clear:
        pair = (each.later, each.earlier) if each.better > 0 else (each.earlier, each.later)
        wins.setdefault(pair, []).append(each.task)
    told = [f"{one} is significantly better than {other} on {_tasks(tasks)}" for (one, other), tasks in wins.items()]
    more = f"; {len(told) - _MOST_NAMED} more below" if len(told) > _MOST_NAMED else ""
    return Lead(
        f"{len(clear)} of {counted(len(found.differences), 'difference')} significant.",
        f"{'; '.join(told[:_MOST_NAMED])}{more}.",
    )


def _facts(found: EvaluationResult, asked: Recovered) -> Facts:
    """Gain, recovered gain, and how far the transfer is from the tuned target, on one task."""
    task, score = asked.task, found.scores.get((asked.transferred, asked.task))
    gain, rest = (_between(found, other, asked.transferred, task) for other in (asked.target, asked.tuned_target))
    facts = [
        _change("Gain over the new base", found, gain, f"{asked.transferred} against {asked.target}."),
        Fact(
            "Recovered gain",
            DASH if asked.value is None else minus(f"{asked.value:.2f}"),
            "" if asked.interval is None else minus("[{:.2f}, {:.2f}]".format(*asked.interval)),
            f"Not computed: {asked.tuned_target} itself has no significant gain."
            if asked.value is None
            else f"As a share of what {asked.tuned_target} gains (1: all, 0: nothing).",
        ),
        _change("Over the target's own fine-tuning", found, rest, f"{asked.transferred} against {asked.tuned_target}."),
    ]
    return Facts(f"{task}, n = {score.score.n:,}, 95 % intervals" if score else task, facts)


def _change(label: str, found: EvaluationResult, change: Difference | None, words: str) -> Fact:
    if change is None:
        return Fact(label, DASH, "", f"Not known: no comparison of {words.replace(' against ', ' and ')}")
    share = _is_share(found, change)
    says = {1: "Significantly better", -1: "Significantly worse", 0: "Not significantly different"}[change.better]
    value = f"{signed(change.value, share)}{' points' if share else ''}"
    return Fact(label, value, span(change.interval, share, sign=True), f"{words} {says}.")


def _scores(found: EvaluationResult) -> Table:
    """Tasks are rows, so that fourteen of them still fit on a phone."""
    columns = [TableColumn("task"), TableColumn("n", True), *(TableColumn(model, True) for model in found.models)]
    rows, lines = [], []
    for task in found.tasks:
        shown = [found.scores.get((model, task)) for model in found.models]
        n = next(each.score.n for each in shown if each is not None)
        rows.append([Value(task), Value(f"{n:,}", n), *map(_score, shown)])
        lines += [
            [model, task, each.score.metric, each.score.value, *ends(each.interval), each.score.n]
            for model, each in zip(found.models, shown, strict=True)
            if each is not None
        ]
    csv = Csv("scores", ["model", "task", "metric", "value", "low", "high", "n"], lines)
    return Table("Scores in per cent with 95 % intervals; losses in nats per token", columns, rows, csv, style="matrix")


def _score(each: TaskScore | None) -> Value:
    if each is None:
        return Value((Piece("·", "nothing"),), style="empty")
    share, value = each.score.is_share, each.score.value
    pieces = [Piece(number(value, share), "value")]
    if each.interval is not None:
        pieces.append(Piece(f"{number(each.interval[0], share)}–{number(each.interval[1], share)}", "interval"))
    return Value(tuple(pieces), value)


def _differences(found: EvaluationResult) -> Section | None:
    if not found.differences:
        return None
    columns = [
        TableColumn("task"), TableColumn("model"), TableColumn("minus"), TableColumn("difference", True), TableColumn("p", True, "adjusted by Holm's method over all rows"),
        TableColumn("n", True),
    ]  # fmt: skip
    rows = [
        [
            Value(each.task),
            Value(each.later),
            Value(each.earlier),
            _difference(found, each),
            Value(DASH) if each.p is None else Value(f"{each.p:.3f}" if each.p >= 0.001 else "< 0.001", each.p),
            Value(f"{each.n:,}", each.n),
        ]
        for each in found.differences
    ]
    names = ["task", "later", "earlier", "difference", "low", "high", "p_adjusted", "n"]
    lines = [[d.task, d.later, d.earlier, d.value, *ends(d.interval), d.p, d.n] for d in found.differences]
    table = Table("Differences of models on the same examples", columns, rows, Csv("differences", names, lines))
    falling = (
        ""
        if all(_is_share(found, each) for each in found.differences)
        else " Where lower is better (a loss), a negative difference is the better one."
    )
    intro = (
        "Models on the same examples, one minus the other. ▲ and ▼: significantly better or worse, p < 0.05 after "
        f"Holm's adjustment over all rows. No mark does not mean equal.{falling}"
    )
    body: Part = table if len(rows) <= _MOST_ROWS else Fold(counted(len(rows), "comparison"), [], [table], "task")
    return Section("differences", "Which differences are significant?", [intro, body])


def _difference(found: EvaluationResult, each: Difference) -> Value:
    share = _is_share(found, each)
    pieces = [Piece(signed(each.value, share), "value")]
    if each.better:
        pieces.append(
            Piece("▲", "mark", "significantly better") if each.better > 0 else Piece("▼", "mark", "significantly worse")
        )
    pieces += [Piece(span(each.interval, share, sign=True), "interval")] if each.interval else []
    return Value(tuple(pieces), each.value, "worse" if each.better < 0 else None)


def _leakage(found: EvaluationResult) -> Section | None:
    rows = [
        [Value(str(row.get(name) if row.get(name) is not None else DASH)) for name in ("model", "task", "use", "count")]
        for row in found.leakage
    ]
    if not rows:
        return None
    columns = [
        TableColumn("trained on"),
        TableColumn("task"),
        TableColumn("use"),
        TableColumn("examples in both", True),
    ]
    return Section(
        "leakage", "Were models trained on test examples?", [Table("Test examples in training data", columns, rows)]
    )


def _settings(found: EvaluationResult) -> Section:
    parts: list[Part] = [
        "Intervals are 95 %: Wilson's for right answers, else from a bootstrap over the examples. Right and wrong "
        "answers of two models are compared by McNemar's exact test, others by the paired bootstrap."
    ]
    parts += [Bullets(found.warnings)] if found.warnings else []
    told = {"settings": found.settings, "versions": found.versions}
    parts.append(
        Fold("Every setting and version", [], [Pre(json.dumps(told, indent=1, ensure_ascii=False), code=True)])
    )
    return Section("settings", "How were the models asked?", parts)


def _between(found: EvaluationResult, earlier: str, later: str, task: str) -> Difference | None:
    """`later` minus `earlier`, whichever way round the file has it."""
    for each in found.differences:
        if each.task == task and {each.earlier, each.later} == {earlier, later}:
            if each.later == later:
                return each
            turned = None if each.interval is None else (-each.interval[1], -each.interval[0])
            return Difference(earlier, later, task, -each.value, turned, each.p, -each.better, each.n)
    return None


def _harmless(found: EvaluationResult, change: Difference) -> bool:
    return _is_share(found, change) and change.interval is not None and change.interval[0] > -NO_HARM


def _is_share(found: EvaluationResult, change: Difference) -> bool:
    known = [found.scores.get((model, change.task)) for model in (change.earlier, change.later)]
    return all(each is None or each.score.is_share for each in known)


def _tasks(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= _MOST_NAMED else f"{len(names)} tasks"
