"""The few fits that predictors need, in numpy: a logistic line for a chance, a straight line for a share.

Both are drawn a little towards zero (ridge, on standardised features), so that a fold without a failure, or with one, has a fit.
"""

from __future__ import annotations

import numpy as np

from tuneport.statistics import Matrix

RIDGE = 1.0  # in cases: as if so many more had said nothing


def logistic(features: Matrix, succeeded: Matrix, weights: Matrix) -> Matrix:
    """Coefficients, the constant first, of the logistic line through cases × features; Newton's method."""
    rows, back = _standardised(features)
    found = np.zeros(rows.shape[1])
    penalty = RIDGE * np.eye(rows.shape[1])
    penalty[0, 0] = 1e-3
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(rows @ found, -30, 30)))
        slope = rows.T @ (weights * (chance - succeeded)) + penalty @ found
        curvature = (rows * (weights * chance * (1 - chance))[:, None]).T @ rows + penalty
        step = np.linalg.solve(curvature, slope)
        found = found - step
        if np.abs(step).max() < 1e-8:
            break
    return back @ found


def straight(features: Matrix, values: Matrix, weights: Matrix) -> Matrix:
    """Coefficients, the constant first, of the weighted straight line."""
    rows, back = _standardised(features)
    penalty = RIDGE * np.average(weights) * np.eye(rows.shape[1])
    penalty[0, 0] = 1e-9
    return back @ np.linalg.solve((rows * weights[:, None]).T @ rows + penalty, rows.T @ (weights * values))


def at(coefficients: Matrix, features: Matrix) -> Matrix:
    """The line at cases × features."""
    found: Matrix = coefficients[0] + features @ coefficients[1:]
    return found


def chance(coefficients: Matrix, features: Matrix) -> Matrix:
    """The chance that a logistic line gives."""
    found: Matrix = 1 / (1 + np.exp(-np.clip(at(coefficients, features), -50, 50)))
    return found


def _standardised(features: Matrix) -> tuple[Matrix, Matrix]:
    """A column of ones and the features at mean 0 and spread 1; and what takes coefficients back to the features' own scale."""
    middle = features.mean(axis=0)
    spread = np.where(features.std(axis=0) > 1e-12, features.std(axis=0), 1.0)
    back = np.diag([1.0, *(1 / spread)])
    back[0, 1:] = -middle / spread
    return np.hstack([np.ones((len(features), 1)), (features - middle) / spread]), back
