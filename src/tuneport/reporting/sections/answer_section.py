"""The first screen: recycle or not, for which pairs, and how sure. Further down: every pair against the old fine-tuned
model.

Three numbers show one pair, which the order of versions chooses. All pairs are counted beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuneport.reporting.sections.matrix_sections import block, pair
from tuneport.reporting.sections.parts import (
    Bullets,
    Csv,
    Fact,
    Facts,
    Fold,
    Lead,
    Part,
    Section,
    Table,
    TableColumn,
    Value,
    change_value,
    ends,
    shown_value,
)
from tuneport.reporting.tables.report_tables import Findings
from tuneport.reporting.tables.verdict import BETTER, HARMLESS, MIXED, OPEN, WORSE, Worth, judged, newest
from tuneport.reporting.tables.wording import DASH, counted, listed, number, points, ratio, signed, span
from tuneport.results.schema import FAILED, LOSS
from tuneport.statistics import NO_HARM

_PAPER = "section 3.2 of the paper"
_MOST_NAMED = 4
_POINTS = f"{100 * NO_HARM:g} points"


def answer(found: Findings) -> Section:
    """Recycle or not, three numbers, how many pairs, and one matrix."""
    asked = newest(found.worths, found.reading)
    parts: list[Part] = [_lead(asked, found)]
    shown = [worth for worth in asked if worth.cell.shown is not None]
    if shown:
        parts.append(_facts(shown[0], found.reading.several_tunings))
    if found.transfers:
        first = found.transfers[0]
        of_first = [each for each in found.worths if each.matrix is first]
        parts += [_pairs(of_first, found.reading.several_tunings)] if len(of_first) > 1 else []
        parts.append(block(first, [pair(first, found, "the base")]))
    return Section("answer", "Is it worth recycling?", parts)


def asked(found: Findings) -> Section:
    """What the study compares, and the gains, task by task and for models that were fine-tuned further."""
    return Section("asked", "What was the question, and what is the answer?", [Bullets([*found.asked, *found.told])])


def _pairs(worths: Sequence[Worth], several: bool) -> str:
    """For how many transfers of one task, and for which."""
    known = [each for each in worths if each.cell.shown is not None]
    if not known:
        return f"None of {counted(len(worths), 'transfer')} is scored yet."
    told = []
    for sign, words in (
        (1, "significantly better than the new base"),
        (-1, "significantly worse"),
        (0, "not shown to be better or worse"),
    ):
        names = [each.model.name(several) for each in known if each.cell.clearly == sign]
        if not names and sign == 0:
            continue
        named = f" ({listed(names)})" if 0 < len(names) <= _MOST_NAMED and len(known) > 1 else ""
        how_many = "none is" if not names else "1 is" if len(names) == 1 else f"{len(names)} are"
        told.append(f"{how_many} {words}{named}")
    scored = (
        ""
        if len(known) == len(worths)
        else f" {len(known):,} {'is' if len(known) == 1 else 'are'} scored so far; of these"
    )
    return f"Of the {len(worths):,} transfers on {known[0].matrix.task}{scored} {listed(told)}."


def worth(found: Findings) -> Section | None:
    """Each pair's new base, and what the transfer makes of it, beside the old version fine-tuned (section 3.2)."""
    known = [each for each in found.worths if each.base_over_old is not None and each.old is not None]
    if not known:
        return None
    intro = (
        f"Recycling pays as long as the new base is behind the old fine-tuned model ({_PAPER}). Where the new base "
        "alone is significantly better already, it offers no advantage. Differences are of models on the same "
        "examples."
    )
    columns = [
        TableColumn("transfer"), TableColumn("task"), TableColumn("old fine-tuned", True), TableColumn("new base", True),
        TableColumn("new base + Δ", True), TableColumn("new base − old", True, "the new base minus the old fine-tuned model"),
        TableColumn("new base + Δ − old", True, "the transfer minus the old fine-tuned model"), TableColumn("so recycling"),
    ]  # fmt: skip
    several = found.reading.several_tunings
    rows = [
        [
            Value(each.model.name(several)),
            Value(each.matrix.task),
            *(shown_value(shown) for shown in (each.old, each.base, each.cell.shown)),
            change_value(each.base_over_old, each.matrix.share, each.base_clearly),
            change_value(each.over_old, each.matrix.share, each.clearly_over_old),
            Value({1: "has no advantage", -1: "can pay", 0: "is not decided"}[each.base_clearly]),
        ]
        for each in known
    ]
    names = ["source", "target", "tuning", "task", "old_fine_tuned", "new_base", "transferred"]
    names += ["base_minus_old", "low", "high", "transferred_minus_old", "transferred_low", "transferred_high"]
    lines = [
        [
            *(each.model.source, each.model.target, each.model.tuning, each.matrix.task),
            *(None if shown is None else shown.value for shown in (each.old, each.base, each.cell.shown)),
            *(
                value
                for change in (each.base_over_old, each.over_old)
                for value in ((None,) * 3 if change is None else (change.value, *ends(change.interval)))
            ),
        ]
        for each in known
    ]
    table = Table("The old fine-tuned model beside the new base", columns, rows, Csv("worth", names, lines))
    counts = [sum(each.base_clearly == sign for each in known) for sign in (-1, 1, 0)]
    told = (
        f"Of {len(known)} cases, the new base is significantly behind in {counts[0]} and significantly ahead in "
        f"{counts[1]}; {counts[2]} are unclear."
    )
    body: list[Part] = [table] if len(rows) <= 8 else [Fold("Every pair", [], [table], "task")]
    return Section("worth", "Is the new base still behind the old fine-tuned model?", [intro, told, *body])


