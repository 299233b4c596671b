"""Nested limits on one side: the few edges that can matter, found on the device, so that only they cross over."""

from __future__ import annotations

from typing import cast

import numpy as np

from allocation.arrays import Indices
from allocation.cuda.scores import DeviceScores
from allocation.problem import Problem
from allocation.scores import EdgeScores
from allocation.solvers.laminar.tree import ABSENT, UNLIMITED, Tree, laminar_tree

# Where more than this share of the matrix can matter, candidates save nothing.
MOST = 1 / 4


def candidates(problem: Problem) -> Problem | None:
    """The same problem on candidate edges, with the same answer, prices and intervals; None where they are too many.

    What an optimum takes of a line is a prefix of its ranking, no longer than the least cap on the line's way to the
    root, so one more than that many edges of a line also hold the best one it refuses. A line without a cap takes at
    most what floors above it force, and beyond that only edges among the best of the whole matrix, up to the budget:
    with no caps at all, everything better than an unforced match is a match. (Mixed sides are not reduced.)
    """
    matrix = cast(DeviceScores, problem.matrix)
    axis = 0 if problem.feature_caps is None and problem.feature_floors is None and not problem.feature_groups else 1
    tree = laminar_tree(problem, axis)
    caps, floors = _on_the_way(tree, tree.caps, UNLIMITED, np.minimum), _on_the_way(tree, tree.floors, 0, np.maximum)
    capped = caps < UNLIMITED
    if capped.any() and not capped.all():
        return None
    length = problem.shape[1 - axis]
    wanted = np.minimum(np.where(capped, caps, floors), length - 1) + 1
    budget = None if capped.all() or problem.budget is None else min(problem.budget, matrix.n_edges)
    if (budget is None and not capped.all()) or int(wanted.sum()) + (budget or 0) > MOST * matrix.n_edges:
        return None
    only_positive = bool((tree.floors == ABSENT).all())
    flat = matrix.get(matrix.top(axis, wanted, only_positive)[0])
    if budget is not None:
        flat = np.union1d(flat, matrix.get(matrix.top(None, np.array([budget + 1]))[0]))
    tokens, features, values = (matrix.get(part) for part in matrix.matches(matrix.put(flat)))
    edges = EdgeScores(tokens, features, values, problem.shape, matrix.type)
    return problem.with_scores(edges)


def _on_the_way(tree: Tree, limits: Indices, absent: int, tightest: np.ufunc) -> Indices:
    """The tightest limit of each leaf and of the groups around it, the root's not counted."""
    limit = np.full(tree.leaves, absent)
    for level in tree.ancestors[1:]:
        limit = np.where(level >= 0, tightest(limit, limits[level]), limit)
    return np.asarray(limit)
