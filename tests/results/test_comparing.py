"""Comparisons in pairs, against enumeration by brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tuneport import statistics
from tuneport.results.comparing import compare, pairs_of, recovered
from tuneport.results.example_outcomes import Outcome, TaskResult, as_json, from_json


def result(scores: list[float], weights: list[float] | None = None, task: str = "t", metric: str = "m") -> TaskResult:
    given_weights = weights or [1.0] * len(scores)
    outcomes = tuple(Outcome(str(i), s, w) for i, (s, w) in enumerate(zip(scores, given_weights, strict=True)))
    return TaskResult(task, metric, True, outcomes)


@given(some.lists(some.tuples(some.booleans(), some.booleans()), min_size=1, max_size=10))
def test_mcnemars_p_is_the_share_of_equally_or_less_balanced_ways_to_swap_the_answers(
    pairs: list[tuple[bool, bool]],
) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    seen = abs(sum(one) - sum(other))
    # Under "no difference" each pair's answers may be swapped: enumerate all ways.
    ways = [
        abs(sum((a - b) * sign for (a, b), sign in zip(pairs, signs, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(pairs))
    ]
    expected = sum(way >= seen for way in ways) / len(ways)
    assert statistics.mcnemar(one, other) == pytest.approx(expected, abs=1e-12)


def test_mcnemars_p_of_thousands_of_examples_is_exact() -> None:
    one, other = [True] * 1500 + [False] * 1400, [False] * 1500 + [True] * 1400
    from scipy.stats import binomtest

    assert statistics.mcnemar(one, other) == pytest.approx(binomtest(1400, 2900).pvalue, rel=1e-9)


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_holms_p_values_are_those_of_the_step_down_procedure(ps: list[float]) -> None:
    adjusted = statistics.holm(ps)
    for level in (0.01, 0.05, 0.3):
        rejected = set()  # the textbook's procedure, one step after another
        for step, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
            if ps[index] * (len(ps) - step) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
    assert all(a >= p for a, p in zip(adjusted, ps, strict=True))


def test_the_weighted_bootstrap_agrees_with_drawing_examples_one_by_one() -> None:
    rng = np.random.default_rng(1)
    scores, weights = rng.random(40), rng.integers(1, 9, 40).astype(float)
    found = statistics.weighted_mean(scores.tolist(), weights.tolist())
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(0, 40, 40)
        drawn.append((scores[chosen] @ weights[chosen]) / weights[chosen].sum())
    assert found.value == pytest.approx(scores @ weights / weights.sum())
    assert found.interval == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.01)
    assert found.stderr == pytest.approx(np.std(drawn), rel=0.08)


def test_a_mean_and_an_accuracy_have_the_standard_error_of_the_mean() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    expected = float(np.std(values, ddof=1) / math.sqrt(5))
    assert statistics.mean(values).stderr == pytest.approx(expected)
    assert statistics.accuracy([v == 1 for v in values]).stderr == pytest.approx(expected)


def test_right_and_wrong_answers_are_tested_exactly_and_losses_by_the_bootstrap() -> None:
    right = {"a": [result([0.0] * 12)], "b": [result([1.0] * 9 + [0.0] * 3)]}
    (row,) = compare(right, 0, pairs_of(list(right)))
    assert (row["models"], row["method"], row["n"]) == (["a", "b"], "exact McNemar", 12)
    assert row["difference"] == pytest.approx(0.75)
    assert row["p"] == pytest.approx(2 / 2**9)
    assert row["significant"] is True
    rng = np.random.default_rng(0)
    before = rng.random(200)
    losses = {"a": [result(before.tolist())], "b": [result((before - 0.05 * rng.random(200)).tolist())]}
    (row,) = compare(losses, 0, pairs_of(list(losses)))
    assert row["method"] == "paired bootstrap"
    assert row["interval"][0] < row["difference"] < row["interval"][1] < 0
    assert row["significant"] is True


def test_a_few_losses_that_all_fall_prove_nothing() -> None:
    before = [1.0, 2.0, 3.0, 4.0, 5.0]
    losses = {"a": [result(before)], "b": [result([loss - 0.5 - loss / 100 for loss in before])]}
    (row,) = compare(losses, 0, pairs_of(list(losses)))
    assert (row["p"], row["significant"]) == (2 / 2**5, False)
    (more,) = compare({name: [result(found[0].scores * 4)] for name, found in losses.items()}, seed=0)
    assert more["significant"]


def test_models_that_say_the_same_do_not_differ() -> None:
    for scores in ([1.0, 0.0, 1.0], [0.3, 0.7, 1.2]):
        (row,) = compare({"a": [result(scores)], "b": [result(scores)]}, seed=0)
        assert (row["p"], row["difference"], row["significant"]) == (1.0, 0.0, False)


def test_the_more_rows_a_table_has_the_more_a_difference_has_to_show() -> None:
    rng = np.random.default_rng(3)
    # 9 against 1 of ten discordant: p = 0.021 alone
    one, other = [1.0] * 9 + [0.0] + [1.0] * 10, [0.0] * 9 + [1.0] + [1.0] * 10
    (alone,) = compare({"a": [result(one)], "b": [result(other)]}, seed=0)
    assert alone["significant"]
    noise = [result((rng.random(20) < 0.5).astype(float).tolist(), task=f"t{n}") for n in range(5)]
    rows = compare({"a": [result(one), *noise], "b": [result(other), *noise]}, seed=0)
    assert len(rows) == 6
    assert not rows[0]["significant"]
    assert rows[0]["p_adjusted"] == pytest.approx(6 * alone["p"])


def test_many_losses_compared_at_once_can_still_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(100)
    models = {f"m{n}": [result((base + n * 0.5).tolist(), task=f"t{t}") for t in range(3)] for n in range(6)}
    rows = compare(models, 0, list(itertools.combinations(models, 2)))
    assert len(rows) == 45
    assert all(row["significant"] for row in rows)


def test_models_that_were_asked_other_examples_are_not_compared() -> None:
    other = TaskResult("t", "m", True, (Outcome("x", 1.0), Outcome("y", 1.0)))
    rows = compare({"a": [result([1.0, 0.0])], "b": [other], "c": [result([1.0, 1.0])]}, seed=0)
    assert [row["models"] for row in rows] == [["a", "c"]]


def test_what_is_computed_across_variants_of_a_task_is_flagged() -> None:
    asked = {
        name: [replace(result([1.0, 0.0]), variant=v)] for name, v in (("a", "base"), ("b", "tuned"), ("c", "base"))
    }
    rows = compare(asked, seed=0)
    assert [row.get("across_variants") for row in rows] == [["base", "tuned"], None, ["tuned", "base"]]
    assert recovered(asked, ["a", "b", "c"], seed=0)[0]["across_variants"] == ["base", "tuned", "base"]
    assert "across_variants" not in recovered(asked, ["a", "c", "a"], seed=0)[0]


def test_recovered_gain_is_the_share_and_null_where_the_gain_may_be_nothing() -> None:
    results = {
        "v2": [result([0.0] * 100), result([0.5, 0.6] * 30, task="u")],
        "moved": [result([1.0] * 60 + [0.0] * 40), result([0.4, 0.7] * 30, task="u")],
        "tuned": [result([1.0] * 80 + [0.0] * 20), result([0.6, 0.5] * 30, task="u")],
    }
    first, second = recovered(results, ["v2", "moved", "tuned"], seed=0)
    assert first["recovered_gain"] == pytest.approx(0.75)
    assert first["gain"] == pytest.approx(0.6)
    assert (second["recovered_gain"], second["interval"]) == (None, None)


def test_a_loss_that_falls_is_a_gain_too_and_tokens_weigh() -> None:
    weights = [1.0, 3.0] * 25
    rows = recovered(
        {
            "v2": [result([4.0, 2.0] * 25, weights)],
            "moved": [result([3.0, 1.5] * 25, weights)],
            "tuned": [result([2.0, 1.0] * 25, weights)],
        },
        ["v2", "moved", "tuned"],
        seed=0,
    )
    # (4 + 3·2) / 4 = 2.5, (3 + 3·1.5) / 4 = 1.875, (2 + 3·1) / 4 = 1.25
    assert rows[0]["recovered_gain"] == pytest.approx(0.5)
    assert rows[0]["gain"] == pytest.approx(-0.625)


def test_a_result_survives_the_journal() -> None:
    whole = TaskResult("t", "m", False, (Outcome("1", 0.5, 3.0, "said", "wanted"),), {"o": 1.0}, None, 5, 1.0)
    assert from_json(as_json(whole)) == whole


def test_only_comparisons_that_were_asked_for_enter_the_table_and_its_adjustment() -> None:
    assert pairs_of(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs_of(["a", "b", "c", "d"]) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert pairs_of(["a", "b", "c"], ["c"]) == [("c", "a"), ("c", "b")]
    assert pairs_of(["a", "b", "c"], ["b", "a"]) == [("b", "a"), ("b", "c"), ("a", "c")]
    assert pairs_of(["a"]) == [] and pairs_of(["a"], ["a"]) == []
    results = {
        name: [result([float(i < count) for i in range(20)])]
        for name, count in zip("abcd", (2, 9, 12, 20), strict=True)
    }
    asked = compare(results, 0, pairs_of(list("abcd"), ["d"]))
    assert [row["models"] for row in asked] == [["d", "a"], ["d", "b"], ["d", "c"]]
    everything = compare(results, 0, list(itertools.combinations("abcd", 2)))
    alike = next(row for row in everything if row["models"] == ["c", "d"])
    assert asked[2]["p"] == alike["p"] and asked[2]["difference"] == -alike["difference"]
    assert asked[2]["p_adjusted"] < alike["p_adjusted"]
