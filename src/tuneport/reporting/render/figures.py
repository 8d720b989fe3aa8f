"""Figures for plotly: plain dictionaries made from the tables.

Every colour has a symbol, a dash or a text with the same meaning. Axes, grids and letters get their colours from the
page's style sheet, so one figure works in light, dark and print; traces have colours that are visible on both. Names
come from files, and plotly reads a little HTML in texts, so each is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from tuneport.files.printable import printable
from tuneport.reporting.tables import predictors as along
from tuneport.reporting.tables.matrix import Cell, Matrix
from tuneport.reporting.tables.training_curves import Panel
from tuneport.reporting.tables.wording import PER_CENT, minus, number, points, ratio, span, with_unit
from tuneport.results.schema import RECYCLED, TUNED, Model

Figure = dict[str, Any]
# 3 : 1 and more against white and against the dark background; distinct with the common colour blindnesses.
COLOURS = ("#2f7fc1", "#d1600a", "#12936f", "#b3609a", "#a37a00", "#6b75c9", "#c4524f", "#4d8b93")
PLAIN = "#7a7f87"
# Nuñez, Anderton and Renslow 2018: as even to the eye as to most colour-blind eyes; dark is low.
CIVIDIS = (
    "#00204c", "#00306f", "#2a406c", "#48526b", "#5e626e", "#727374", "#878479", "#9e9677", "#b6a971", "#d0be67", "#ead357",
    "#ffe945",
)  # fmt: skip
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "star", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def text(value: str) -> str:
    """A text that plotly shows as it stands."""
    return escape(printable(value, "\N{REPLACEMENT CHARACTER}"), quote=False).replace("\n", " ")


def heat_map(matrix: Matrix, several_tunings: bool) -> Figure:
    """The matrix by colour (cividis: perceptually uniform, safe for colour blindness), each cell with its number."""
    rows = list(reversed(matrix.rows))  # plotly counts from below
    values = [[None if not c or not c.shown else _scaled(c.shown.value, matrix.share) for c in r.cells] for r in rows]
    known = [value for row in values for value in row if value is not None]
    low = 0.0 if matrix.share else min(known, default=0.0)
    high = max(max(known, default=100.0), low + (10.0 if matrix.share else 1e-3))
    told = [
        [
            _on_colour(_in_cell(cell, matrix.share), value, (low, high), matrix.share)
            for cell, value in zip(*row, strict=True)
        ]
        for row in zip((row.cells for row in rows), values, strict=True)
    ]
    colours = _scale(matrix.share)
    trace = {
        "type": "heatmap", "x": [text(target) for target in matrix.targets], "y": [text(row.label) for row in rows], "z": values,
        "text": told, "texttemplate": "%{text}",
        "textfont": {"size": 12},  # else plotly measures the markup too, and shrinks the letters
        **_hovering([[_hover(cell, matrix.share, several_tunings) for cell in row.cells] for row in rows]),
        "hoverongaps": False,
        "colorscale": [[place / (len(colours) - 1), colour] for place, colour in enumerate(colours)],
        "zmin": low, "zmax": high, "xgap": 2, "ygap": 2,
        "showscale": False,  # every cell has its number
    }  # fmt: skip
    axis = {"type": "category", "showgrid": False, "fixedrange": True, "ticks": "", "showline": False}
    axes = {"xaxis": {**axis, "side": "top"}, "yaxis": {**axis, "automargin": True}}
    return {
        "data": [trace],
        "layout": {"height": 96 + 44 * len(rows), **axes, "margin": {"l": 8, "r": 8, "t": 36, "b": 8}},
    }


def curve_figure(panel: Panel, several_tunings: bool, versions: Sequence[str]) -> Figure:
    """Accuracy against steps of one target, one line a start; a dotted line where plain fine-tuning ends."""
    data: list[dict[str, Any]] = []
    for curve in panel.curves:
        style = _style(curve.model, versions)
        y = [_scaled(point.value, panel.share) for point in curve.points]
        name = text(curve.model.name(several_tunings))
        hover = [
            f"{name}<br>{point.step:,} steps: {number(point.value, panel.share)}{PER_CENT if panel.share else ''} "
            f"{span(point.interval, panel.share)}<br>n = {point.n:,}"
            for point in curve.points
        ]
        bounds = [point.interval for point in curve.points]
        errors: dict[str, Any] = {}
        if all(bound is not None for bound in bounds):
            errors["error_y"] = _error_bars(y, bounds, panel.share, style["line"]["color"])
        line = _line(text(_short(curve.model)), [point.step for point in curve.points], y, hover)
        data.append({**line, **style, **errors})
    layout = _layout(
        300 + 12 * len(panel.curves),
        {"title": {"text": "steps of fine-tuning"}, "rangemode": "tozero"},
        "%" if panel.share else "loss",
    )
    if panel.reference is not None:
        layout["shapes"] = [_dotted_across(_scaled(panel.reference.value, panel.share))]
    return {"data": data, "layout": layout}


def scatter_figure(scatter: along.Scatter) -> Figure:
    """One predictor against recovered gain, each pair of versions a point with its name."""
    named, unit = along.PREDICTORS[scatter.predictor]
    names = [text(f"{p.source} → {p.target}{f', {p.tuning}' if p.tuning else ''}") for p in scatter.points]
    hover = [
        f"{name}<br>{text(named)}: {minus(f'{p.x:.3g}')}<br>recovered gain: {ratio(p.y)}"
        for name, p in zip(names, scatter.points, strict=True)
    ]
    y = [p.y.value for p in scatter.points]
    trace = {
        "type": "scatter", "mode": "markers", "x": [p.x for p in scatter.points], "y": y, "text": names, **_hovering(hover),
        "error_y": _bars([(p.y.value, *p.y.interval) for p in scatter.points], COLOURS[0]),
        "marker": {"color": COLOURS[0], "size": 8},
    }  # fmt: skip
    low, high = min(*y, 0.0), max(*y, 1.0)
    room = 0.12 * (high - low)
    layout = _layout(300, {"title": {"text": text(unit)}}, "recovered gain")
    # A gain over nearly nothing has an interval that would squeeze all others flat.
    layout["yaxis"]["range"] = [low - room, high + room]
    return {
        "data": [trace],
        "layout": {**layout, "showlegend": False, "shapes": [_dotted_across(at) for at in (0, 1)]},
    }


def line_figure(shown: Sequence[along.Line]) -> Figure:
    """Loss along several paths of one kind, and dotted the straight line between the losses of their ends."""
    data: list[dict[str, Any]] = []
    for place, line in enumerate(shown):
        colour, group = COLOURS[place % len(COLOURS)], {"legendgroup": str(place)}
        name = text(_of(line, shown))
        order = sorted(range(len(line.alphas)), key=line.alphas.__getitem__)
        x, y = [line.alphas[i] for i in order], [line.loss[i] for i in order]
        hover = [f"{name}<br>α = {a:.3g}: loss {loss:.3f}" for a, loss in zip(x, y, strict=True)]
        data.append({**_line(name, x, y, hover), **group, **_drawn(colour, place, "solid", 7)})
        if 0.0 in x and 1.0 in x:
            ends = {"x": [0, 1], "y": [y[x.index(0.0)], y[x.index(1.0)]]}
            silent = {"showlegend": False, "hoverinfo": "skip", "line": {"color": colour, "width": 1, "dash": "dot"}}
            data.append({"type": "scatter", "mode": "lines", **ends, **group, **silent})
    return {"data": data, "layout": _layout(290 + 12 * len(shown), {"title": {"text": "α"}}, "loss, nats per token")}


def recycling_figure(matrix: Matrix, several_tunings: bool) -> Figure:
    """Iterative, direct and none, version by version."""
    data = []
    for place, row in enumerate(matrix.rows):
        known = [
            (target, cell, cell.shown)
            for target, cell in zip(matrix.targets, row.cells, strict=True)
            if cell and cell.shown
        ]
        values = [_scaled(shown.value, matrix.share) for _, _, shown in known]
        bounds = [shown.interval for _, _, shown in known]
        colour = PLAIN if row.role == "base" else COLOURS[place - 1]
        hover = [_hover(cell, matrix.share, several_tunings) for _, cell, _ in known]
        trace = _line(text(row.label), [text(target) for target, _, _ in known], values, hover)
        trace |= _drawn(colour, place, DASHES[place % len(DASHES)], 8)
        if all(bounds):
            trace["error_y"] = _error_bars(values, bounds, matrix.share, colour)
        data.append(trace)
    return {"data": data, "layout": _layout(340, {"type": "category"}, "%" if matrix.share else "loss")}


def _line(name: str, x: Sequence[Any], y: Sequence[float], hover: Sequence[str]) -> dict[str, Any]:
    """A line with its points, each with what it says when pointed at."""
    return {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, **_hovering(hover)}


def _hovering(words: Sequence[Any]) -> dict[str, Any]:
    return {"customdata": words, "hovertemplate": "%{customdata}<extra></extra>"}


def _drawn(colour: str, symbol: int, dash: str, size: int) -> dict[str, Any]:
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"symbol": SYMBOLS[symbol % len(SYMBOLS)], "size": size, "color": colour},
    }


def _layout(height: int, xaxis: dict[str, Any], ytitle: str) -> dict[str, Any]:
    """Of a figure of points and lines; the legend stands above the drawing, where plotly makes the room for it."""
    return {
        "height": height,
        "xaxis": {**xaxis, "fixedrange": True},
        "yaxis": {"title": {"text": ytitle}, "fixedrange": True, "automargin": True},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 8, "r": 8, "t": 10, "b": 40},
        "hovermode": "closest",
    }


def _dotted_across(at: float) -> dict[str, Any]:
    """A dotted line over the whole width, at a height."""
    ends = {"x0": 0, "x1": 1, "y0": at, "y1": at}
    return {"type": "line", "xref": "paper", **ends, "line": {"color": PLAIN, "dash": "dot", "width": 1}}


def _error_bars(
    values: Sequence[float], bounds: Sequence[tuple[float, float] | None], share: bool, colour: str
) -> dict[str, Any]:
    """Intervals around values that are scaled already."""
    known = [(v, _scaled(b[0], share), _scaled(b[1], share)) for b, v in zip(bounds, values, strict=True) if b]
    return _bars(known, colour)


def _bars(around: Sequence[tuple[float, float, float]], colour: str) -> dict[str, Any]:
    """Error bars of values, each with the ends of its interval."""
    ends = {"array": [high - v for v, _, high in around], "arrayminus": [v - low for v, low, _ in around]}
    return {"type": "data", "symmetric": False, **ends, "thickness": 0.8, "width": 0, "color": colour}


def _scaled(value: float, share: bool) -> float:
    return round(100 * value if share else value, 6)


def _scale(share: bool) -> Sequence[str]:
    """Better is brighter: of a loss that is less."""
    return CIVIDIS if share else CIVIDIS[::-1]


def _on_colour(words: str, value: float | None, ends: tuple[float, float], share: bool) -> str:
    """Words in black or white, whichever stands out more from the colour of the cell."""
    if not words:
        return words
    if value is None:  # on the page itself
        return f'<span style="color:{PLAIN}">{words}</span>'
    scale = _scale(share)
    place = (value - ends[0]) / (ends[1] - ends[0]) * (len(scale) - 1)
    below = min(int(place), len(scale) - 2)
    one, other = (_channels(scale[at]) for at in (below, below + 1))
    mixed = [a + (place - below) * (b - a) for a, b in zip(one, other, strict=True)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mixed]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    black_stands_out_more = (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05)
    return f'<span style="color:{"#000000" if black_stands_out_more else "#ffffff"}">{words}</span>'


def _channels(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))


def _in_cell(cell: Cell | None, share: bool) -> str:
    if cell is None:
        return ""
    if cell.shown is None:
        return text(cell.word)
    marks = ("★" if cell.best_of_target else "") + ("▼" if cell.clearly < 0 else "")
    return number(cell.shown.value, share) + (f" {marks}" if marks else "")


def _hover(cell: Cell | None, share: bool, several_tunings: bool) -> str:
    """All of a cell's numbers."""
    if cell is None:
        return ""
    name = f"<b>{text(cell.model.name(several_tunings))}</b>"
    if cell.shown is None:
        return f"{name}<br>{text(cell.word)}"
    told = [name, f"{with_unit(cell.shown)}, n = {cell.shown.n:,}"]
    if cell.results[0] < cell.results[1]:
        told.append(f"{cell.results[0]} of {cell.results[1]} results are available")
    if cell.gain is not None and cell.over is not None:
        told.append(f"{points(cell.gain, share)} over {text(cell.over.name(several_tunings))}")
    if cell.recovered is not None:
        told.append(f"recovered gain {ratio(cell.recovered)}")
    if cell.published is not None:
        told.append(f"published, from another setup: {minus(f'{cell.published:g}')}")
    return "<br>".join(told)


