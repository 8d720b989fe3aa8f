"""What `tuneport compare` wrote, read back: for each pair its verdict, gates, figures by layer and kind, and what a probe said.

`comparison_of` makes a `ComparisonResult` from the parsed file. All numbers are the file's own; whoever wrote the file, its texts are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.errors import ReportError
from tuneport.results.schema import COMPARE_FORMAT
from tuneport.results.torn_json import mapping, mappings, number_or, text_or, texts, whole

Figures = Mapping[str, float]  # those that were measured
# What the figures are called, on the terminal and on the page, in their order.
FIGURE_NAMES = {
    "norm_base": "‖base‖",
    "norm_diff": "‖Δ‖",
    "norm_shift": "‖target − base‖",
    "relative_diff": "‖Δ‖ / ‖base‖",
    "relative_shift": "‖target − base‖ / ‖base‖",
    "diff_over_shift": "‖Δ‖ / ‖target − base‖",
    "cosine_base_target": "cosine of base and target",
    "cosine_diff_shift": "cosine of Δ and target − base",
    "changed_share": "share of entries changed by Δ",
    "opposed_share": "share of these opposed to target − base",
    "rounding_loss": "share of ‖Δ‖ lost to rounding",
    "unchanged_share": "share of entries rounded away",
}


@dataclass(frozen=True)
class ReadGate:
    """One gate; ``value`` None: not measured."""

    name: str
    status: str
    value: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class LayerFigures:
    """The figures of one kind of tensor in one layer (None: in none)."""

    layer: int | None
    kind: str
    figures: Figures
    matrix: bool = True


@dataclass(frozen=True)
class ComparedPair:
    """One target, or one stored diff vector. ``figures`` are of all tensors, ``matrices`` and ``vectors`` of these apart.

    ``gain`` and ``retention`` are low, middle and high; None: no prediction. ``probe`` is the file's field.
    """

    name: str
    word: str
    reasons: tuple[str, ...]
    remedy: str | None
    calibrated: bool
    gain: tuple[float, float, float] | None
    retention: tuple[float, float, float] | None
    gates: tuple[ReadGate, ...]
    figures: Figures
    matrices: Figures
    vectors: Figures
    layers: tuple[LayerFigures, ...]
    tuned_target: Figures
    probe: Mapping[str, Any] | None
    inputs: tuple[Mapping[str, Any], ...]
    formula: str


@dataclass(frozen=True)
class ComparisonResult:
    """A file of comparisons, as a page needs it; the best first."""

    name: str
    pairs: tuple[ComparedPair, ...]


def is_comparison(found: Any) -> bool:
    """Whether what was parsed is a comparison, or a list that begins with one."""
    first = found[0] if isinstance(found, list) and found else found
    return isinstance(first, dict) and first.get("format") == COMPARE_FORMAT


def comparison_of(found: Any, name: str) -> ComparisonResult:
    """The comparisons in a parsed file that `is_comparison`, called ``name``. Raises `ReportError` where one has no verdict."""
    listed = found if isinstance(found, list) else [found]
    pairs = tuple(_pair(each) for each in listed if isinstance(each, dict) and isinstance(each.get("verdict"), dict))
    if len(pairs) < len(listed):
        raise ReportError(f"{name}: a comparison in it has no verdict. Give the file that `tuneport compare` wrote.")
    return ComparisonResult(name, pairs)


def _pair(found: Mapping[str, Any]) -> ComparedPair:
    verdict, measures, inputs = mapping(found, "verdict"), mapping(found, "measures"), mappings(found, "inputs")
    names = [str(each.get("name")) for each in inputs]
    probe = found.get("probe")
    return ComparedPair(
        name=f"{' − '.join(reversed(names[:-1]))} onto {names[-1]}" if names else "a pair without inputs",
        word=text_or(verdict.get("word"), "uncertain"),
        reasons=texts(verdict.get("reasons")),
        remedy=text_or(verdict.get("remedy"), None),
        calibrated=verdict.get("calibrated") is True,
        gain=_interval(verdict.get("gain")),
        retention=_interval(verdict.get("retention")),
        gates=tuple(map(_gate, mappings(found, "gates"))),
        figures=_figures(measures),
        matrices=_figures(mapping(measures, "matrices")),
        vectors=_figures(mapping(measures, "vectors")),
        layers=tuple(
            LayerFigures(
                whole(row.get("layer")), text_or(row.get("kind"), "?"), _figures(row), row.get("matrix") is not False
            )
            for row in mappings(found, "layers")
        ),
        tuned_target=_figures(mapping(found, "tuned_target")),
        probe=probe if isinstance(probe, dict) else None,
        inputs=inputs,
        formula=text_or(found.get("formula"), ""),
    )


def _gate(row: Mapping[str, Any]) -> ReadGate:
    value, threshold = (number_or(row.get(name), None) for name in ("value", "threshold"))
    return ReadGate(
        str(row.get("name")), text_or(row.get("status"), "?"), value, threshold, text_or(row.get("reason"), "")
    )


def _figures(found: Mapping[str, Any]) -> Figures:
    known = {name: number_or(value, None) for name, value in found.items()}
    return {name: value for name, value in known.items() if value is not None}


def _interval(value: Any) -> tuple[float, float, float] | None:
    ends = [number_or(each, None) for each in value] if isinstance(value, list) else []
    return (ends[0], ends[1], ends[2]) if len(ends) == 3 and None not in ends else None
