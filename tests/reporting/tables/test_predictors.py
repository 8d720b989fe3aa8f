"""Predictors are paired with the transfers they are of, and their rank correlation is Spearman's."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from scipy.stats import spearmanr
from support.made_up_results import PATHS

from tuneport.reporting.tables.predictors import Apart, PairPoint, distances, lines, rank_correlation, scatters
from tuneport.reporting.tables.report_tables import Findings
from tuneport.reporting.tables.wording import DASH
from tuneport.statistics import Estimate

numbers = st.integers(-5, 5).map(float)


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers), min_size=4, max_size=30))
def test_the_rank_correlation_is_scipys_with_ties_too(pairs: list[tuple[float, float]]) -> None:
    points = [PairPoint("a", "b", None, x, Estimate(y, (y, y)), 1) for x, y in pairs]
    if len({x for x, _ in pairs}) == 1 or len({y for _, y in pairs}) == 1:
        assert rank_correlation(points) is None
    else:
        slow = spearmanr([x for x, _ in pairs], [y for _, y in pairs]).statistic
        assert rank_correlation(points) == pytest.approx(slow)


def test_each_transfer_stands_at_the_distance_of_its_two_versions_whatever_their_order(found: Findings) -> None:
    scatter = next(s for s in found.scatters if s.predictor == "distance" and s.task == "sums")
    by_pair = {(p.source, p.target): p.x for p in scatter.points}
    assert len(by_pair) == 20
    for (source, target), x in by_pair.items():
        measured = [row["distance"] for row in found.reading.distances if {row["a"], row["b"]} == {source, target}]
        assert x == pytest.approx(sum(measured) / len(measured))


def test_the_barrier_to_the_tuned_target_belongs_to_one_direction_only(found: Findings) -> None:
    scatter = next(s for s in found.scatters if s.predictor == "barrier of transferred" and s.task == "sums")
    assert {(p.source, p.target) for p in scatter.points} == set(PATHS)


def test_fewer_than_five_pairs_are_not_drawn(found: Findings) -> None:
    few = [row for row in found.reading.paths if (row["source"], row["target"]) in PATHS[:4]]
    shown = scatters(replace(found.reading, paths=tuple(few)), found.estimates)
    assert "barrier of transferred" not in {scatter.predictor for scatter in shown}, "four points"
    assert all(len(scatter.points) >= 5 for scatter in shown)


def test_every_path_that_can_be_drawn_is_drawn(found: Findings) -> None:
    shown = lines(found.reading)
    assert len(shown) == len(found.reading.paths) == 2 * 3 * len(PATHS)
    assert {line.which for line in shown} == {"bases", "tuned", "transferred to tuned"}
    assert all(line.alphas[0] == 0 and line.alphas[-1] == 1 for line in shown)


def test_every_distance_that_was_measured_is_told(found: Findings) -> None:
    assert len(found.distances) == len(found.reading.distances) == 2 * 10
    for told, row in zip(found.distances, found.reading.distances, strict=True):
        assert (told.a, told.b, told.distance, told.cosine) == (row["a"], row["b"], row["distance"], row["cosine"])
    alone = {**{"a": "M1", "b": "M2", "tuning": "sft", "family": 0, "seed": 1}, "distance": 2.5, "diff_norm_a": 1.5}
    not_run = {"a": "M1", "b": "M3", "tuning": "sft", "distance": None, "cosine": None}
    assert distances(replace(found.reading, distances=(alone, not_run))) == [
        Apart("M1", "M2", "sft", 0, 1, 2.5, 1.5, None, None)
    ]


PATH = {"a": "M1", "b": "M2", "alphas": [0.0, 1.0], "loss": [1.0, 1.0], "barrier": 0.02, "interval": [0.01, 0.03]}


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({"threshold": 0.05, "connected": True}, "yes"),
        ({"threshold": 0.02, "connected": None}, "unclear"),
        ({"threshold": 0.001, "connected": False}, "no"),
        ({"threshold": 0.05, "interval": None, "barrier": None}, DASH),
        ({}, DASH),
    ],
)
def test_whether_a_path_is_connected_is_told_where_interval_and_threshold_tell_it(
    found: Findings, told: dict[str, object], verdict: str
) -> None:
    (line,) = lines(replace(found.reading, paths=(PATH | told,)))
    assert line.verdict == verdict
