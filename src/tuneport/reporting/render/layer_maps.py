"""A figure of a comparison by layer and kind of tensor, as a heat map: how far along the layers, and in which matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneport.reporting.render.figures import CIVIDIS, Figure, text
from tuneport.reporting.tables.wording import DASH, minus

_TICKS = 12  # layers that are named below the map, at most


def layer_map(
    kinds: Sequence[str], layers: Sequence[int], values: Sequence[Sequence[float | None]], unit: str
) -> Figure:
    """A row for each kind, a column for each layer; bright is high. ``unit`` is what a number is, for whoever points at a cell."""
    rows = list(reversed(list(zip(kinds, values, strict=True))))  # plotly counts from below
    hover = [
        [
            f"<b>{text(kind)}</b><br>layer {layer}: {text(unit)} {DASH if value is None else minus(f'{value:.3g}')}"
            for layer, value in zip(layers, row, strict=True)
        ]
        for kind, row in rows
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": list(layers),
        "y": [text(kind) for kind, _ in rows],
        "z": [list(row) for _, row in rows],
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "colorscale": [[place / (len(CIVIDIS) - 1), colour] for place, colour in enumerate(CIVIDIS)],
        "colorbar": {"orientation": "h", "thickness": 10, "len": 1, "x": 0.5, "y": 1.0, "yanchor": "bottom", "outlinewidth": 0},
        "xgap": 1, "ygap": 1,
    }  # fmt: skip
    known = [value for row in values for value in row if value is not None]
    ends = min(known), max(known)
    marks = [ends[0], (ends[0] + ends[1]) / 2, ends[1]]
    trace |= {"zmin": ends[0], "zmax": ends[1]}
    trace["colorbar"] |= {"tickvals": marks, "ticktext": [minus(f"{mark:.3g}") for mark in marks]}
    axis = {"showgrid": False, "fixedrange": True, "showline": False, "ticks": ""}
    step = -(-len(layers) // _TICKS)
    return {
        "data": [trace],
        "layout": {
            "height": 130 + 26 * len(rows),
            "xaxis": {**axis, "title": {"text": "layer"}, "tickmode": "array", "tickvals": list(layers[::step])},
            "yaxis": {**axis, "type": "category", "automargin": True},
            "margin": {"l": 8, "r": 8, "t": 48, "b": 44},
        },
    }
