"""Where limits stand on one side only, comparisons of scores decide, and no sum is taken."""

from __future__ import annotations

import numpy as np

from allocation.arrays import Indices
from allocation.certificate.edges import refused_blocks, scores_of
from allocation.problem import Problem
from allocation.scores import EdgeScores


def by_comparison(problem: Problem, tokens: Indices, features: Indices) -> list[str] | None:
    """Optimality by comparisons of scores alone, where limits stand on one side only; None elsewhere.

    No group at its cap may refuse a better match than one it holds; no group below its cap may refuse one that scores
    above 0, or, once the budget is reached, above the worst match held anywhere; no match held may score 0 or less.
    """
    two_sided = problem.token_caps is not None and problem.feature_caps is not None
    floors = problem.token_floors is not None or problem.feature_floors is not None
    if two_sided or floors or problem.token_groups or problem.feature_groups:
        return None
    if problem.matrix.type in ("int64", "uint64"):
        problem = _in_order(problem)
    side = 1 if problem.feature_caps is not None else 0
    caps = (problem.token_caps, problem.feature_caps)[side]
    groups, size = (tokens, features)[side], problem.shape[side]
    worst, best = np.full(size, np.inf), np.full(size, -np.inf)
    held = scores_of(problem, tokens, features)
    np.minimum.at(worst, groups, held)
    for block in refused_blocks(problem, tokens, features):
        best = np.maximum(best, block.best(side, size))
    full = np.zeros(size, bool) if caps is None else np.bincount(groups, minlength=size) == caps
    reached = problem.budget is not None and tokens.size == problem.budget
    least = held.min(initial=np.inf) if reached else 0.0
    found = []
    for wrong, text in (
        (full & (best > worst), "holds a match worse than one it refuses"),
        (~full & (best > least), "refuses a match better than the worst one held, or than none"),
        (worst <= 0, "holds a match that scores 0 or less"),
    ):
        if wrong.any():
            found.append(f"{('token', 'feature')[side]} {int(wrong.argmax())} {text}")
    return found


def _in_order(problem: Problem) -> Problem:
    """The problem with integers that float64 would round replaced by their ranks above or below 0, as they compare."""
    matrix = problem.matrix
    array = matrix.array
    if array.size == 0 or max(int(array.max()), -int(array.min())) <= 2**53:
        return problem
    values, ranks = np.unique(array, return_inverse=True)
    above = np.searchsorted(values, 0, side="right")  # the first rank of positive scores
    ordered = ranks.reshape(array.shape) + 1.0 - above
    ordered[array <= 0] -= 1.0
    ordered[array == 0] = 0.0
    if isinstance(matrix, EdgeScores):
        return problem.with_scores(EdgeScores(matrix.tokens, matrix.features, ordered, matrix.shape, "float64"))
    return problem.with_scores(ordered)