def _lead(asked: Sequence[Worth], found: Findings) -> Lead:
    """The answer as one word, and as a sentence for each fine-tuning."""
    if not asked:
        if not found.reading.at_end:
            return Lead("No answer yet.", "Nothing is scored.")
        kinds = "Results of fine-tuning from a transferred start are below." if found.compared or found.recycled else ""
        return Lead("Not asked.", f"This study has no result of a transfer by addition alone. {kinds}".strip())
    of_tuning: dict[str | None, list[Worth]] = {}
    for each in asked:
        if not (each.matrix.task.endswith(LOSS) and len(asked) > 1):  # the loss of answers is not a separate task
            of_tuning.setdefault(each.model.tuning, []).append(each)
    verdicts = {tuning: judged(worths) for tuning, worths in of_tuning.items()}
    several = found.reading.several_tunings
    words = [_sentence(worths, verdicts[tuning], several) for tuning, worths in of_tuning.items()]
    waits = sum(1 for each in found.worths if each.matrix is found.transfers[0] and each.cell.shown is None)
    if waits and any(verdicts.values()):
        words.append(
            f"So far: {counted(waits, 'transfer')} without a score {'is' if waits == 1 else 'are'} not included."
        )
    return Lead(_in_a_word(set(verdicts.values())), " ".join(words))


def _in_a_word(verdicts: set[str | None]) -> str:
    if len(verdicts) > 1:
        yes = BETTER in verdicts or MIXED in verdicts
        return "In part." if yes else "Not shown."
    return {
        BETTER: "Yes.",
        WORSE: "No.",
        MIXED: "In part.",
        HARMLESS: "No gain, no harm.",
        OPEN: "The data do not show it.",
        None: "No answer yet.",
    }[verdicts.pop()]