def _style(model: Model, versions: Sequence[str]) -> dict[str, Any]:
    """A start keeps its colour, symbol and dash from panel to panel."""
    if model.kind == TUNED:
        colour, symbol, dash = PLAIN, "circle-open", "dot" if model.steps else "solid"
    elif model.kind in RECYCLED:
        place = RECYCLED.index(model.kind)
        colour, symbol, dash = COLOURS[place], SYMBOLS[place + 1], "dot" if model.steps else DASHES[place]
    else:
        place = versions.index(model.source) if model.source in versions else 0
        colour, symbol = COLOURS[place % len(COLOURS)], SYMBOLS[place % len(SYMBOLS)]
        dash = "dash" if model.rate not in (None, 1) else "solid"
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"symbol": symbol, "size": 7, "color": colour},
    }


def _of(line: along.Line, among: Sequence[along.Line]) -> str:
    """What tells a path from the others of a figure: its models, its family, its seed."""
    told = [line.name] if len({each.name for each in among}) > 1 else []
    told += [f"family {line.family}"] if len({each.family for each in among}) > 1 else []
    told += [f"seed {line.seed}"] if len({each.seed for each in among}) > 1 else []
    return ", ".join(told) or line.name


def _short(model: Model) -> str:
    """What tells a model from the others of its target."""
    if model.kind == TUNED:
        return "FT" if model.steps is None else f"FT for {model.steps} steps"
    return f"+ {model.delta} → FT" + ("" if model.steps is None else f", {model.steps} steps in all")
