"""Which model is compared with which, by the steps that went into each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuneport.results.compared_models import Rivals, direct_of
from tuneport.results.schema import DIRECT, ITERATIVE, THEN_TUNED, TUNED, Model, Run, Score

PLAIN = Model(TUNED, None, "M3", "sft")
FURTHER, STEPPED = Model(THEN_TUNED, "M2", "M3", "sft"), Model(ITERATIVE, "M2", "M3", "sft")
SCORES = {"sums": Score("exact_match", 0.5, None, 10)}


def run(model: Model, total: int | None, here: int | None, **more: object) -> Run:
    of = Run(model, 0, 0, None, total, "done", None, SCORES, here)
    return replace(of, **more)  # type: ignore[arg-type] # fields of a run


def test_a_model_stands_against_plain_fine_tuning_at_the_same_steps_and_at_the_same_total() -> None:
    longer = replace(PLAIN, steps=300)
    rivals = Rivals([run(PLAIN, 100, 100), run(longer, 300, 300), run(STEPPED, 300, 100)])
    assert rivals.further == [STEPPED]
    assert (rivals.at_same_steps(STEPPED), rivals.at_same_total(STEPPED)) == (PLAIN, longer)


@pytest.mark.parametrize("here", [None, 50])
def test_what_had_other_steps_on_its_version_or_nobody_knows_how_many_is_no_rival_at_the_same_steps(
    here: int | None,
) -> None:
    assert Rivals([run(PLAIN, 100, here), run(FURTHER, 200, 100)]).at_same_steps(FURTHER) is None
    assert Rivals([run(PLAIN, 100, 100), run(FURTHER, 200, here)]).at_same_steps(FURTHER) is None


def test_a_longer_fine_tuning_does_not_stand_in_for_one_that_failed_and_a_failed_one_hinders_no_other() -> None:
    longer = run(replace(PLAIN, steps=200), 200, 100)
    failed = run(PLAIN, 100, 100, status="failed", scores={})
    assert Rivals([failed, longer, run(FURTHER, 200, 100)]).at_same_steps(FURTHER) is None
    other = run(PLAIN, 100, None, status="failed", scores={}, family=1)
    assert Rivals([other, run(PLAIN, 100, 100), run(FURTHER, 200, 100)]).at_same_steps(FURTHER) == PLAIN


def test_what_others_fine_tuned_without_family_and_seed_is_compared_with_all() -> None:
    given = run(PLAIN, None, 100, family=None, seed=None)
    rivals = Rivals([given, run(FURTHER, None, 100, family=3, seed=7)])
    assert rivals.at_same_steps(FURTHER) == PLAIN and rivals.at_same_total(FURTHER) is None


def test_iterative_recycling_stands_against_direct_where_they_are_two_models() -> None:
    direct = direct_of(STEPPED)
    longer = replace(direct, steps=300)
    first = Model(ITERATIVE, "M1", "M2", "sft")
    runs = [run(first, 200, 100), run(direct_of(first), 200, 100)]
    runs += [run(STEPPED, 300, 100), run(direct, 200, 100), run(longer, 300, 200)]
    rivals = Rivals(runs)
    assert rivals.recycled() == [(STEPPED, direct)] and direct.kind == DIRECT
    assert rivals.direct_at_same_total(STEPPED) == longer
    assert rivals.at_same_steps(longer) is None, "a longer one stands at the same total alone"
