"""The paper's claims, as the paper makes them, and what families of the lab say to each.

A claim is judged over families (crossed bootstrap over families and examples, `evaluate.crossed`), its p values adjusted by
Holm's method for all tests of the page. Three verdicts: *holds* (the interval is clear on the claimed side), *does not hold*
(clear on the other side), *not shown*. "No harm" is non-inferiority within 3 points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from tuneport.evaluate import measures
from tuneport.evaluate.crossed import NO_HARM, over_families
from tuneport.evaluate.measures import Estimate, Matrix
from tuneport.lab.evidence import FURTHER, Family, Model, base

HOLDS, FAILS, OPEN = "holds", "does not hold", "not shown"
VERSIONS = ("M1", "M2", "M3", "M4", "M5")
EARLY, LATE = VERSIONS[:3], VERSIONS[3:]


@dataclass(frozen=True)
class Finding:
    """One number beside a claim. `wanted` says which side of 0 was claimed; None where it only stands beside."""

    what: str
    estimate: Estimate
    p: float | None = None
    wanted: str | None = "above"  # "above", "below", "no harm" or None
    unit: str = "points"
    p_adjusted: float | None = None

    @property
    def verdict(self) -> str | None:
        """Whether the claim holds, does not, or is not shown, by this number."""
        low, high = self.estimate.interval
        if self.wanted is None:
            return None
        if self.wanted == "no harm":
            return HOLDS if low > -NO_HARM else FAILS if high < -NO_HARM else OPEN
        if self.wanted == "below":
            low, high = -high, -low
        sure = self.p_adjusted is None or self.p_adjusted < 0.05
        return OPEN if not sure else HOLDS if low > 0 else FAILS if high < 0 else OPEN


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with where it stands, and what was found."""

    number: str
    said: str
    source: str
    findings: tuple[Finding, ...]
    remark: str = ""


@dataclass(frozen=True)
class Judging:
    """The families of one study, and what they are judged on."""

    families: Sequence[Family]
    tasks: tuple[str, ...]  # what the fine-tuning teaches
    unseen: tuple[str, ...] = ()  # what no fine-tuning holds; bases score above zero here
    tuning: str = "sft"

    def moved(self, source: str, target: str) -> Model:
        """M_target + Δ_source."""
        return Model("transfer", source, target, self.tuning)

    def tuned(self, version: str) -> Model:
        """FT(M)."""
        return Model("tuned", None, version, self.tuning)

    def further(self, source: str, target: str) -> Model:
        """FT(M_target + Δ_source)."""
        return Model("transfer-then-tune", source, target, self.tuning)

    def finding(
        self,
        what: str,
        models: Sequence[Any],
        statistic: Callable[[Matrix], Matrix],
        wanted: str | None = "above",
        tasks: Sequence[str] | None = None,
        unit: str = "points",
    ) -> Finding:
        """A number over all families and examples. `statistic`: mean scores (draws × models) to one number a draw."""
        scores = [family.matrix(models, tasks or self.tasks) for family in self.families]
        estimate, p = over_families(scores, statistic)
        return Finding(what, estimate, p, wanted, unit)

    def change(
        self,
        what: str,
        after: Sequence[Any],
        before: Sequence[Any],
        wanted: str | None = "above",
        tasks: Sequence[str] | None = None,
    ) -> Finding:
        """The mean score of some models minus that of others."""
        first = len(after)
        return self.finding(
            what, [*after, *before], lambda m: m[:, :first].mean(axis=1) - m[:, first:].mean(axis=1), wanted, tasks
        )


def adjusted(claims: Iterable[Claim]) -> list[Claim]:
    """The same claims, their p values adjusted for all tests together by Holm's method."""
    claims = list(claims)
    tested = [f.p for claim in claims for f in claim.findings if f.p is not None and f.wanted in ("above", "below")]
    values = iter(measures.holm(tested))
    return [
        replace(
            claim,
            findings=tuple(
                replace(f, p_adjusted=next(values)) if f.p is not None and f.wanted in ("above", "below") else f
                for f in claim.findings
            ),
        )
        for claim in claims
    ]


def claims_of_versions(judging: Judging) -> list[Claim]:
    """Claims 1 to 7 of sections 2 and 4 to 6, from a study with all pairs of five versions."""
    return [
        transfer_gains(judging),
        gap_closes(judging),
        near_and_far(judging),
        transfer_then_tune(judging),
        unseen_tasks(judging),
        recycling(judging),
        connected(judging),
        predictors(judging),
    ]


