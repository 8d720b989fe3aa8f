"""The paper's claims, as the paper makes them, and what families of the lab say to each.

In comes what finished studies hold (`study_evidence`), out come claims with their findings (`judging` says how they are judged). A
function a claim, in the paper's order; those on five versions first (the twin of olmo2.toml), then those of the other twins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.claims.judging import Claim, Finding, Judging, estimate_over, over_families_alone
from experiments.claims.study_evidence import Family, base
from tuneport import statistics
from tuneport.families.unseen_problems import UNSEEN_TASKS
from tuneport.results.schema import FURTHER, Model
from tuneport.statistics import Matrix

VERSIONS = ("M1", "M2", "M3", "M4", "M5")
EARLY, LATE = VERSIONS[:3], VERSIONS[3:]
STAGES = ("sft", "dpo", "grpo")


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
        if j.has(j.losses()):
            by_loss = "harm, the same: the loss of the answers (nats per token)"
            findings.append(j.change(by_loss, far, [base(t) for t in LATE], "above", j.losses(), unit="nats"))
    return Claim(
        "3", "Near versions help each other, far ones can harm; Δ3 still helps M4 and M5.",
        "section 4.2; Table 3 (Table 11 partly disagrees)", tuple(findings),
        "Bases score nothing on what only the fine-tuning teaches, so harm is measured where they score: few-shot, in "
        "the "
        "pretraining's own format.",
    )  # fmt: skip


def transfer_then_tune(j: Judging) -> Claim:
    """(4) Section 5: a stronger and cheaper starting point."""
    pairs = [(s, t) for s in VERSIONS for t in VERSIONS if s != t]
    further = [j.further(s, t) for s, t in pairs]
    same = j.change("FT(M_i + Δ_j) − FT(M_i), the same steps for this version", further, [j.tuned(t) for _, t in pairs])
    totals = j.change(
        "FT(M_i + Δ_j) − FT(M_i), the same steps in all", further,
        [j.families[0].plain_at_same_total(j.further(s, t)) for s, t in pairs], None,
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
    faster = over_families_alone(
        "steps saved, as a share of FT(M_i)'s (0 where never matched)", j, _steps_saved("transfer-then-tune")
    )
    return Claim(
        "4", "Transfer-then-tune is often faster and higher, and the choice of Δ_j matters less after it.",
        "section 5.2; Tables 4, 12; Figures 2, 4", (same, faster, choice, totals),
        "The paper compares at the same steps for this version; the last number is at the same total of steps.",
    )  # fmt: skip


def unseen_tasks(j: Judging) -> Claim:
    """(5) Section 5: no harm to generalisation."""
    if not j.unseen:
        return Claim("5", "Unseen tasks: comparable to plain fine-tuning.", "section 5.2; Table 5", ())
    pairs = [(s, t) for s in VERSIONS for t in VERSIONS if s != t]
    further, tuned = [j.further(s, t) for s, t in pairs], [j.tuned(t) for _, t in pairs]
    asked = {"few-shot tasks": j.unseen, "word problems of kinds": UNSEEN_TASKS}
    findings = [
        j.change(
            f"FT(M_i + Δ_j) − FT(M_i), {what} that no fine-tuning holds ({', '.join(tasks)})",
            further,
            tuned,
            "no harm",
            tasks,
        )
        for what, tasks in asked.items()
        if j.has(tasks)
    ]
    return Claim(
        "5", "Transferring-then-finetuning does not harm unseen tasks, compared with plain fine-tuning.",
        "section 5.2; Tables 5, 13", tuple(findings),
    )  # fmt: skip


def recycling(j: Judging) -> Claim:
    """(6) Section 6: iterative and direct recycling."""
    steps = list(pairwise(VERSIONS))[1:]  # M1 and M2 are the same in both
    iterative = [Model("recycle-iterative", s, t, j.tuning) for s, t in steps]
    direct = [Model("recycle-direct", s, t, j.tuning) for s, t in steps]
    none = [j.tuned(t) for _, t in steps]

    def at_total(models: Sequence[Model]) -> list[Model]:
        return [j.families[0].plain_at_same_total(model) for model in models]

    return Claim(
        "6", "Iterative recycling is similar to or better than direct, both are better than none, and faster.",
        "section 6.2; Table 6, Figure 3",
        (
            j.change("iterative − direct, the same steps for this version", iterative, direct, "no harm"),
            j.change("iterative − none, the same steps for this version", iterative, none),
            j.change("direct − none, the same steps for this version", direct, none),
            over_families_alone("steps saved by iterative, as a share of FT(M_i)'s", j, _steps_saved("recycle-iterative")),
            over_families_alone("steps saved by direct, as a share of FT(M_i)'s", j, _steps_saved("recycle-direct")),
            j.change(
                "iterative − direct, the same steps in all", iterative,
                [j.families[0].direct_at_same_total(model) for model in iterative], None,
            ),
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
        Finding(f"connected, of the {n} pairs of bases that transfer {how}", statistics.accuracy([True] * k + [False] * (n - k)), None, None, "share")
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
                found = statistics.rank_correlation([told[name][p] for p in pairs], [gains[p] for p in pairs])
                named.setdefault(name, []).append(0.0 if found is None else found)
    findings = tuple(
        replace(estimate_over(name, np.array(values)), wanted=None, unit="Spearman")
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
        shares = family.steps_saved(kind, j.tasks)
        return float(np.mean(shares)) if shares else float("nan")

    return saved


def stages_transfer(j: Judging) -> Claim:
    """(8) Appendix A: each stage of alignment carries over, and an untrained control gains nothing (twin of stages.toml)."""
    findings = [
        j.change(
            f"M3, M4 + Δ({stage}) − the base",
            [Model("transfer", "M5", t, stage) for t in ("M3", "M4")],
            [base(t) for t in ("M3", "M4")],
        )
        for stage in STAGES
    ]
    untrained = [*(Model("transfer", "M5", "M0", stage) for stage in STAGES), base("M0")]
    trained = [*(Model("transfer", "M5", "M4", stage) for stage in STAGES), base("M4")]
    findings.append(
        j.finding(
            "gain of M0 + Δ over M0, all stages, as a share of M4's",
            [*untrained, *trained],
            lambda m: (m[:, :3].mean(axis=1) - m[:, 3]) / (m[:, 4:7].mean(axis=1) - m[:, 7]),
            "nothing",
            unit="share",
        )
    )
    for before, after in pairwise(STAGES):
        pair = [[Model("transfer", "M5", "M4", stage)] for stage in (after, before)]
        findings.append(j.change(f"M4 + Δ({after}) − M4 + Δ({before})", pair[0], pair[1], None))
    return Claim(
        "8", "Alignment stages transfer; an untrained control gains nothing.", "appendix A; Tables 7, 8", tuple(findings),
        "M0 is the pretraining after five steps.",
    )  # fmt: skip


def languages_transfer(j: Judging, languages: Sequence[str], known: str) -> Claim:
    """(9) Section 3: a gain for languages that the new version lacks, no loss for the one it knows (twin of multilingual.toml)."""
    old, new = "version 1 instruct", "version 2 instruct"
    findings = [
        j.change(
            f"{new} + Δ({language}) − {new}", [Model("transfer", old, new, language)], [base(new)],
            "no harm" if language == known else "above", [language],
        )
        for language in languages
    ]  # fmt: skip
    beaten = j.change(
        f"{new} − {old} fine-tuned on {known}",
        [base(new)],
        [Model("tuned", None, old, known)],
        None,
        [known],
    )
    return Claim(
        "9", "Languages: recycling gains where the old fine-tuned model still beats the new one, and does no harm elsewhere.",
        "section 3; Table 2", (*findings, beaten),
        f"{known} is the language that version 2 knows already, as Llama 3.1 did Sinhala.",
    )  # fmt: skip


def backporting_gains_more(j: Judging) -> Claim:
    """(10) Section 2: Llama 3.0 gains more from 3.1's diff vector than 3.1 from 3.0's (twin of llama.toml)."""
    models = [j.moved("new", "old"), base("old"), j.moved("old", "new"), base("new")]
    more = j.finding(
        "gain of backporting − gain of recycling", models, lambda m: (m[:, 0] - m[:, 1]) - (m[:, 2] - m[:, 3]), "above"
    )
    gains = [
        j.change(f"{t} + Δ({s}) − {t}", [j.moved(s, t)], [base(t)], None) for s, t in (("new", "old"), ("old", "new"))
    ]
    return Claim(
        "10", "Backporting gains more than recycling (Llama).", "section 2.2; Table 1", (more, *gains),
        "Old and new are M4 and M5.",
    )  # fmt: skip
