"""The page of a comparison: the verdict, the gates, what prompts said, and heat maps by layer and kind. All numbers are the file's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.reporting.render.layer_maps import layer_map
from tuneport.reporting.sections.parts import (
    Bullets,
    Csv,
    Fact,
    Facts,
    Figure,
    Fold,
    Group,
    Lead,
    Part,
    Piece,
    Pre,
    Section,
    Table,
    TableColumn,
    Value,
    optional,
)
from tuneport.reporting.tables.wording import DASH, counted, minus
from tuneport.results.comparison_reading import FIGURE_NAMES, ComparedPair, ComparisonResult, Figures, LayerFigures
from tuneport.results.torn_json import number_or

# What a map shows: the figure, its title, and what it says.
_MAPS = (
    ("relative_shift", "How far the versions are apart.", "‖target − base‖ / ‖base‖ of each kind in each layer."),
    ("relative_diff", "Where the fine-tuning is.", "‖Δ‖ / ‖base‖ of each kind in each layer."),
    ("cosine_diff_shift", "Whether both point the same way.", "Cosine of Δ and target − base; near 0 they are unrelated."),
    ("rounding_loss", "What rounding loses.", "‖(out − target) − Δ‖ / ‖Δ‖ once the output is stored in the target's dtype."),
)  # fmt: skip
_FIGURES = {"parameters": "elements compared", **FIGURE_NAMES}
_STATUS = {"pass": ("✓", "passed"), "warn": ("!", "doubtful"), "fail": ("✗", "failed")}
_MODELS = {"source": "tuned", "target": "target", "carried": "target + Δ"}
_ROWS = (
    ("prompts", "loss", "loss of the tuned model's answers, nats per token"),
    ("prompts", "alike", "same answer as the tuned model"),
    ("prompts", "kl", "KL from the tuned model, nats per token"),
    ("answers", "accuracy", "right answers"),
    ("retain", "", "loss of the texts to keep, nats per token"),
)
_SHARES = ("alike", "accuracy")


def summary(found: ComparisonResult) -> str:
    """What is in the file."""
    if len(found.pairs) == 1:
        return f"{found.pairs[0].name}, compared by tuneport compare."
    return f"{counted(len(found.pairs), 'pair')}, compared and ranked by tuneport compare."


def sections(found: ComparisonResult) -> list[Section]:
    """The verdict first; of several pairs a ranking, then each pair, all but the first folded."""
    if len(found.pairs) == 1:
        return [section for section in _of_pair(found.pairs[0]) if section is not None]
    made = [_ranking(found.pairs)]
    for number, pair in enumerate(found.pairs, 1):
        for section in _of_pair(pair):
            if section is not None:
                title = f"{number}. {pair.name}: {section.title}"
                made.append(Section(f"{section.anchor}-{number}", title, section.parts, folded=number > 1))
    return made


def _of_pair(pair: ComparedPair) -> tuple[Section | None, ...]:
    return _answer(pair), _gates(pair), _asked(pair), _layers(pair), _figures(pair)


def _ranking(pairs: Sequence[ComparedPair]) -> Section:
    columns = [TableColumn("pair"), TableColumn("verdict"), *(TableColumn(_FIGURES[name], True) for name in _RANKED), TableColumn("failed or doubtful")]  # fmt: skip
    rows = [
        [
            Value(f"{number}. {pair.name}", number),
            Value(pair.word),
            *(_value(pair.figures, name) for name in _RANKED),
            Value(", ".join(gate.name for gate in pair.gates if gate.status != "pass") or DASH),
        ]
        for number, pair in enumerate(pairs, 1)
    ]
    best = pairs[0]
    lead = Lead(f"{best.name} is the best of {len(pairs)}.", f"Its verdict is: {best.word}.")
    return Section("answer", "Which will work best?", [lead, Table("Pairs, the best first", columns, rows)])


_RANKED = ("relative_shift", "relative_diff", "cosine_base_target")


def _answer(pair: ComparedPair) -> Section:
    """The verdict, its reasons, and what to try."""
    first, *others = pair.reasons or ("No reason is given.",)
    parts: list[Part] = [Lead(f"{pair.word.capitalize()}.", first), _facts(pair)]
    parts += [Bullets(others)] if others else []
    parts += [f"Next: {pair.remedy}"] if pair.remedy else []
    return Section("answer", "Will the transfer work?", parts)


def _facts(pair: ComparedPair) -> Facts:
    facts = [
        Fact("Distance of the versions", _told(pair.figures.get("relative_shift")), "", "‖target − base‖ / ‖base‖."),
        Fact("Size of the fine-tuning", _told(pair.figures.get("relative_diff")), "", "‖Δ‖ / ‖base‖."),
    ]
    if pair.gain is not None:
        facts.append(_foreseen("Expected gain", pair.gain, "Share of what the fine-tuning gained; 1 is all of it."))
    if pair.retention is not None:
        facts.append(
            _foreseen(
                "Expected retention",
                pair.retention,
                "Share of the target's other abilities that it keeps; 1 is all of them.",
            )
        )
    basis = "From the weights" + ("" if pair.calibrated else "; no calibration covers this pair")
    return Facts(basis, facts)


def _foreseen(label: str, interval: tuple[float, float, float], words: str) -> Fact:
    low, middle, high = interval
    return Fact(label, minus(f"{middle:.2f}"), minus(f"[{low:.2f}, {high:.2f}]"), words)


def _gates(pair: ComparedPair) -> Section | None:
    if not pair.gates:
        return None
    columns = [TableColumn("gate"), TableColumn("status"), TableColumn("value", True), TableColumn("threshold", True), TableColumn("reason")]  # fmt: skip
    rows = [
        [
            Value(gate.name),
            Value((Piece(*_mark(gate.status)), Piece(f" {gate.status}", "value")), gate.status),
            optional(gate.value, _told),
            optional(gate.threshold, _told),
            Value(gate.reason),
        ]
        for gate in pair.gates
    ]
    failed = sum(gate.status == "fail" for gate in pair.gates)
    warned = sum(gate.status == "warn" for gate in pair.gates)
    intro = f"{counted(failed, 'gate')} failed, {warned} doubtful, of {len(rows)}. A failed gate makes the verdict unlikely."
    return Section("gates", "What speaks against it?", [intro, Table("Gates", columns, rows, style="worded")])


def _mark(status: str) -> tuple[str, str, str]:
    sign, meaning = _STATUS.get(status, ("?", "unknown"))
    return sign, "mark", meaning


def _asked(pair: ComparedPair) -> Section | None:
    """What was measured on prompts and texts for the three models."""
    probe = pair.probe
    if probe is None:
        return None
    columns = [TableColumn("measure"), *(TableColumn(name, True) for name in _MODELS.values())]
    rows = []
    for field, name, words in _ROWS:
        held = probe.get(field)
        held = held.get(name) if name and isinstance(held, dict) else held
        if isinstance(held, dict):
            rows.append([Value(words), *(_estimate(held.get(role), name in _SHARES) for role in _MODELS)])
    answers = probe.get("answers")
    told = answers.get("condition") if isinstance(answers, dict) else None
    parts: list[Part] = [
        "Measured before anything is written, with target + Δ in memory. Losses of answers are in nats per token of the tuned model; "
        "95 % intervals come from a bootstrap over prompts or texts.",
        Table("Measured on prompts and texts", columns, rows),
    ]
    if isinstance(told, str):
        parts.insert(0, Lead("Old tuned model or new base?", told))
    warnings = probe.get("warnings")
    parts += [Bullets(list(map(str, warnings)))] if isinstance(warnings, list) and warnings else []
    return Section("prompts", "What do prompts and texts show?", parts)


def _estimate(found: Any, share: bool) -> Value:
    """A figure of a probe, with its interval."""
    told = found if isinstance(found, Mapping) else {}
    value, ends = number_or(told.get("value"), None), told.get("interval")
    if value is None:
        return Value(DASH, style="empty")
    pieces = [Piece(_number(value, share), "value")]
    known = [number_or(end, None) for end in ends] if isinstance(ends, list) else []
    if len(known) == 2 and None not in known:
        pieces.append(Piece(f"{_number(known[0], share)} to {_number(known[1], share)}", "interval"))
    return Value(tuple(pieces), value)


def _number(value: float, share: bool) -> str:
    return minus(f"{100 * value:.1f} %" if share else f"{value:.4g}")


def _layers(pair: ComparedPair) -> Section | None:
    """Heat maps of tensors in layers; the others are in a table."""
    inside = [row for row in pair.layers if row.layer is not None]
    outside = [row for row in pair.layers if row.layer is None]
    maps = [made for name, title, words in _MAPS if (made := _map(inside, name, title, words)) is not None]
    told = "The maps show matrices only; the tables below them include norms and biases."
    parts: list[Part] = [told, Group(maps, "grid")] if maps else []
    if outside:
        columns = [TableColumn("tensor"), *(TableColumn(_FIGURES[name], True) for name, _, _ in _MAPS)]
        rows = [[Value(row.kind), *(_value(row.figures, name) for name, _, _ in _MAPS)] for row in outside]
        parts += ["Tensors that belong to no layer:", Table("Tensors outside the layers", columns, rows)]
    return Section("layers", "Where in the model?", parts) if parts else None


def _map(rows: Sequence[LayerFigures], name: str, title: str, words: str) -> Figure | None:
    known = {(row.kind, row.layer): row.figures[name] for row in rows if name in row.figures}
    drawn = {row.kind for row in rows if row.matrix and name in row.figures}
    if not drawn:
        return None
    layers = sorted({row.layer for row in rows if row.layer is not None})
    kinds = list(dict.fromkeys(row.kind for row in rows))
    values = [[known.get((kind, layer)) for layer in layers] for kind in kinds]
    short = _short(kinds)
    lines = [[kind, *row] for kind, row in zip(kinds, values, strict=True)]
    csv = Csv(name, ["kind", *(f"layer {layer}" for layer in layers)], lines)
    columns = [TableColumn("kind"), *(TableColumn(str(layer), True) for layer in layers)]
    cells = [[Value(kind), *(optional(value, _told) for value in row)] for kind, row in zip(short, values, strict=True)]
    shown = [(kind, row) for kind, whole, row in zip(short, kinds, values, strict=True) if whole in drawn]
    numbers = [value for _, row in shown for value in row if value is not None]
    ends = f"From {_told(min(numbers))} to {_told(max(numbers))}; bright is high."
    drawing = layer_map([kind for kind, _ in shown], layers, [row for _, row in shown], _FIGURES[name])
    table = Table(f"{title} {words}", columns, cells)
    return Figure(title, f"{words} {ends}", drawing, csv, table)


def _short(kinds: Sequence[str]) -> list[str]:
    """Kinds without what stands before the layer's number and without ``.weight``, where they stay apart."""
    short = [kind.partition("#.")[2].removesuffix(".weight") or kind for kind in kinds]
    return short if len(set(short)) == len(short) else list(kinds)


