"""The best matching of all tokens and features by OR-tools' cost scaling, where it is installed: scores on a grid.

On edges with structure, where SciPy's shortest augmenting paths are long, it does not notice. It takes integers: floats
go in as multiples of a small unit, and prices found afterwards for the scores themselves say whether that was enough.

Source: Goldberg and Kennedy 1995, *An efficient cost scaling algorithm for the assignment problem*.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arrays import Indices
from allocation.solvers.assignment.lines import Lines

# Costs times the square of the lines stay below, so that prices within OR-tools stay within 64 bits.
LARGEST_PRICE = 2.0**56
# Floats have so many levels at most: more make it slower and are hardly ever needed.
LEVELS = 2.0**32
# Lines, and edges of each, from which it is the faster one.
LEAST_LINES = 256
LEAST_EDGES = 5


def best_matching(lines: Lines, integer: bool) -> Indices | None:
    """The feature of each token in the best matching of all; None where OR-tools does not fit, or finds none."""
    n_lines = lines.n_tokens
    if n_lines < LEAST_LINES or lines.tokens.size < LEAST_EDGES * n_lines:
        return None
    most = float(lines.scores.max())
    spread = most - float(lines.scores.min())
    levels = min(LEVELS, LARGEST_PRICE / n_lines**2)
    if integer and spread > levels:
        return None
    unit = 1.0 if integer or spread == 0 else spread / levels
    if unit == 0:
        return None
    from ortools.graph.python import linear_sum_assignment

    solver: Any = linear_sum_assignment.SimpleLinearSumAssignment()
    costs = np.rint((most - lines.scores) / unit).astype(np.int64)
    solver.add_arcs_with_cost(lines.tokens, lines.features, costs)
    if solver.num_nodes() != n_lines or solver.solve() != solver.OPTIMAL:
        return None
    return np.fromiter(map(solver.right_mate, range(n_lines)), np.int64, n_lines)
