"""Steps to match, and peaks, read off curves that can be checked by eye."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneport.reporting.tables.training_curves import panels, steps_saved, with_match
from tuneport.results.schema import THEN_TUNED, TUNED, Model, Run, Score
from tuneport.results.study_reading import Reading

PLAIN, STARTED = Model(TUNED, None, "M2", "sft"), Model(THEN_TUNED, "M1", "M2", "sft")


def reading(curves: dict[Model, dict[int, float]], metric: str = "exact_match", families: int = 1) -> Reading:
    higher = metric != "loss"
    runs = [
        Run(model, family, 0, step, 100, "done", None, {"validation": Score(metric, value, 0.02, 100, higher)})
        for family in range(families)
        for model, points in curves.items()
        for step, value in points.items()
    ]
    return Reading(Path(), "made-up", "", (), ("M1", "M2"), (0,), tuple(runs), (), (), (), (), (), (), ())


def test_steps_to_match_count_until_a_curve_has_reached_where_plain_fine_tuning_ends_and_stays() -> None:
    curves = {PLAIN: {0: 0.1, 50: 0.4, 100: 0.6}, STARTED: {0: 0.5, 50: 0.65, 100: 0.6}}
    (panel,) = panels(reading(curves))
    plain, started = panel.curves
    assert panel.reference is not None and (panel.reference.step, panel.reference.value) == (100, 0.6)
    assert started.to_match == 50 and steps_saved(panel, started) == 50
    assert started.peak is not None and (started.peak.step, started.peak.value) == (50, 0.65)
    assert plain.to_match == 100 and with_match([panel]) == (1, 1, 1)


def test_a_curve_that_never_gets_there_saves_nothing() -> None:
    (panel,) = panels(reading({PLAIN: {0: 0.1, 100: 0.6}, STARTED: {0: 0.3, 100: 0.59}}))
    assert panel.curves[1].to_match is None and steps_saved(panel, panel.curves[1]) is None
    assert with_match([panel]) == (1, 0, 0)


def test_a_curve_that_falls_back_below_the_end_of_plain_fine_tuning_has_not_matched_it() -> None:
    (panel,) = panels(reading({PLAIN: {0: 0.1, 100: 0.6}, STARTED: {0: 0.3, 50: 0.7, 100: 0.55}}))
    assert panel.curves[1].to_match is None and with_match([panel]) == (1, 0, 0)


def test_of_a_loss_lower_is_better() -> None:
    (panel,) = panels(reading({PLAIN: {0: 3.0, 100: 1.0}, STARTED: {0: 1.5, 50: 0.9, 100: 0.95}}, "loss"))
    assert panel.curves[1].to_match == 50
    assert panel.curves[1].peak is not None and panel.curves[1].peak.value == 0.9
    assert not panel.share


def test_plain_fine_tuning_alone_has_no_panel() -> None:
    assert panels(reading({PLAIN: {0: 0.1, 100: 0.6}})) == []


def test_over_families_points_are_means_with_an_interval_around_them() -> None:
    (panel,) = panels(reading({PLAIN: {0: 0.1, 100: 0.6}, STARTED: {0: 0.3, 100: 0.7}}, families=3))
    for curve in panel.curves:
        for point in curve.points:
            assert point.results == 3 and point.interval is not None
            assert point.interval[0] < point.value < point.interval[1]
            # Three families that err by 0.02 each, drawn with replacement: each counts once, and varies by two thirds.
            wide = 2 * 1.96 * 0.02 * ((1 + 2 / 3) / 3) ** 0.5
            assert point.interval[1] - point.interval[0] == pytest.approx(wide, rel=0.15)
