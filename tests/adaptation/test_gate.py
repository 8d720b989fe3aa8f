"""The gate keeps what is better and does no harm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.adaptation.gate import decide
from tuneport.adaptation.rung_measures import Retention
from tuneport.errors import FLAGS
from tuneport.results.example_outcomes import Outcome, TaskResult

ADDED = Retention(loss=2.0, ended=0.9, length=20.0, repeated=0.05)


def result(right: list[bool]) -> TaskResult:
    outcomes = tuple(Outcome(str(place), float(each)) for place, each in enumerate(right))
    return TaskResult("select", "exact_match", True, outcomes)


def shares(gained: int, lost: int, same: int = 200) -> tuple[TaskResult, TaskResult]:
    """New and best: so many that only the one, or only the other, answers."""
    new = [True] * gained + [False] * lost + [True, False] * (same // 2)
    best = [False] * gained + [True] * lost + [True, False] * (same // 2)
    return result(new), result(best)


def test_a_rung_is_kept_only_if_the_lower_bound_is_above_0() -> None:
    assert decide(*shares(30, 5), ADDED, ADDED).status == "kept"
    undecided = decide(*shares(12, 8), ADDED, ADDED)
    assert undecided.status == "not better"
    assert undecided.difference is not None and undecided.difference.value == pytest.approx(4 / 220)
    worse = decide(*shares(5, 30), ADDED, ADDED)
    assert (worse.status, "would decide" in worse.why) == ("not better", False)


def test_it_says_how_many_prompts_would_decide() -> None:
    why = FLAGS.message(decide(*shares(12, 8), ADDED, ADDED).why)
    # 2.8016² · (share that differs − change²) / change²
    assert "About 2,200 prompts in --select would decide a difference of this size." in why
    gained, lost = 2200 * 12 // 220, 2200 * 8 // 220
    assert decide(*shares(gained, lost, 2200 - gained - lost), ADDED, ADDED).status == "kept"


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"loss": 2.11}, "the loss of the texts to keep rises by 0.110 nats per token"),
        ({"ended": 0.86}, "4.0% fewer answers end by themselves"),
        ({"repeated": 0.09}, "answers repeat 4.0% more of themselves"),
    ],
)
def test_what_loses_too_much_of_what_the_target_could_is_not_kept_unless_asked(
    lost: dict[str, float], words: str
) -> None:
    kept = replace(ADDED, **lost)
    harmed = decide(*shares(30, 5), kept, ADDED)
    assert harmed.status == "harmed"
    assert words in harmed.why and "--keep-harmed would keep it" in FLAGS.message(harmed.why)
    asked = decide(*shares(30, 5), kept, ADDED, keep_harmed=True)
    assert asked.status == "kept" and words in asked.why


def test_small_losses_and_gains_of_retention_are_no_harm() -> None:
    little = Retention(loss=2.099, ended=0.871, length=300.0, repeated=0.079)
    assert decide(*shares(30, 5), little, ADDED).status == "kept"
    assert decide(*shares(30, 5), Retention(None, 1.0, 1.0, 0.0), replace(ADDED, loss=None)).status == "kept"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=16, max_size=60))
def test_nothing_is_kept_that_is_not_better_on_the_examples_themselves(outcomes: list[tuple[bool, bool]]) -> None:
    new, best = (list(each) for each in zip(*outcomes, strict=True))
    if decide(result(new), result(best), ADDED, ADDED).status == "kept":
        assert sum(new) > sum(best)