def transfer_gains(j: Judging) -> Claim:
    """(1) Sections 2 and 4: much is gained without training."""
    pairs = (("M4", "M5"), ("M5", "M4"))
    findings = [
        j.change(f"{t} + Δ({s}) − {t}", [j.moved(s, t)], [base(t)]) for s, t in pairs
    ] + [
        j.finding(
            f"recovered gain of {t} + Δ({s})", [base(t), j.moved(s, t), j.tuned(t)],
            lambda m: (m[:, 1] - m[:, 0]) / (m[:, 2] - m[:, 0]), None, unit="share",
        )
        for s, t in pairs
    ]  # fmt: skip
    return Claim(
        "1",
        "Transfer gains much without training, often close to fine-tuning.",
        "sections 2, 4; Tables 1, 3",
        tuple(findings),
    )


def gap_closes(j: Judging) -> Claim:
    """(2) Section 4: stronger targets use transferred fine-tuning better."""

    def gap(m: Matrix) -> Matrix:
        found: Matrix = m[:, 0] - m[:, 1:].max(axis=1)
        return found

    def models(t: str) -> list[Model]:
        return [j.tuned(t), *(j.moved(s, t) for s in VERSIONS if s != t)]

    gaps = [j.finding(f"FT({t}) − best of {t} + Δ", models(t), gap, None) for t in VERSIONS]
    ends = [*models("M5"), *models("M1")]
    closing = j.finding("the gap at M5 − the gap at M1", ends, lambda m: gap(m[:, :5]) - gap(m[:, 5:]), "below")

    def share(m: Matrix) -> Matrix:
        """Gain by transfer over gain by fine-tuning, pairs together; columns base, moved, tuned, base, …"""
        found: Matrix = (m[:, 1::3] - m[:, ::3]).sum(axis=1) / (m[:, 2::3] - m[:, ::3]).sum(axis=1)
        return found

    def triples(pairs: Sequence[tuple[str, str]]) -> list[Model]:
        return [model for s, t in pairs for model in (base(t), j.moved(s, t), j.tuned(t))]

    near, far = (("M1", "M2"), ("M2", "M1"), ("M2", "M3"), ("M3", "M2")), tuple((s, t) for s in EARLY[:2] for t in LATE)
    split = 3 * len(near)
    nearness = j.finding(
        "recovered share, weak near pairs − strong far pairs", [*triples(near), *triples(far)],
        lambda m: share(m[:, :split]) - share(m[:, split:]), None, unit="share",
    )  # fmt: skip
    return Claim(
        "2", "The gap between the best M_i + Δ_j and FT(M_i) closes with stronger targets (26.1, 24.1, 20.6, 2.8, −1.6).",
        "section 4.2; Table 3", (closing, *gaps, nearness),
        "Weak near pairs are (1,2) and (2,3) in both directions, strong far ones Δ1 and Δ2 on M4 and M5: if strength alone "
        "counted, the last number would be below 0.",
    )  # fmt: skip


def near_and_far(j: Judging) -> Claim:
    """(3) Section 4: near versions help each other, far ones can harm."""
    findings = [
        j.change("M1, M2: + Δ(M3) − + Δ(M4), Δ(M5)", [j.moved("M3", t) for t in ("M1", "M2")],
                 [j.moved(s, t) for t in ("M1", "M2") for s in LATE]),
        j.change("M4, M5: + Δ(M3) − + Δ(M1), Δ(M2)", [j.moved("M3", t) for t in LATE],
                 [j.moved(s, t) for t in LATE for s in EARLY[:2]]),
        j.change("M4, M5: + Δ(M3) − the base", [j.moved("M3", t) for t in LATE], [base(t) for t in LATE]),
    ]  # fmt: skip
    if j.unseen:
        far = [j.moved(s, t) for t in LATE for s in EARLY[:2]]
        findings.append(
            j.change(
                "harm: M4, M5 + Δ(M1), Δ(M2) − the base, few-shot", far, [base(t) for t in LATE], "below", j.unseen
            )
        )
    return Claim(
        "3", "Near versions help each other, far ones can harm; Δ3 still helps M4 and M5.",
        "section 4.2; Table 3 (Table 11 partly disagrees)", tuple(findings),
        "Bases score nothing on what only the fine-tuning teaches, so harm is looked for where they score: few-shot, in the "
        "pretraining's own format.",
    )  # fmt: skip


