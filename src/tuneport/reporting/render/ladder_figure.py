"""The figure of an adaptation: each rung's share of the test part with its interval, between the target and the tuned source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.reporting.render.figures import COLOURS, PLAIN, Figure, text
from tuneport.reporting.tables.wording import PER_CENT, number, span
from tuneport.results.adaptation_reading import ReadShare

REFERENCE = "for comparison"
# A colour and a symbol for each status; what a file says else is shown as not better.
_DRAWN = {
    "chosen": (COLOURS[0], "star"),
    "kept": (COLOURS[0], "circle"),
    "not better": (COLOURS[1], "circle-open"),
    "harmed": (COLOURS[1], "x"),
    REFERENCE: (PLAIN, "diamond"),
}


@dataclass(frozen=True)
class DrawnModel:
    """A row of the figure; ``status`` is a rung's, ``chosen`` or ``REFERENCE``, which has a dotted line too."""

    name: str
    status: str
    share: ReadShare


def ladder_figure(models: Sequence[DrawnModel], unit: str) -> Figure:
    """A row for each model, the first one on top; ``unit`` says what the share is of."""
    names = [text(model.name) for model in models]
    data: list[dict[str, Any]] = []
    for status, (colour, symbol) in _DRAWN.items():
        own = [model for model in models if _status(model) == status]
        if own:
            data.append(_trace(status, own, colour, symbol))
    lines = [_across(100 * model.share.value) for model in models if model.status == REFERENCE]
    return {
        "data": data,
        "layout": {
            "height": 150 + 34 * len(models),
            "xaxis": {"title": {"text": text(unit)}, "range": [-3, 103], "fixedrange": True, "zeroline": False},
            "yaxis": {
                "type": "category",
                "categoryorder": "array",
                "categoryarray": names[::-1],  # plotly counts from below
                "range": [-0.6, len(names) - 0.4],
                "fixedrange": True,
                "automargin": True,
            },
            "shapes": lines,
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "showlegend": True,
            "margin": {"l": 8, "r": 8, "t": 10, "b": 44},
            "hovermode": "closest",
        },
    }


def _status(model: DrawnModel) -> str:
    return model.status if model.status in _DRAWN else "not better"


def _trace(status: str, models: Sequence[DrawnModel], colour: str, symbol: str) -> dict[str, Any]:
    """All models of one status, each with its interval."""
    shares = [model.share for model in models]
    hover = [
        f"<b>{text(model.name)}</b><br>{number(share.value, True)}{PER_CENT} {span(share.interval, True)}<br>n = {share.n:,}"
        for model, share in zip(models, shares, strict=True)
    ]
    bounds = [share.interval or (share.value, share.value) for share in shares]
    bars = {
        "array": [round(100 * (high - share.value), 6) for share, (_, high) in zip(shares, bounds, strict=True)],
        "arrayminus": [round(100 * (share.value - low), 6) for share, (low, _) in zip(shares, bounds, strict=True)],
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "name": status,
        "x": [round(100 * share.value, 6) for share in shares],
        "y": [text(model.name) for model in models],
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "error_x": {"type": "data", "symmetric": False, **bars, "thickness": 1.5, "width": 4, "color": colour},
        "marker": {"color": colour, "symbol": symbol, "size": 12 if symbol == "star" else 9, "line": {"width": 1.5}},
    }


def _across(at: float) -> dict[str, Any]:
    """A dotted line over the whole height."""
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1}
    return {"type": "line", "yref": "paper", **ends, "line": {"color": PLAIN, "dash": "dot", "width": 1}}
