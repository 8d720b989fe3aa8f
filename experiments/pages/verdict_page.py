"""docs/verdict.md, and the table of docs/when-it-works.md, from the committed records of families: what foresees success, how well.

    python -m experiments.pages.verdict_page [--check]

Everything is computed from docs/results/verdict/ each time; families 9 to 20 are read only where a choice was written down.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from experiments.pages.markdown_cells import table
from experiments.pages.write_page import DOCS, write_or_compare
from experiments.verdict import choose
from experiments.verdict.one_family_out import (
    MISSED,
    Families,
    Foreseen,
    brier,
    brier_of_words,
    chosen_in_fold,
    foresee,
    off_in_points,
    off_in_retention,
    one_out,
)
from experiments.verdict.pair_cases import ALL, FOREIGN, HALF, KINDS, LARGE_FROM, LEAST, Case, families_in
from experiments.verdict.pair_predictors import CANDIDATES, FROM_PROMPTS, PREDICTORS, Predictor, measured_in
from experiments.verdict.published_pairs import PAIRS
from experiments.verdict.run_families import hours_of
from tuneport.comparison.transfer_verdict import SHARED_WAY
from tuneport.families.kin import INSTRUCT
from tuneport.reporting.tables.wording import minus

PAGE, FOR_USERS = DOCS / "verdict.md", DOCS / "when-it-works.md"
_BEGIN, _END = "<!-- pairs -->\n", "<!-- end of pairs -->\n"
WORDS = ("likely", "uncertain", "unlikely")
# Kinds of pairs, as the page for users names them.
RELATIONS = (
    ("more of the same text at a low rate", {("M5", "more"), ("M4", "more")}),
    ("neighbours near the end of the run", {("M4", "M5"), ("M5", "M4")}),
    ("neighbours early in the run", {("M1", "M2"), ("M2", "M3"), ("M1", "M3")}),
    ("across the change of stage", {("M3", "M4"), ("M3", "M5"), ("M2", "M4"), ("M5", "M3")}),
    ("the run's first third onto its end", {("M1", "M5")}),
    ("a longer vocabulary", {("M5", "longer")}),
    ("half of the text in another language", {("M5", "language"), ("more", "language")}),
    ("other text at a high rate, and back", {("M5", "domain"), ("domain", "M5")}),
    ("onto an instruct model", {("M5", "instruct"), ("M4", "instruct")}),
    ("onto a foreign model", {("M5", "foreign")}),
)
_BINS = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01))


def render() -> str:
    """The page."""
    chosen, kept = choose.parts(families_in())
    parts = [_head(chosen), _state(chosen, kept)]
    if chosen:
        parts += ["## What came of the pairs", _pairs(chosen), _shared_way(chosen)]
    if len(chosen) >= 2:
        parts += ["## Each predictor, on families it had not seen", _predictors(chosen)]
    if len(chosen) >= 3:
        parts += ["## The verdict, chosen without the family it is about", *_verdict(chosen, CANDIDATES)]
        of_all = choose.of_kind(chosen, ALL)
        asked = [one for one in FROM_PROMPTS if one in measured_in(case for of in of_all.values() for case in of)]
        if asked:
            parts += ["## The same, where prompts were asked too", *_verdict(chosen, (*CANDIDATES, *asked))]
    parts += _confirmation(kept)
    parts += ["## Published pairs: predictions", _published(), "## To go on", _going_on()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(chosen: Families) -> str:
    return (
        "# The verdict's calibration\n\nMade by `experiments/pages/verdict_page.py` from the records in docs/results/verdict, one a family "
        "(`studies/lab-verdict.toml`). A family is one pretraining run of tiny Llamas (0.3 M parameters): five checkpoints, and what others "
        "make of the last one (other text at a high rate, a language, more of the same text at a low rate, a longer vocabulary, an instruct "
        "model), and a foreign model. Each source is fine-tuned in three ways: at a large rate, at a quarter of it, and by LoRA. "
        f"A pair *succeeded* if the target gained at least {HALF:.0%} of what the fine-tuning gained on its own version, or of what a "
        "fine-tuning of the target's own gained, whichever is less. Where one of these gained under "
        f"{100 * LEAST:.0f} points, there is no outcome. The unit is the family: pairs of one family share models and are not independent. "
        "*Retention* is exp(loss before − loss after) on texts of the target's pretraining."
    )


def _state(chosen: Families, kept: Families) -> str:
    done = (
        f"Families for choosing: {_listed(chosen)} of 1 to 8. For confirming: {_listed(kept)} of 9 to 20, and of larger ones 3 to 5 "
        "(counted from 1,000 on)."
    )
    if chosen or kept:
        hours = hours_of("small")
        left = 20 - sum(family < LARGE_FROM for family in (*chosen, *kept))
        done += (
            f" A small family took {hours:.2f} hours on one thread of a machine that others used too; the {left} that are left need about "
            f"{hours * left:.0f} hours."
        )
    if not choose.written_choice() or not kept:
        done += (
            "\n\n**No calibration is in the package.** Too few families have run: `compare` says `unlikely` where a gate fails and "
            "`uncertain` otherwise. What follows shows what is known so far; nothing in it was confirmed."
        )
    return done


def with_pairs(page: str, families: Families) -> str:
    """The page for users with its table of kinds of pairs."""
    before, _, rest = page.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    assert found, f"{FOR_USERS.name} has lost its marks"
    return f"{before}{_BEGIN}{_for_users(families)}{_END}{after}"


def _for_users(families: Families) -> str:
    """What came over in each kind of pair, by kind of task: gained by target + Δ, of what the fine-tuning gained on its own version."""
    if not families:
        return ""
    rows = [["kind of pair", "distance", *KINDS[1:], "kept of the target's perplexity, and after its own fine-tuning"]]
    for words, pairs in RELATIONS:
        cases = [case for of in families.values() for case in of if (case.source, case.target) in pairs]
        if not cases:
            continue
        each = [[case for case in cases if case.kind == kind] for kind in KINDS]
        own = _optional(lambda value: f"{value:.2f}", [case.own_retention for case in each[0]])
        shifts = [case.figures["relative_shift"] for case in each[0]]
        rows.append(
            [
                words,
                f"{min(shifts):.2f} to {max(shifts):.2f}",
                *(f"{_points(_mean(c.gain for c in of))} of {_points(_mean(c.known for c in of))}" for of in each[1:]),
                f"{_mean(case.retention for case in each[0]):.2f}, {own}",
            ]
        )
    told = (
        f"In families with relatives (so far {len(families)}; means over them and three fine-tunings, in points): what target + Δ gained, of what "
        "the fine-tuning gained on its own version. Distance is ‖target − base‖ / ‖base‖."
    )
    return f"{told}\n\n{table(rows)}\n"


def _listed(families: Families) -> str:
    return ", ".join(map(str, families)) or "none"


def _pairs(families: Families) -> str:
    """Means over families, for each pair and fine-tuning; all kinds of task together."""
    by_pair: dict[tuple[str, str, str], list[Case]] = {}
    for cases in families.values():
        for case in cases:
            if case.kind == ALL:
                by_pair.setdefault((case.source, case.target, case.tuning), []).append(case)
    rows = [["pair", "fine-tuning", "distance", "‖Δ‖", "source gained", "target + Δ gained", "target's own", "succeeded",
             "retention", "after its own"]]  # fmt: skip
    for (source, target, tuning), cases in by_pair.items():
        outcomes = [case.succeeded for case in cases if case.succeeded is not None]
        rows.append(
            [
                f"{source} → {target}",
                tuning,
                f"{_mean(case.figures['relative_shift'] for case in cases):.3f}",
                f"{_mean(case.figures['relative_diff'] for case in cases):.3f}",
                _points(_mean(case.known for case in cases)),
                _points(_mean(case.gain for case in cases)),
                _optional(_points, [case.own for case in cases]),
                f"{sum(outcomes)} of {len(outcomes)}" if outcomes else "–",
                f"{_mean(case.retention for case in cases):.2f}",
                _optional(lambda value: f"{value:.2f}", [case.own_retention for case in cases]),
            ]
        )
    told = "Distance and ‖Δ‖ are relative to ‖base‖; gains are in points, the mean of three kinds of task and of the families."
    return f"{told}\n\n{table(rows)}"


def _shared_way(families: Families) -> str:
    """What the reason and the remedy for targets that went where Δ goes rest on."""
    cases = [case for of in families.values() for case in of if case.kind == ALL and case.target != FOREIGN]
    told = [case for case in cases if case.figures["cosine_diff_shift"] >= SHARED_WAY]
    instructed = [case for case in cases if case.target == INSTRUCT]
    failed = sum(case.gain < 0 for case in told)
    return (
        f"Δ and target − base share a direction (cosine of {SHARED_WAY} or more) in {len(told)} of {len(cases)} pairs; {failed} of these lost "
        f"points. {sum(case.target == INSTRUCT for case in told)} of them have the instruct model as target, of {len(instructed)} such pairs."
    )


def _mean(values: object) -> float:
    return float(np.mean([value for value in values if value is not None]))  # type: ignore[attr-defined]  # any iterable


def _optional(write: Callable[[float], str], values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return write(_mean(known)) if known else "–"


def _points(share: float) -> str:
    return minus(f"{100 * share:z.1f}")


def _predictors(families: Families) -> str:
    parts = []
    for kind in KINDS:
        of_kind = {n: cases for n, cases in choose.of_kind(families, kind).items() if cases}
        if len(of_kind) < 2:
            continue
        rows = [
            [
                "predictor",
                "Brier score",
                "gain: off by, points",
                "retention: off by",
                "families in which it beats the distance",
            ]
        ]
        known = measured_in(case for cases in of_kind.values() for case in cases)
        alone = {one.name: one_out(one, of_kind) for one in known}
        for predictor in known:
            foreseen = alone[predictor.name]
            name = f"{predictor.name} (rival)" if predictor.rival else predictor.name
            better = sum(brier(_of(foreseen, n)) < brier(_of(alone["distance alone"], n)) - 1e-12 for n in of_kind)
            beats = "–" if predictor.name == "distance alone" else f"{better} of {len(of_kind)}"
            rows.append(
                [
                    name,
                    _ranged(brier, foreseen, ".3f"),
                    _ranged(lambda some: 100 * off_in_points(some), foreseen, ".1f"),
                    _ranged(off_in_retention, foreseen, ".3f"),
                    beats,
                ]
            )
        count = Counter(bool(one.case.succeeded) for one in alone["constant"])
        parts.append(
            f"### {kind[0].upper()}{kind[1:]}\n\n{count[True]} of {count.total()} pairs succeeded.\n\n{table(rows)}"
        )
    n = len(families)
    told = (
        f"Each number is a mean over the families, with the lowest and highest family in brackets. With {n} families the median family "
        f"lies in this range with a probability of {1 - 2 ** (1 - n):.0%}; 95 % needs six families. By chance alone, a predictor would "
        f"beat another in all {n} families in {0.5**n:.0%} of cases."
    )
    return "\n\n".join([told, *parts])


def _of(foreseen: Sequence[Foreseen], family: int) -> list[Foreseen]:
    return [one for one in foreseen if one.case.family == family]


def _ranged(measure: Callable[[Sequence[Foreseen]], float], foreseen: Sequence[Foreseen], form: str) -> str:
    families = dict.fromkeys(one.case.family for one in foreseen)
    each = [measure(_of(foreseen, family)) for family in families]
    return f"{measure(foreseen):{form}} [{min(each):{form}}, {max(each):{form}}]"


def _verdict(families: Families, candidates: Sequence[Predictor]) -> list[str]:
    of_all = choose.of_kind(families, ALL)
    foreseen, names = chosen_in_fold(of_all, candidates)
    constant = one_out(PREDICTORS[0], of_all)
    told = (
        "For each family, predictor and thresholds were chosen and fitted on the others alone (those, again, left out one at a time). "
        f"`likely` begins where at most {MISSED:.0%} failed there, `unlikely` ends where at most as many succeeded. All kinds of task "
        f"together. Chosen: {'; '.join(f'{name} (without family {n})' for n, name in names.items())}."
    )
    scores = table(
        [
            ["", "Brier score", "gain: off by, points", "retention: off by"],
            ["the chance that was foreseen", _ranged(brier, foreseen, ".3f"),
             _ranged(lambda some: 100 * off_in_points(some), foreseen, ".1f"), _ranged(off_in_retention, foreseen, ".3f")],
            ["the three words", _ranged(brier_of_words, foreseen, ".3f"), "–", "–"],
            ["a constant", _ranged(brier, constant, ".3f"), _ranged(lambda some: 100 * off_in_points(some), constant, ".1f"),
             _ranged(off_in_retention, constant, ".3f")],
        ]
    )  # fmt: skip
    return [told, scores, _reliability(foreseen), _by_word(foreseen), _misses(foreseen)]


def _reliability(foreseen: Sequence[Foreseen]) -> str:
    rows = [["chance foreseen", "pairs", "mean chance", "succeeded"]]
    free = [one for one in foreseen if not one.case.gated]
    for low, high in _BINS:
        some = [one for one in free if low <= one.chance < high]
        if some:
            rate = np.mean([bool(one.case.succeeded) for one in some])
            rows.append(
                [
                    f"{low:.1f} to {min(high, 1):.1f}",
                    str(len(some)),
                    f"{np.mean([o.chance for o in some]):.2f}",
                    f"{rate:.2f}",
                ]
            )
    return f"Reliability, pairs of all families together, without those that a gate stops:\n\n{table(rows)}"


def _by_word(foreseen: Sequence[Foreseen]) -> str:
    families = list(dict.fromkeys(one.case.family for one in foreseen))
    rows = [["word", "pairs", "succeeded", *(f"family {n}" for n in families)]]
    for word in WORDS:
        some = [one for one in foreseen if one.word == word]
        rows.append([word, *_counted(some), *(f"{_counted(_of(some, n))[1]} of {len(_of(some, n))}" for n in families)])
    likely = [one for one in foreseen if one.word == "likely"]
    failed = sum(not one.case.succeeded for one in likely)
    share = (
        f"Of {len(likely)} pairs called `likely`, {failed} failed ({failed / len(likely):.0%})."
        if likely
        else "No pair was called `likely`."
    )
    return f"{share}\n\n{table(rows)}"


def _counted(some: Sequence[Foreseen]) -> tuple[str, str]:
    return str(len(some)), str(sum(bool(one.case.succeeded) for one in some))


def _misses(foreseen: Sequence[Foreseen]) -> str:
    missed = [one for one in foreseen if (one.word == "likely") != bool(one.case.succeeded) and one.word != "uncertain"]
    if not missed:
        return "No miss: nothing `likely` failed, nothing `unlikely` succeeded."
    lines = [
        f"- {one.case.name}: `{one.word}` (chance {one.chance:.2f}), gained {_points(one.case.gain)} of {_points(one.case.known)} points"
        for one in missed
    ]
    return "Misses by name:\n\n" + "\n".join(lines)


def _confirmation(kept: Families) -> list[str]:
    calibration = choose.written_choice()
    if calibration is None:
        return []
    parts = ["## Confirmation, once, on families that nobody had looked at"]
    told = (
        f"Chosen on families {', '.join(map(str, calibration.families))} and written down before (docs/results/verdict/choice.json): "
        f"{' and '.join(f'{feature.figure} ({feature.transform})' for feature in calibration.features)}; `likely` from a chance of "
        f"{calibration.likely:.2f} on, `unlikely` up to {calibration.unlikely:.2f}."
    )
    if not kept:
        return [*parts, f"{told} No family has confirmed it yet."]
    of_all = choose.of_kind(kept, ALL)
    foreseen = [one for cases in of_all.values() for one in foresee(choose.as_fit(calibration), cases)]
    scores = (
        f"Brier score {_ranged(brier, foreseen, '.3f')}, gain off by {_ranged(lambda some: 100 * off_in_points(some), foreseen, '.1f')} points, "
        f"retention by {_ranged(off_in_retention, foreseen, '.3f')}."
    )
    return [*parts, told, scores, _reliability(foreseen), _by_word(foreseen), _misses(foreseen)]


def _published() -> str:
    rows = [["pair", "published", "what `compare` should find", "word", "to check it"]]
    rows += [[one.pair, one.known, one.expected, one.word, one.check] for one in PAIRS]
    return (
        "Nobody here has these weights. Tables are the paper's; other reports are named as such. The scores are known, so they are no test; "
        f"what the weights should show is.\n\n{table(rows)}"
    )


def _going_on() -> str:
    return (
        "    python -m experiments.verdict.run_families --out verdict-out --families 1 2 3 4 5 6 7 8 --dry-run    # hours\n"
        "    python -m experiments.verdict.run_families --out verdict-out --families 1 2 3 4 5 6 7 8    # resumes\n"
        "    python -m experiments.verdict.probe_pairs verdict-out/family-N    # adds what prompts show to the record\n"
        "    python -m experiments.verdict.choose                # families 1 to 8: commit docs/results/verdict/choice.json\n"
        "    python -m experiments.verdict.run_families --out verdict-out --families 9 10 11 12 13 14 15 16 17 18 19 20\n"
        "    python -m experiments.verdict.run_families --out verdict-out --families 3 4 5 --lab large\n"
        "    python -m experiments.verdict.choose --confirm      # once: the calibration goes into the package\n"
        "    python -m experiments.pages.verdict_page"
    )


def main(arguments: Sequence[str]) -> int:
    """Write or check the page."""
    made_from = "docs/results/verdict/"
    for_users = with_pairs(FOR_USERS.read_text(encoding="utf-8"), choose.parts(families_in())[0])
    return max(
        write_or_compare(PAGE, render(), arguments, made_from),
        write_or_compare(FOR_USERS, for_users, arguments, made_from),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
