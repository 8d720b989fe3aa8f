"""The page of an adaptation: which rung was chosen and what it gained, all rungs, why each was kept or not, and what was asked.

All numbers are the file's. Where the user gave no answers, figures are of agreement with the tuned source, and every one says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean

from tuneport.reporting.render.ladder_figure import REFERENCE, DrawnModel, ladder_figure
from tuneport.reporting.sections.parts import (
    Bullets,
    Csv,
    Fact,
    Facts,
    Figure,
    Fold,
    Lead,
    Legend,
    Part,
    Piece,
    Pre,
    Section,
    Table,
    TableColumn,
    Value,
    ends,
    optional,
)
from tuneport.reporting.tables.wording import DASH, PER_CENT, counted, duration, listed, minus, number, signed, span
from tuneport.results.adaptation_reading import (
    ADD,
    QUALITY,
    SOURCE,
    TARGET,
    AdaptationResult,
    LadderModel,
    PromptPart,
    ReadChange,
    ReadRung,
    ReadShare,
)

NAMES = {TARGET: "the target", SOURCE: "the tuned source"}
_SHORT = {
    QUALITY: "right answers",
    "agreement": "agreement with the tuned source",
}
_CAVEAT = (
    "Agreement, not quality: an answer counts where it is the same as that of the tuned source, right or wrong. For quality, give "
    "prompts with answers as the test part."
)
_PARTS = {
    "prompts": "rungs are fitted on these",
    "examples": "rungs are fitted on these; tune learns their answers",
    "select": "decide which rung is kept",
    "test": "give the figures that are reported",
    "retain": "texts whose loss is measured",
    "near": "texts on which a rung that trains stays near the target",
}
# What the test part says of the rung that the select part chose.
_ANSWERS = {
    1: ("Yes", ""),
    0: ("Perhaps", " Its interval includes 0: the test prompts alone do not show a difference."),
    -1: ("Doubtful", " On the test prompts it is worse, though it was better on those of select."),
}
_DIGITS = 12  # of a digest, in the table


def summary(found: AdaptationResult) -> str:
    """What is in the file."""
    names = {each.get("role"): str(each.get("name")) for each in found.inputs}
    models = f"{names['tuned']} onto {names['target']}: " if {"tuned", "target"} <= names.keys() else ""
    tried = sum(rung.was_tried for rung in found.rungs)
    return f"{models}{tried} of {counted(len(found.rungs), 'rung')} tried, {found.chosen} chosen, by tuneport adapt."


def sections(found: AdaptationResult) -> list[Section]:
    """The sections in their order."""
    every = [_answer(found), _decisions(found), _scales(found), _layer_scales(found), _asked(found), _settings(found)]
    return [section for section in every if section is not None]


def _answer(found: AdaptationResult) -> Section:
    parts: list[Part] = [_lead(found), *_facts(found)]
    if not found.is_quality:
        parts.append(_CAVEAT)
    if found.chosen == ADD and (needed := _needed(found)):
        parts += ["What was found of the others, and what a decision would take:", Bullets(needed)]
    parts += [_table(found), Legend(_LEGEND), *_figure(found)]
    return Section("answer", "Was more than plain addition needed?", parts)


_LEGEND = (
    "▲ ▼: the interval of the paired difference lies above or below 0. Loss: nats per token of the texts to keep. Repetition: share of "
    "runs of four tokens that an answer has more than once."
)


def _lead(found: AdaptationResult) -> Lead:
    rung = found.rung(found.chosen)
    if rung is None:
        return Lead("Not known.", "The record does not say which rung was chosen.")
    if rung.name != ADD:
        change = None if rung.measured.test is None else rung.measured.test.change
        if change is None:
            return Lead(
                f"{rung.name}.", f"It was chosen; the record has no figures of the test part for it.{_sort(found)}"
            )
        word, doubt = _ANSWERS[change.sign]
        told = f"{_points(change)} against plain addition, {_scored(found, rung.measured.test)}."
        return Lead(f"{word}: {rung.name}.", f"{told}{doubt}{_sort(found)}")
    scored = "" if rung.measured.test is None else f" Plain addition has {_scored(found, rung.measured.test)}."
    others = [other for other in found.rungs if other.name != ADD and other.was_tried]
    harmed = [other.name for other in others if other.status == "harmed"]
    if not others:
        return Lead("Not tried.", f"The output is plain addition; no other rung was tried.{scored}{_sort(found)}")
    if harmed:
        told = f"{listed(harmed)} was better on the select part, but lost too much of what the target could do."
        return Lead("Plain addition stays.", f"{told}{scored}{_sort(found)}")
    return Lead("Plain addition stays.", f"Nothing was proved better on the select part.{scored}{_sort(found)}")


def _sort(found: AdaptationResult) -> str:
    return "" if found.is_quality else " This is agreement, not quality."


def _points(change: ReadChange) -> str:
    return f"{signed(change.value, True)} points {span(change.interval, True, sign=True)}".rstrip()


def _scored(found: AdaptationResult, share: ReadShare | None) -> str:
    if share is None:
        return "not measured"
    of = "right answers" if found.is_quality else "of the answers of the tuned source"
    return f"{_per_cent(share)} {of} (n = {share.n:,})"


def _per_cent(share: ReadShare) -> str:
    return f"{number(share.value, True)}{PER_CENT} {span(share.interval, True)}".rstrip()


def _needed(found: AdaptationResult) -> list[str]:
    """Why no other rung that was asked for was kept: each reason says what it would take."""
    others = [rung for rung in found.rungs if rung.name != ADD and rung.name in found.wanted and rung.why]
    reasons: dict[str, list[str]] = {}
    for rung in others:
        reasons.setdefault(rung.why, []).append(rung.name)
    return [f"{listed(names)}: {why}" for why, names in reasons.items()]


def _facts(found: AdaptationResult) -> list[Part]:
    """The chosen rung against plain addition, its score, and what it retains."""
    rung, added = found.rung(found.chosen), found.rung(ADD)
    if rung is None or rung.measured.test is None:
        return []
    share, facts = rung.measured.test, []
    if rung.name != ADD and share.change is not None:
        facts.append(
            Fact(
                "Against plain addition",
                f"{signed(share.change.value, True)} points",
                span(share.change.interval, True, sign=True),
                f"{rung.name} minus {ADD}, on the same test prompts.",
            )
        )
    others = [(NAMES[role], model.test) for role, model in found.references.items()]
    others += [("plain addition", added.measured.test)] if added is not None and rung.name != ADD else []
    told = [f"{name}: {number(each.value, True)}{PER_CENT}" for name, each in others if each is not None]
    label = "Right answers" if found.is_quality else "Agreement with the tuned source"
    words = f"{'; '.join(told)}."[:1].upper() + f"{'; '.join(told)}."[1:] if told else ""
    facts.append(Fact(label, f"{number(share.value, True)}{PER_CENT}", span(share.interval, True), words))
    facts += _kept(found, rung, added)
    return [Facts(f"{rung.name} on the test part, n = {share.n:,}, 95 % intervals", facts)]


def _kept(found: AdaptationResult, rung: ReadRung, added: ReadRung | None) -> list[Fact]:
    """The loss of the texts to keep."""
    loss = rung.measured.retention.loss
    if loss is None:
        return []
    told = []
    if added is not None and rung.name != ADD and (before := added.measured.retention.loss) is not None:
        told.append(f"{signed(loss - before, False)} against plain addition")
    target = found.references.get(TARGET)
    if target is not None and target.retention.loss is not None:
        told.append(f"the target itself: {number(target.retention.loss, False)}")
    words = "; ".join(["Nats per token; lower is better", *told]) + "."
    return [Fact("Loss of the texts to keep", number(loss, False), "", words)]


def _table(found: AdaptationResult) -> Table:
    """The models that are compared with, and every rung."""
    measure = _SHORT.get(found.test_measure, found.test_measure)
    columns = [
        TableColumn("model"),
        TableColumn("status"),
        TableColumn("test", True, f"{measure}, in per cent, with its 95 % interval"),
        TableColumn("against add", True, "paired difference in points, with its 95 % interval"),
        TableColumn("loss", True, "of the texts to keep, in nats per token; lower is better"),
        TableColumn("answers that end", True, "by themselves, in per cent"),
        TableColumn("repetition", True, "in per cent"),
        TableColumn("length", True, "of an answer, in tokens"),
        TableColumn("prompts", True, "that it was fitted on"),
        TableColumn("steps", True, "weight updates"),
        TableColumn("time", True),
    ]
    rows, lines = [], []
    for role, model in found.references.items():
        rows.append([Value(NAMES[role]), Value(DASH), *_figures(model), *[Value(DASH)] * 3])
        lines.append([NAMES[role], None, *_unrounded(model), None, None, None])
    for rung in found.rungs:
        chosen = " (chosen)" if rung.name == found.chosen else ""
        rows.append(
            [
                Value(rung.name),
                Value(f"{rung.status}{chosen}"),
                *_figures(rung.measured),
                optional(rung.examples or None, lambda count: f"{count:,}"),
                optional(rung.steps or None, lambda count: f"{count:,}"),
                optional(rung.seconds if rung.was_tried else None, duration),
            ]
        )
        lines.append([rung.name, rung.status, *_unrounded(rung.measured), rung.examples, rung.steps, rung.seconds])
    names = ["model", "status", "test", "low", "high", "n", "against_add", "against_add_low", "against_add_high", "loss", "ended", "repeated", "length", "prompts", "steps", "seconds"]  # fmt: skip
    return Table(f"Rungs on the test part: {measure}", columns, rows, Csv("rungs", names, lines), style="matrix")


def _figures(model: LadderModel) -> list[Value]:
    kept = model.retention
    return [
        _share(model.test),
        _change(None if model.test is None else model.test.change),
        optional(kept.loss, lambda loss: number(loss, False)),
        optional(kept.ended, lambda share: number(share, True)),
        optional(kept.repeated, lambda share: number(share, True)),
        optional(kept.length, lambda tokens: f"{tokens:.1f}"),
    ]


def _unrounded(model: LadderModel) -> list[float | None]:
    test, kept = model.test, model.retention
    change = None if test is None else test.change
    shown = [None] * 4 if test is None else [test.value, *ends(test.interval), test.n]
    moved = [None] * 3 if change is None else [change.value, *ends(change.interval)]
    return [*shown, *moved, kept.loss, kept.ended, kept.repeated, kept.length]


def _share(share: ReadShare | None) -> Value:
    if share is None:
        return Value(DASH, style="empty")
    pieces = [Piece(number(share.value, True), "value")]
    pieces += [Piece(span(share.interval, True), "interval")] if share.interval else []
    return Value(tuple(pieces), share.value)


def _change(change: ReadChange | None) -> Value:
    if change is None:
        return Value(DASH, style="empty")
    pieces = [Piece(signed(change.value, True), "value")]
    if change.sign:
        pieces.append(Piece("▲", "mark", "clearly above") if change.sign > 0 else Piece("▼", "mark", "clearly below"))
    pieces += [Piece(span(change.interval, True, sign=True), "interval")] if change.interval else []
    return Value(tuple(pieces), change.value, "worse" if change.sign < 0 else None)


def _figure(found: AdaptationResult) -> list[Part]:
    """The test part as a figure: target, rungs, source."""
    drawn = [
        DrawnModel(rung.name, "chosen" if rung.name == found.chosen else rung.status, rung.measured.test)
        for rung in found.rungs
        if rung.measured.test is not None
    ]
    drawn = [*_references(found, TARGET), *drawn, *_references(found, SOURCE)]
    if not drawn:
        return []
    measure = _SHORT.get(found.test_measure, found.test_measure)
    csv = Csv("test", ["model", "status", "value", "low", "high", "n"], [[m.name, m.status, m.share.value, *ends(m.share.interval), m.share.n] for m in drawn])  # fmt: skip
    told = ", ".join(f"{model.name} {number(model.share.value, True)}" for model in drawn)
    words = f"Share of the test part, in per cent, with 95 % intervals ({measure}): {told}."
    words += "" if found.is_quality else " The tuned source agrees with itself: 100."
    return [Figure("How far each rung comes.", words, ladder_figure(drawn, f"{measure}, %"), csv)]


def _references(found: AdaptationResult, role: str) -> list[DrawnModel]:
    model = found.references.get(role)
    return [] if model is None or model.test is None else [DrawnModel(NAMES[role], REFERENCE, model.test)]


def _decisions(found: AdaptationResult) -> Section:
    columns = [
        TableColumn("rung"),
        TableColumn("status"),
        TableColumn("from", title="the rung that it was trained from"),
        TableColumn("select", True, f"{_SHORT.get(found.select_measure, found.select_measure)}, in per cent"),
        TableColumn("against the best so far", True, "paired difference in points, with its 95 % interval"),
        TableColumn("why"),
    ]
    rows = [
        [
            Value(rung.name),
            Value(rung.status),
            optional(rung.start),
            _share(rung.measured.select),
            _change(None if rung.measured.select is None else rung.measured.select.change),
            Value(rung.why or DASH),
        ]
        for rung in found.rungs
    ]
    intro = (
        "A rung replaces the best so far only if the whole interval of their paired difference on the select part is above 0, and if it "
        "does not lose much of what the target could do. The test part has no part in this."
    )
    table = Table("Decisions on the select part", columns, rows, style="worded")
    starts = [_starts(rung) for rung in found.rungs if len(rung.starts) > 1]
    return Section("decisions", "Why was each rung kept or not?", [intro, table, *starts])


def _starts(rung: ReadRung) -> str:
    """A rung that was trained from several."""
    told = listed(
        f"{start} ({number(value, True)}{PER_CENT} on the select part)" for start, value in rung.starts.items()
    )
    return f"{rung.name} was trained from {told}. The better one is the one that was judged."


def _scales(found: AdaptationResult) -> Section | None:
    """What each α brought, where a rung has them."""
    rung = next((rung for rung in found.rungs if rung.tried), None)
    if rung is None:
        return None
    columns = [
        TableColumn("α", True),
        TableColumn("agreement, %", True, "prompts answered as the tuned source answers them"),
        TableColumn("loss", True, "of the tuned source's answers, in nats per token"),
        TableColumn("chosen"),
    ]
    rows = [
        [
            Value(minus(f"{each.scale:g}"), each.scale),
            optional(each.agreement, lambda share: number(share, True)),
            optional(each.loss, lambda loss: number(loss, False)),
            Value("chosen" if each.scale == rung.scale else DASH),
        ]
        for each in rung.tried
    ]
    csv = Csv("scales", ["alpha", "agreement", "loss"], [[t.scale, t.agreement, t.loss] for t in rung.tried])
    intro = (
        "target + α·Δ on prompts that the rungs are fitted on; 0 is the target, 1 (or the scale that was given) is plain addition. The α "
        "with the highest agreement is tried on the select part; of equals, the one with the lowest loss of the tuned source's answers."
    )
    return Section("scales", "Which scale was tried?", [intro, Table("Scales", columns, rows, csv)])


def _layer_scales(found: AdaptationResult) -> Section | None:
    """The α of each kind of tensor over the layers, where a rung has them."""
    told = next((rung.layers for rung in found.rungs if rung.layers), None)
    if told is None:
        return None
    kinds: dict[str, list[float]] = {}
    for each in told:
        kinds.setdefault(each.kind, []).append(each.alpha)
    columns = [
        TableColumn("kind of tensor"),
        TableColumn("layers", True, "1: the only one, or outside the layers"),
        *(TableColumn(f"{name} α", True) for name in ("lowest", "mean", "highest")),
    ]
    rows = [
        [
            Value(kind),
            Value(str(len(alphas)), len(alphas)),
            *(Value(minus(f"{value:.2f}"), value) for value in (min(alphas), fmean(alphas), max(alphas))),
        ]
        for kind, alphas in kinds.items()
    ]
    csv = Csv("layer-scales", ["layer", "kind", "alpha"], [[each.layer, each.kind, each.alpha] for each in told])
    intro = (
        "target + α·Δ with an α of its own for each kind of tensor in each layer, fitted on the loss of the tuned source's answers "
        "(of the given ones, where there are any). 1 is plain addition, 0 leaves the target's tensor as it is."
    )
    return Section(
        "layer-scales", "Which scales do the layers get?", [intro, Table("Layer scales", columns, rows, csv)]
    )


def _asked(found: AdaptationResult) -> Section | None:
    if not found.parts:
        return None
    columns = [
        TableColumn("part"),
        TableColumn("examples", True),
        TableColumn("digest"),
        TableColumn("what for"),
    ]
    rows = [
        [
            Value(part.name),
            optional(part.examples, lambda count: f"{count:,}"),
            Value(part.digest[:_DIGITS] or DASH),
            Value(_PARTS.get(part.name, DASH)),
        ]
        for part in found.parts
    ]
    csv = Csv("parts", ["part", "examples", "digest"], [[p.name, p.examples, p.digest] for p in found.parts])
    measured = [f"{name}: {_SHORT.get(measure, measure)}" for name, measure in (("select", found.select_measure), ("test", found.test_measure))]  # fmt: skip
    parts: list[Part] = [
        f"No prompt is in two parts, and none that is nearly the same. Measured: {'; '.join(measured)}."
    ]
    if _own_texts(found.parts):
        parts.append(
            "The texts to keep are the target's own: it wrote them, beginning with nothing. Half of them are measured; distil is trained "
            "on the other half, to stay near the target (unless without_retain is set)."
        )
    return Section("asked", "What was asked?", [*parts, Table("Parts", columns, rows, csv, style="worded")])


def _own_texts(parts: Sequence[PromptPart]) -> bool:
    return all(part.name != "retain" for part in parts)


def _settings(found: AdaptationResult) -> Section:
    parts: list[Part] = [
        "Intervals are 95 %: Wilson's for shares, from a bootstrap over prompts for paired differences. What is measured is the model as it "
        "is stored, after rounding."
    ]
    warnings = list(dict.fromkeys([*found.warnings, *(each for rung in found.rungs for each in rung.warnings)]))
    parts += ["Warnings of the run:", Bullets(warnings)] if warnings else []
    models = [f"{each.get('role')}: {each.get('name')}{_at(each.get('revision'))}" for each in found.inputs]
    parts += [Bullets(models)] if models else []
    told = {
        "inputs": [dict(each) for each in found.inputs],
        "settings": found.settings,
        "versions": found.versions,
    }
    parts.append(
        Fold(
            "Every setting and version",
            [],
            [Pre(json.dumps(told, indent=1, ensure_ascii=False), code=True)],
            page_only=True,
        )
    )
    return Section("settings", "How was it done?", parts)


def _at(revision: object) -> str:
    return f" at {revision}" if isinstance(revision, str) and revision else ""