def transfer_then_tune(j: Judging) -> Claim:
    """(4) Section 5: a stronger and cheaper starting point."""
    pairs = [(s, t) for s in VERSIONS for t in VERSIONS if s != t]
    further = [j.further(s, t) for s, t in pairs]
    same = j.change("FT(M_i + Δ_j) − FT(M_i), the same steps for this version", further, [j.tuned(t) for _, t in pairs])
    totals = j.change(
        "FT(M_i + Δ_j) − FT(M_i), the same steps in all", further,
        [(j.tuned(t), j.families[0].steps_total(j.further(s, t))) for s, t in pairs], None,
    )  # fmt: skip

    def spread(m: Matrix) -> Matrix:
        by_target = m.reshape(len(m), 2, len(VERSIONS), len(VERSIONS) - 1)
        ranges: Matrix = (by_target.max(axis=3) - by_target.min(axis=3)).mean(axis=2)
        return ranges[:, 1] - ranges[:, 0]

    grid = [(s, t) for t in VERSIONS for s in VERSIONS if s != t]
    choice = j.finding(
        "spread over Δ_j after fine-tuning − before", [*(j.moved(s, t) for s, t in grid), *(j.further(s, t) for s, t in grid)],
        spread, "below",
    )  # fmt: skip
    faster = _over_families_alone(
        "steps saved, as a share of FT(M_i)'s (0 where never matched)", j, _steps_saved("transfer-then-tune")
    )
    return Claim(
        "4", "Transfer-then-tune is often faster and higher, and the choice of Δ_j matters less after it.",
        "section 5.2; Tables 4, 12; Figures 2, 4", (same, faster, choice, totals),
        "The paper compares at the same steps for this version; the last number stands at the same total of steps.",
    )  # fmt: skip


def unseen_tasks(j: Judging) -> Claim:
    """(5) Section 5: no harm to generalisation."""
    if not j.unseen:
        return Claim("5", "Unseen tasks: comparable to plain fine-tuning.", "section 5.2; Table 5", ())
    pairs = [(s, t) for s in VERSIONS for t in VERSIONS if s != t]
    return Claim(
        "5", "Transferring-then-finetuning does not harm unseen tasks, compared with plain fine-tuning.",
        "section 5.2; Tables 5, 13",
        (j.change("FT(M_i + Δ_j) − FT(M_i), few-shot tasks that no fine-tuning holds", [j.further(s, t) for s, t in pairs],
                  [j.tuned(t) for _, t in pairs], "no harm", j.unseen),),
    )  # fmt: skip


def recycling(j: Judging) -> Claim:
    """(6) Section 6: iterative and direct recycling."""
    steps = list(pairwise(VERSIONS))[1:]  # M1 and M2 are the same in both
    iterative = [Model("recycle-iterative", s, t, j.tuning) for s, t in steps]
    direct = [Model("recycle-direct", s, t, j.tuning) for s, t in steps]
    none = [j.tuned(t) for _, t in steps]

    def at_total(models: Sequence[Model]) -> list[Any]:
        return [(j.tuned(model.target), j.families[0].steps_total(model)) for model in models]

    return Claim(
        "6", "Iterative recycling is similar to or better than direct, both are better than none, and faster.",
        "section 6.2; Table 6, Figure 3",
        (
            j.change("iterative − direct, the same steps for this version", iterative, direct, "no harm"),
            j.change("iterative − none, the same steps for this version", iterative, none),
            j.change("direct − none, the same steps for this version", direct, none),
            _over_families_alone("steps saved by iterative, as a share of FT(M_i)'s", j, _steps_saved("recycle-iterative")),
            _over_families_alone("steps saved by direct, as a share of FT(M_i)'s", j, _steps_saved("recycle-direct")),
            j.change("iterative − none, the same steps in all", iterative, at_total(iterative), None),
            j.change("direct − none, the same steps in all", direct, at_total(direct), None),
        ),
        "Over M3, M4 and M5: M1 and M2 are the same in both (Algorithm 1).",
    )  # fmt: skip


def connected(j: Judging) -> Claim:
    """(7a) Section 4: bases that transfer well are linearly connected."""
    counts = {True: [0, 0], False: [0, 0]}
    barriers: list[float] = []
    for family in j.families:
        for (one, other), barrier, row in _base_barriers(family):
            well = min(_recovered(j, family, one, other), _recovered(j, family, other, one)) >= 0.5
            counts[well][0] += bool(row["connected"])
            counts[well][1] += 1
            barriers.append(barrier)
    (good, n_good), (bad, n_bad) = counts[True], counts[False]
    findings = [
        Finding(f"connected, of the {n} pairs of bases that transfer {how}", measures.accuracy([True] * k + [False] * (n - k)), None, None, "share")
        for how, k, n in (("well (recovered gain 0.5 or more, both ways)", good, n_good), ("less", bad, n_bad))
        if n
    ]  # fmt: skip
    return Claim(
        "7a", "Versions that transfer well are linearly connected (the paper infers it; here it is measured).", "section 4.2",
        tuple(findings),
        f"Barriers between bases: {np.median(barriers):.3f} in the middle, {max(barriers):.3f} at most." if barriers else "",
    )  # fmt: skip


