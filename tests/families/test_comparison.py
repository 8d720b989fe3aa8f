"""Models side by side: numbers that follow from right and wrong answers, and text that shows all of them."""

import pytest

from tuneport.families import comparison
from tuneport.families.comparison import difference, does_no_harm, gains, recovered

RIGHT = {
    "a": {"sums": [True] * 30 + [False] * 70, "lists": [False] * 50},
    "b": {"sums": [True] * 80 + [False] * 20, "lists": [True] * 10 + [False] * 40},
    "c": {"sums": [True] * 90 + [False] * 10},
}
NAMES = {"a": "before", "b": "after", "c": "trained"}


def test_every_model_has_its_accuracy_with_n_and_interval_on_the_tasks_it_was_asked() -> None:
    found = comparison.side_by_side(RIGHT, NAMES)
    assert found["models"] == NAMES
    assert found["tasks"]["sums"]["n"] == 100
    assert found["tasks"]["sums"]["models"]["b"]["accuracy"] == pytest.approx(0.8)
    low, high = found["tasks"]["sums"]["models"]["b"]["interval"]
    assert low < 0.8 < high
    assert set(found["tasks"]["lists"]["models"]) == {"a", "b"}


def test_differences_are_taken_over_all_questions_of_the_tasks() -> None:
    row = difference(RIGHT, ["sums", "lists"], "b", "a", seed=0)
    assert row["n"] == 150
    assert row["difference"] == pytest.approx(90 / 150 - 30 / 150)
    assert row["interval"][0] < row["difference"] < row["interval"][1]
    assert row["p"] == pytest.approx(2 / 2**60)
    assert gains(row)
    assert does_no_harm(row)
    assert not does_no_harm(difference(RIGHT, ["sums"], "a", "b", seed=0))


def test_a_difference_that_may_be_nothing_is_no_gain_and_a_wide_one_no_proof_of_no_harm() -> None:
    same = {"one": {"t": [True, False] * 10}, "other": {"t": [False, True] * 10}}
    row = difference(same, ["t"], "one", "other", seed=0)
    assert row["difference"] == 0
    assert not gains(row)
    assert not does_no_harm(row)


def test_recovered_gain_is_defined_where_fine_tuning_gained() -> None:
    row = recovered(RIGHT, ["sums"], "a", "b", "c", seed=0)
    assert row["recovered_gain"] == pytest.approx(50 / 60)
    nothing = recovered(RIGHT, ["sums"], "c", "b", "c", seed=0)
    assert nothing["recovered_gain"] is None
    assert comparison.share(nothing) == "not defined"


def test_the_table_shows_models_tasks_differences_and_claims() -> None:
    record = {
        **comparison.side_by_side(RIGHT, NAMES),
        "differences": [difference(RIGHT, ["sums"], "b", "a", seed=0)],
        "recovered": [recovered(RIGHT, ["sums"], "a", "b", "c", seed=0)],
        "claims": {"it gains": True, "it heals": False},
    }
    lines = comparison.table(record).splitlines()
    assert any(line.startswith("after") and "80.0 [" in line and "20.0 [" in line for line in lines)
    assert any(line.startswith("trained") and line.endswith("–") for line in lines)
    assert any(line.startswith("after − before: sums") and "50.0 [" in line for line in lines)
    assert "recovered gain, sums: 0.83" in comparison.table(record)
    assert lines[-2:] == ["held      it gains", "NOT HELD  it heals"]
