"""The scale of every tensor of a plan, and of every row where rules for tokens have a say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.choices import Choices
from tuneport.engine.pieces import Sum, Term
from tuneport.engine.scaling.row_scales import RowScales, find_row_scales
from tuneport.engine.tokens import MatchedRows
from tuneport.pairing.account import TensorPair
from tuneport.pairing.name_rules import LaidRamp, ScaleRule, lay_rules, scale_of
from tuneport.sidecars.three_way import Decision


@dataclass(frozen=True)
class Scales:
    """``rules`` are by name, with their ramps laid over the target's layers; ``rows`` by token, None without such rules."""

    rules: tuple[ScaleRule, ...]
    rows: RowScales | None = None

    def of(self, name: str, scale: float) -> float:
        """The scale of one tensor, where ``scale`` is that of all."""
        return scale_of(name, scale, self.rules)

    def by_row(self, name: str) -> bool:
        """Whether the rows of this tensor have scales of their own."""
        return self.rows is not None and name in self.rows.names

    def of_rows(self, terms: tuple[Term, ...], own: float, rows: int) -> tuple[Term, ...]:
        """Terms of a tensor with so many rows and a scale of its ``own``: one for each scale that its rows have.

        A row takes part in one of them, so it is computed as if the whole tensor had its scale.
        """
        assert self.rows is not None
        scales = self.rows.of(rows, own)
        found = [part for term in terms for part in _parts(term, scales)]
        return tuple(part for place, part in enumerate(found) if part.rows or place == 0)

    def decisions(self, lines: Iterable[TensorPair]) -> list[Decision]:
        """What a ramp or a rule for tokens comes to; ``lines`` are those of the output."""
        ramps = [rule for rule in self.rules if isinstance(rule, LaidRamp)]
        found = [
            Decision(f"scale.{stack}", told, f"--rule {ramp.pattern}={ramp.shown}")
            for ramp in ramps
            for stack, told in ramp.told()
        ]
        if self.rows is None:
            return found
        reached = [line.name for line in lines if self.by_row(line.name) and line.pair is not None]
        return found + self.rows.decisions(reached)


def find_scales(
    choices: Choices,
    matched: Sequence[MatchedRows],
    tuned: Sequence[SidecarFolder],
    target: SidecarFolder,
    tensors: Mapping[str, StoredTensor],
) -> Scales:
    """The scales that the choices mean for a target with these tensors. Raises `UsageError`."""
    names = {name for each in matched for name in each.vocabulary}
    rows = find_row_scales(choices.row_rules, [each.match for each in matched], tuned, target, names)
    return Scales(lay_rules(choices.rules, tensors), rows)


def scales_of_rows(recipe: object) -> list[dict[str, str | float | None]] | None:
    """How many rows of a tensor have which scale, for the manifest; None where rules for tokens have no say."""
    terms = [term for term in recipe.terms if term.rows is not None] if isinstance(recipe, Sum) else []
    several = len({term.vector for term in terms}) > 1
    found: list[dict[str, str | float | None]] = []
    for term in terms:
        found.append({"diff": term.vector} if several else {})
        found[-1] |= {"scale": term.scale, "rows": term.rows}
    return found or None


def added_rows(recipes: Iterable[object]) -> NDArray[np.bool_]:
    """By row of the output, whether a difference may be added to it in any of these tensors, at whatever scale."""
    found = np.zeros(0, np.bool_)
    for recipe in recipes:
        for term in recipe.terms if isinstance(recipe, Sum) else ():
            if term.runs is None or term.rows is None:
                continue
            here = term.runs.met()
            found = np.concatenate([found, np.zeros(max(len(here) - len(found), 0), np.bool_)])
            found[: len(here)] |= here
    return found


def _parts(term: Term, scales: NDArray[np.float64]) -> list[Term]:
    assert term.runs is not None, "rows that have scales of their own are matched"
    parts = []
    for scale in dict.fromkeys(scales.tolist()):
        runs = term.runs.only(scales == scale)
        parts.append(replace(term, scale=scale, runs=runs, rows=int(runs.met().sum())))
    return parts
