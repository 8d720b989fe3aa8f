"""The lumped KL against the full one in numpy, its gradient against finite differences, and tokens that a model lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tuneport.scoring.answers.answer_losses import likeliest
from tuneport.scoring.answers.lumped_divergence import lumped_divergence

Array = NDArray[np.float64]


def logs_of(seed: int, size: int, spread: float = 2.0) -> Array:
    """Log-probabilities of three places, far from even ones."""
    drawn = np.random.default_rng(seed).normal(scale=spread, size=(3, size))
    return np.asarray(drawn - np.log(np.exp(drawn).sum(axis=1, keepdims=True)))


def slow(theirs: Array, own: Array, kept: list[list[int]]) -> list[float]:
    """KL of the two distributions in which all tokens but the kept ones are one."""
    found = []
    for p, q, ids in zip(np.exp(theirs), np.exp(own), kept, strict=True):
        classes = [(p[each], q[each]) for each in ids]
        left = [each for each in range(len(p)) if each not in ids]
        if left:
            classes.append((p[left].sum(), q[left].sum()))
        found.append(float(sum(one * np.log(one / other) for one, other in classes)))
    return found


def lumped(theirs: Array, logits: torch.Tensor, kept: int) -> torch.Tensor:
    found = likeliest(torch.from_numpy(theirs), kept)
    ids, logs, rest = (torch.from_numpy(each) for each in (found.ids.astype(np.int64), found.logs, found.rest))
    return torch.as_tensor(lumped_divergence(logits, ids, logs.double(), rest.double()))


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 12))
def test_it_is_the_kl_of_the_coarser_distributions_and_never_above_that_of_the_full_ones(
    seed: int, size: int, kept: int
) -> None:
    theirs, own = logs_of(seed, size), logs_of(seed + 1, size)
    found = lumped(theirs, torch.from_numpy(own), min(kept, size)).tolist()
    ids = [list(np.argsort(-row)[: min(kept, size)]) for row in theirs]
    assert found == pytest.approx(slow(theirs, own, ids), abs=1e-5)
    full = (np.exp(theirs) * (theirs - own)).sum(axis=1)
    assert all(one <= other + 1e-6 for one, other in zip(found, full, strict=True))
    if kept >= size:
        assert found == pytest.approx(full.tolist(), abs=1e-5)


def test_a_shift_of_the_logits_changes_nothing_and_alike_models_are_0_apart() -> None:
    theirs = logs_of(1, 9)
    shifted = torch.from_numpy(theirs) + torch.tensor([[3.0], [-40.0], [0.0]])
    assert lumped(theirs, shifted, 4).tolist() == pytest.approx([0.0] * 3, abs=1e-6)


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_the_gradient_is_that_of_finite_differences(kept: int) -> None:
    theirs, logits = logs_of(3, 7), torch.from_numpy(logs_of(4, 7)).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: lumped(theirs, given, kept), [logits], atol=1e-5)


def test_a_token_that_the_other_model_lacks_counts_among_the_rest() -> None:
    theirs, own = np.log([[0.5, 0.3, 0.2]]), np.log([[0.6, 0.25, 0.15]])
    found = lumped_divergence(
        torch.from_numpy(own), torch.tensor([[0, -1]]), torch.from_numpy(theirs[:, :2]), torch.tensor([0.2]).double()
    )
    assert found.tolist() == pytest.approx(slow(theirs, own, [[0]]))


def test_where_nothing_is_left_for_the_rest_the_gradient_is_finite() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    expected = torch.tensor([[0.5, 0.4]]).log()
    lumped_divergence(logits, torch.tensor([[0, 1]]), expected, torch.tensor([0.1])).sum().backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
