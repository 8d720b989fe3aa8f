"""The verdict: gates first, then what a calibration foresees, and nothing but `uncertain` outside the range that it covers."""

from dataclasses import replace
from typing import Any

import pytest

from tuneport.comparison.calibration import FORMAT, Calibration, Feature, StraightLine, calibrations, parse_calibration
from tuneport.comparison.gates import Gate
from tuneport.comparison.transfer_verdict import FURTHER, OWN_BASE, TRY, Verdict, verdict_of

PASSED = (
    Gate("strangers", "pass", 0.9, 0.1, "They are versions."),
    Gate("roles", "pass", 0.0, 0.3, "Roles are right."),
)
KNOWN = Calibration(
    source="docs/verdict.md",
    families=(1, 2, 3),
    confirmed=(9,),
    kinds=("llama",),
    ranges={"parameters": (2e5, 4e5), "relative_shift": (0.02, 0.5)},
    features=(Feature("relative_shift", "log"),),
    chance=StraightLine((-6.0, -4.0)),
    gain=StraightLine((-0.2, -0.4), 0.2, 0.1, 0.75),
    retention=StraightLine((0.5, 0.0), 0.1, 0.1, 0.75),
    likely=0.8,
    unlikely=0.2,
    counted={"likely": (18, 20), "uncertain": (5, 9), "unlikely": (1, 21)},
)


def measures(shift: float | None, parameters: int = 300_000) -> dict[str, Any]:
    figures = {"parameters": parameters, "relative_shift": shift, "relative_diff": 0.2, "cosine_diff_shift": 0.1}
    return {**figures, "matrices": {"relative_shift": shift}}


def said(shift: float | None, gates: tuple[Gate, ...] = PASSED, kind: str | None = "llama", **more: Any) -> Verdict:
    return verdict_of(measures(shift, **more), gates, kind, (KNOWN,))


@pytest.mark.parametrize(
    ("shift", "word", "remedy"), [(0.05, "likely", None), (0.22, "uncertain", TRY), (0.45, "unlikely", FURTHER)]
)
def test_inside_the_range_the_chance_decides(shift: float, word: str, remedy: str | None) -> None:
    found = said(shift)
    assert (found.word, found.remedy, found.calibrated) == (word, remedy, True)
    assert found.gain is not None and 0 <= found.gain[0] <= found.gain[1] <= found.gain[2] <= 1
    assert found.retention == pytest.approx((0.4, 0.5, 0.6))
    assert "{} of {}".format(*KNOWN.counted[word]) in found.reasons[0]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"shift": 0.6}, "relative_shift is 0.6"),
        ({"shift": 0.05, "parameters": 135_000_000}, "parameters is 1.35e+08"),
        ({"shift": None}, "relative_shift is not measured"),
        ({"shift": 0.05, "kind": "olmo2"}, "olmo2"),
        ({"shift": 0.05, "kind": None}, "unknown kind"),
    ],
)
def test_outside_the_range_the_word_is_uncertain_and_the_reason_says_why(given: dict[str, Any], named: str) -> None:
    found = said(**given)
    assert (found.word, found.gain, found.retention, found.calibrated) == ("uncertain", None, None, False)
    assert named in found.reasons[-1]


def test_a_gate_that_fails_is_the_verdict_and_one_that_warns_takes_likely_away() -> None:
    failed = said(0.05, (*PASSED, Gate("rounding", "fail", 0.9, 0.5, "Little is left.")))
    assert (failed.word, failed.calibrated, failed.reasons) == ("unlikely", False, ("rounding: Little is left.",))
    warned = said(0.05, (*PASSED, Gate("tokens", "warn", 0.1, 0.5, "Two tokens are lost.")))
    assert warned.word == "uncertain" and "tokens: Two tokens are lost." in warned.reasons


@pytest.mark.parametrize("known", [(), (KNOWN,)])
def test_a_target_that_went_where_the_fine_tuning_goes_is_told_of_with_another_remedy(
    known: tuple[Calibration, ...],
) -> None:
    found = verdict_of(measures(0.22) | {"cosine_diff_shift": 0.45}, PASSED, "llama", known)
    assert (found.word, found.remedy) == ("uncertain", OWN_BASE)
    assert "cosine 0.45" in found.reasons[0 if not known else 1]
    assert verdict_of(measures(0.22) | {"cosine_diff_shift": None}, PASSED, "llama", known).remedy == TRY


def test_of_several_calibrations_the_one_that_covers_the_pair_is_asked() -> None:
    large = replace(KNOWN, ranges={"parameters": (1e8, 1e9)}, chance=StraightLine((9.0, 0.0)))
    found = verdict_of(measures(0.45, parameters=135_000_000), PASSED, "llama", (KNOWN, large))
    assert found.word == "likely"


def test_a_figure_that_was_not_measured_is_not_a_number_and_matrices_are_read_apart() -> None:
    assert Feature("matrices.relative_shift").of(measures(0.3)) == 0.3
    assert Feature("relative_shift", "log").of(measures(None)) != Feature("relative_shift", "log").of(measures(None))


def test_the_package_holds_only_calibrations_that_were_confirmed_on_other_families() -> None:
    assert FORMAT == "tuneport.calibration/1"
    for one in calibrations():
        assert len(one.families) >= 3 and one.confirmed and not set(one.families) & set(one.confirmed)
        assert parse_calibration(one.record()) == one