def _figures(pair: ComparedPair) -> Section:
    columns = [
        TableColumn("figure"),
        *(TableColumn(name, True) for name in ("all tensors", "matrices", "norms and biases")),
    ]
    parts = (pair.figures, pair.matrices, pair.vectors)
    rows = [[Value(words), *(_value(part, name) for part in parts)] for name, words in _FIGURES.items()]
    lines = [[name, *(part.get(name) for part in parts)] for name in _FIGURES]
    table = Table("Figures of the pair", columns, rows, Csv("figures", ["figure", "all", "matrices", "vectors"], lines))
    made: list[Part] = [table]
    if pair.tuned_target:
        told = {
            "cosine_diffs": "cosine of Δ and the target's own",
            "sign_agreement": "share of entries where both have one sign",
        }
        rows = [[Value(words), _value(pair.tuned_target, name)] for name, words in told.items()]
        made.append(
            Table("Δ beside the target's own fine-tuning", [TableColumn("figure"), TableColumn("value", True)], rows)
        )
    inputs = json.dumps([dict(each) for each in pair.inputs], indent=1, ensure_ascii=False)
    made.append(Fold("What was compared", [], [f"{pair.formula}", Pre(inputs, code=True)]))
    return Section("figures", "All figures", made)


def _value(figures: Figures, name: str) -> Value:
    value = figures.get(name)
    shown = None if value is None else f"{int(value):,}" if name == "parameters" else _told(value)
    return Value(DASH, style="empty") if value is None or shown is None else Value(shown, value)


def _told(value: float | None) -> str:
    return DASH if value is None else minus(f"{value:.3g}")