def predictors(j: Judging) -> Claim:
    """(7b) What predicts the recovered gain of a pair."""
    named: dict[str, list[float]] = {}
    for family in j.families:
        gains: dict[tuple[str, str], float] = {
            (s, t): _recovered(j, family, s, t) for s in VERSIONS for t in VERSIONS if s != t
        }
        told = _of_pairs(family)
        for name in told:
            pairs = [pair for pair in gains if pair in told[name]]
            if len(pairs) > 2:
                named.setdefault(name, []).append(_spearman([told[name][p] for p in pairs], [gains[p] for p in pairs]))
    findings = tuple(
        replace(_estimate_over(name, np.array(values)), wanted=None, unit="Spearman")
        for name, values in named.items()
        if len(values) == len(j.families)
    )
    return Claim(
        "7b", "What predicts the recovered gain of a pair: distances, cosines and barriers, against knowing the block or |i − j|.",
        "section 4.2", findings,
        "Rank correlation with the recovered gain over the 20 ordered pairs, mean over families. The pairs share five versions and "
        "are not independent; cosine of Δ and barriers of tuned models need the tuned target, so they are no help beforehand.",
    )  # fmt: skip


def _of_pairs(family: Family) -> dict[str, dict[tuple[str, str], float]]:
    told: dict[str, dict[tuple[str, str], float]] = {
        "same block": {(s, t): float((s in EARLY) == (t in EARLY)) for s in VERSIONS for t in VERSIONS},
        "−|i − j|": {(s, t): -float(abs(VERSIONS.index(s) - VERSIONS.index(t))) for s in VERSIONS for t in VERSIONS},
    }
    for row in family.distances:
        for pair in ((row["a"], row["b"]), (row["b"], row["a"])):
            if row["distance"] is not None:
                told.setdefault("−distance of the bases", {})[pair] = -float(row["distance"])
            if row["cosine"] is not None:
                told.setdefault("cosine of Δ_i and Δ_j", {})[pair] = float(row["cosine"])
    for row in family.paths:
        if row["barrier"] is None:
            continue
        name = {"bases": "−barrier of the bases", "tuned": "−barrier of the tuned models"}.get(row["which"])
        if name is not None:
            for pair in ((row["source"], row["target"]), (row["target"], row["source"])):
                told.setdefault(name, {})[pair] = -float(row["barrier"])
    return told


def _base_barriers(family: Family) -> list[tuple[tuple[str, str], float, Any]]:
    return [
        ((row["source"], row["target"]), float(row["barrier"]), row)
        for row in family.paths
        if row["which"] == "bases" and row["barrier"] is not None
    ]


def _recovered(j: Judging, family: Family, source: str, target: str) -> float:
    before, moved, tuned = family.matrix([base(target), j.moved(source, target), j.tuned(target)], j.tasks).mean(axis=1)
    return float((moved - before) / (tuned - before)) if tuned != before else 0.0


def _steps_saved(kind: str) -> Callable[[Judging, Family], float]:
    """Mean over models of one kind and over tasks: steps fewer than FT(M_i) takes, as a share of those."""
    assert kind in FURTHER

    def saved(j: Judging, family: Family) -> float:
        rows = [row for row in family.convergence if row["kind"] == kind and row["level"] is not None and row["task"] in j.tasks
                and "rate" not in row]  # fmt: skip
        shares = [
            0.0 if row["steps_to_match"] is None else 1 - row["steps_to_match"] / row["steps_of_reference"]
            for row in rows
        ]
        return float(np.mean(shares)) if shares else float("nan")

    return saved


def _over_families_alone(what: str, j: Judging, measure: Callable[[Judging, Family], float]) -> Finding:
    return replace(_estimate_over(what, np.array([measure(j, family) for family in j.families])), unit="share")


def _estimate_over(what: str, values: Matrix) -> Finding:
    """A mean over families, with a bootstrap over families alone."""
    values = values[np.isfinite(values)]
    rng = np.random.default_rng(0)
    draws = values[rng.integers(len(values), size=(4000, len(values)))].mean(axis=1)
    p = measures.bootstrap_p(draws) if len(values) > 1 else None
    return Finding(what, Estimate(float(values.mean()), measures.central(draws), None), p)


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; 0 where one of the two does not vary."""
    ranks = [_ranks(np.array(values)) for values in (one, other)]
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Matrix) -> Matrix:
    order = values.argsort(kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values), dtype=np.float64)
    for value in np.unique(values):
        ranks[values == value] = ranks[values == value].mean()
    return ranks