def _sentence(worths: Sequence[Worth], verdict: str | None, several: bool) -> str:
    """What is known of one transfer against its new base."""
    model = worths[0].model
    name, base = model.name(several), model.target
    if verdict is None:
        cell = worths[0].cell
        why = "failed (see below)" if cell.status == FAILED else "not done yet" if cell.pending else "without a score"
        return f"{name} is {why}."
    better, worse, even = (
        [worth.matrix.task for worth in worths if worth.cell.shown is not None and worth.cell.clearly == sign]
        for sign in (1, -1, 0)
    )
    if verdict == HARMLESS:
        return f"{name} is not significantly better than {base} on {_tasks(even)}, and no worse by {_POINTS}."
    if verdict == OPEN:
        first = next(worth for worth in worths if worth.cell.gain is not None)
        gain = first.cell.gain
        assert gain is not None
        return (
            f"Whether {name} is better or worse than {base} is unclear: on {first.matrix.task} the difference is "
            f"{points(gain, first.matrix.share)} (n = {first.matrix.n:,})."
        )
    told = [f"significantly better than {base} on {_tasks(better)}"] if better else []
    told += [f"significantly worse than {base} on {_tasks(worse)}"] if worse else []
    rest = f"; on {_tasks(even)} no difference is shown" if even else ""
    return f"{name} is {' and '.join(told)}{rest}."


def _tasks(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= _MOST_NAMED else f"{len(names)} tasks"


def _facts(shown: Worth, several: bool) -> Facts:
    """Three numbers of one transfer on one task, each with its interval and a sentence."""
    cell, share, task = shown.cell, shown.matrix.share, shown.matrix.task
    assert cell.shown is not None
    unit = " points" if share else ""
    name, base, of = cell.model.name(several), cell.model.target, f", {cell.model.tuning}" if several else ""
    facts = []
    if cell.gain is not None:
        clear = {1: "Significantly better", -1: "Significantly worse", 0: "Not significantly different"}[cell.clearly]
        harm = f", and no worse by {_POINTS}" if cell.clearly == 0 and shown.harmless else ""
        alone = DASH if shown.base is None else _short(shown.base.value, share)
        words = f"{name} scores {_short(cell.shown.value, share)}, {base} alone {alone}. {clear}{harm}."
        value = f"{signed(cell.gain.value, share)}{unit}"
        facts.append(Fact("Gain over the new base", value, span(cell.gain.interval, share, sign=True), words))
    if cell.recovered is not None:
        value, _, interval = ratio(cell.recovered).partition(" ")
        words = f"As a share of what fine-tuning {base} itself gains (1: all, 0: nothing)."
    else:
        value, interval = DASH, ""
        words = (
            f"Not known: fine-tuning {base} itself is not scored."
            if shown.tuned is None
            else f"Not computed: fine-tuning {base} itself has no significant gain."
        )
    facts.append(Fact("Recovered gain", value, interval, words))
    old = f"FT({cell.model.source}{of})"
    if shown.over_old is not None and shown.old is not None and shown.base is not None:
        value = f"{signed(shown.over_old.value, share)}{unit}"
        words = (
            f"{old} scores {_short(shown.old.value, share)}, {base} {_short(shown.base.value, share)}. {_still(shown)}"
        )
        facts.append(
            Fact("Over the old fine-tuned model", value, span(shown.over_old.interval, share, sign=True), words)
        )
    else:
        facts.append(Fact("Over the old fine-tuned model", DASH, "", f"Not known: {old} is not scored on {task}."))
    families = f", {shown.matrix.families} model families" if shown.matrix.families > 1 else ""
    return Facts(f"{name} on {task}, n = {shown.matrix.n:,}{families}, 95 % intervals", facts)


def _still(shown: Worth) -> str:
    """Section 3.2's question."""
    return {
        -1: f"The new base is significantly behind the old fine-tuned model, so recycling can pay ({_PAPER}).",
        1: f"The new base alone is significantly ahead of the old fine-tuned model: then recycling has no advantage "
        f"({_PAPER}).",
        0: f"It is unclear whether the new base is still behind it, which decides whether recycling pays ({_PAPER}).",
    }[shown.base_clearly]


def _short(value: float, share: bool) -> str:
    return number(value, share) + ("\N{NO-BREAK SPACE}%" if share else "")
