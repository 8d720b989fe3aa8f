"""What three models' matrices say of their roles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tuneport.comparison.model_roles import (
    Doubt,
    Figures,
    MatrixSums,
    doubts,
    figures,
    is_matrix,
    of_size,
    pooled_cosines,
)
from tuneport.errors import FLAGS, named

Model = list[NDArray[np.float64]]
SHAPES = ((40, 60), (50, 50), (30, 90), (80, 40), (20, 200))


def model(seed: int) -> Model:
    made = np.random.default_rng(seed)
    return [made.normal(size=shape) for shape in SHAPES]


def moved(start: Model, by: float, seed: int) -> Model:
    return [one + by * other for one, other in zip(start, model(seed), strict=True)]


def sums(base: Model, tuned: Model, target: Model) -> list[MatrixSums]:
    return [
        MatrixSums(
            b.size,
            diff=float(np.sum((u - b) ** 2)),
            drift=float(np.sum((t - b) ** 2)),
            along=float(np.sum((u - b) * (t - b))),
            base=float(np.sum(b**2)),
            tuned=float(np.sum(u**2)),
            target=float(np.sum(t**2)),
        )
        for b, u, t in zip(base, tuned, target, strict=True)
    ]


def doubted(base: Model, tuned: Model, target: Model) -> list[str]:
    return [doubt.kind for doubt in doubts(figures(sums(base, tuned, target)))]


BASE = model(1)
STRANGER = model(50)


def test_figures_are_the_medians_of_each_matrix() -> None:
    base, tuned, target = BASE, moved(BASE, 0.2, 2), moved(BASE, 0.5, 3)
    found = figures(sums(base, tuned, target))

    def median(corner: Model, one: Model, other: Model) -> float:
        sides = [(u - b, t - b) for b, u, t in zip(corner, one, other, strict=True)]
        return float(np.median([np.sum(d * g) / np.linalg.norm(d) / np.linalg.norm(g) for d, g in sides]))

    nothing = [np.zeros(shape) for shape in SHAPES]
    assert (found.matrices, found.elements) == (5, sum(b.size for b in base))
    assert found.at_base == pytest.approx(median(base, tuned, target))
    assert found.at_tuned == pytest.approx(median(tuned, base, target))
    assert found.at_target == pytest.approx(median(target, base, tuned))
    assert found.base_target == pytest.approx(median(nothing, base, target))
    assert found.base_tuned == pytest.approx(median(nothing, base, tuned))
    assert found.tuned_target == pytest.approx(median(nothing, tuned, target))


@pytest.mark.parametrize(("tuned_by", "target_by"), [(0.1, 0.1), (0.01, 0.5), (0.5, 0.01), (0.1, 1.0)])
def test_the_right_roles_raise_no_doubt_however_long_the_sides_are(tuned_by: float, target_by: float) -> None:
    tuned, target = moved(BASE, tuned_by, 2), moved(BASE, target_by, 3)
    assert doubted(BASE, tuned, target) == []
    assert doubted(BASE, target, tuned) == [], "the same sum"


@pytest.mark.parametrize("lengths", [(0.2, 0.2), (0.1, 0.2), (0.2, 0.1)])
def test_of_every_order_the_model_that_is_taken_for_the_base_is_named(lengths: tuple[float, float]) -> None:
    three = {"base": BASE, "tuned": moved(BASE, lengths[0], 2), "target": moved(BASE, lengths[1], 3)}
    for order in itertools.permutations(three):
        found = doubted(*(three[name] for name in order))
        place = order.index("base")
        assert found == [[], ["swapped-with-tuned"], ["swapped-with-target"]][place], order


def test_a_target_that_was_made_from_the_tuned_model_is_told() -> None:
    tuned = moved(BASE, 0.1, 2)
    assert doubted(BASE, tuned, moved(tuned, 0.02, 3)) == ["swapped-with-tuned"]


def test_a_tuned_model_that_was_made_from_the_target_is_told() -> None:
    target = moved(BASE, 0.1, 2)
    assert doubted(BASE, moved(target, 0.02, 3), target) == ["swapped-with-target"]


def test_a_target_that_holds_much_of_the_same_fine_tuning_is_told() -> None:
    tuned = moved(BASE, 0.1, 2)
    assert doubted(BASE, moved(tuned, 0.1, 4), moved(tuned, 0.1, 5)) == ["target-holds-it"]


@pytest.mark.parametrize(
    ("base", "tuned", "target", "kind"),
    [
        (BASE, moved(BASE, 0.1, 2), STRANGER, "base-and-target-unrelated"),
        (STRANGER, moved(STRANGER, 0.1, 2), moved(BASE, 0.1, 3), "base-and-target-unrelated"),
        (BASE, moved(STRANGER, 0.1, 2), moved(BASE, 0.1, 3), "base-and-tuned-unrelated"),
        (STRANGER, moved(BASE, 0.1, 2), moved(BASE, 0.1, 3), "base-unrelated"),
        (BASE, model(60), model(70), "all-unrelated"),
    ],
)
def test_a_stranger_is_told_and_named(base: Model, tuned: Model, target: Model, kind: str) -> None:
    assert doubted(base, tuned, target) == [kind]


def test_one_matrix_that_was_replaced_does_not_make_a_stranger() -> None:
    target = moved(BASE, 0.1, 3)
    target[0] = 30 * STRANGER[0]  # an embedding of another tokenizer, longer than all the rest
    found = sums(BASE, moved(BASE, 0.1, 2), target)
    assert doubts(figures(found)) == ()
    assert pooled_cosines(found)[1] == pytest.approx(0, abs=0.1)


def test_what_was_not_measured_is_none_and_not_doubted() -> None:
    nothing = figures([MatrixSums(100)])
    assert nothing == Figures(1, 100)
    assert doubts(nothing) == doubts(figures([])) == ()
    only = figures(
        [MatrixSums(m.elements, base=m.base, target=m.target, drift=m.drift) for m in sums(BASE, BASE, BASE)]
    )
    assert only.base_target == 1 and only.at_base is only.base_tuned is None
    assert figures([MatrixSums(4, diff=math.nan, drift=1, along=0, base=1, target=1)]).at_base is None


def test_no_difference_has_no_direction() -> None:
    found = figures(sums(BASE, BASE, moved(BASE, 0.1, 3)))
    assert found.at_base is None and found.base_tuned == pytest.approx(1)
    assert doubts(found) == ()


def test_what_a_sample_cannot_tell_is_not_doubted() -> None:
    found = Figures(10, 10**6, base_target=0.05, at_base=0.35)
    assert [doubt.kind for doubt in doubts(found)] == ["base-and-target-unrelated"]
    assert doubts(found, lambda name: 0.06) == ()
    related = Figures(10, 10**6, base_target=0.9, at_base=0.35)
    assert len(doubts(related)) == 1 and doubts(related, lambda name: 0.06) == ()


def test_a_doubt_names_its_figures() -> None:
    (found,) = doubts(figures(sums(BASE, moved(BASE, 0.1, 2), STRANGER)))
    assert isinstance(found, Doubt) and named("onto") in found.message and "of 5 matrices" in found.message
    assert found.record() == {"kind": found.kind, "message": FLAGS.message(found.message)}


def test_vectors_integers_and_small_matrices_do_not_count() -> None:
    assert is_matrix("BF16", (4, 4)) and is_matrix("F32", (2, 3, 4))
    assert not any(is_matrix(*given) for given in (("F32", (8,)), ("F32", (1, 1, 8)), ("I64", (4, 4)), ("F32", ())))
    assert of_size([10_000, 40, 39, 0]) == [True, True, False, False]
    assert of_size([]) == []
