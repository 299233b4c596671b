"""The best matching itself, by SciPy: on a matrix by shortest augmenting paths, on candidate edges by LAPJVsp.

SciPy's solvers match all of the smaller side. What a line without a floor is worth unmatched, 0, therefore stands in
the matrix, or is a column of its own among candidate edges; matches at that worth are left out afterwards.

Sources: Crouse 2016, *On implementing 2D rectangular assignment algorithms*; Jonker and Volgenant 1987.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, Mask, Reals
from allocation.problem import Problem
from allocation.scores import DenseScores, Scores
from allocation.threads import rows_per_block

# Stands for a cost of 0 among candidate edges, where SciPy takes 0 for no edge.
NEARLY_ZERO = 1e-300


@dataclass(frozen=True, eq=False)
class Floors:
    """Which tokens and which features need their match."""

    tokens: Mask
    features: Mask


def floors_of(problem: Problem) -> Floors:
    """The floors of a problem, none of which is above 1."""
    given = (problem.token_floors, problem.feature_floors)
    sides = [
        np.zeros(n, bool) if floors is None else floors > 0 for floors, n in zip(given, problem.shape, strict=True)
    ]
    return Floors(*sides)


def on_matrix(
    matrix: DenseScores, floors: Floors, prices: tuple[Reals, Reals] | None = None
) -> tuple[Indices, Indices] | None:
    """Ends of the best matches by token; None if there is no matching that meets the floors.

    To reduce the costs changes no optimum but by rounding: by their least in every row and column it shortens paths,
    by prices of tokens and features that are optimal but for rounding it makes SciPy tell apart what rounding hid.
    """
    from scipy.optimize import linear_sum_assignment

    n_tokens, n_features = matrix.shape
    costs = _costs(matrix, floors, square=prices is not None)
    if prices is not None:
        costs[:n_tokens] += prices[0][:, None]
        costs[:, :n_features] += prices[1]
    elif not _reduced(costs):
        return None
    try:
        rows, columns = linear_sum_assignment(costs)
    except ValueError:  # no matching of all rows without an infinite cost
        return None
    real = (rows < n_tokens) & (columns < n_features)
    return _worth_it(matrix, rows[real], columns[real], floors)


def _costs(matrix: DenseScores, floors: Floors, square: bool) -> Reals:
    """Minus what a match is worth; square also where the floors of the larger side need it."""
    n_tokens, n_features = matrix.shape
    smaller = floors.tokens if n_tokens > n_features else floors.features
    height, width = n_tokens, n_features
    if square or smaller.any():  # lines of the larger side choose between a match and a line of none
        height = width = max(n_tokens, n_features)
    costs = np.zeros((height, width))
    step = rows_per_block(n_features)
    for start in range(0, n_tokens, step):
        stop = min(start + step, n_tokens)
        block = costs[start:stop, :n_features]
        np.negative(matrix.rows(start, stop), out=block, dtype=np.float64)
        free = ~floors.tokens[start:stop]
        if free.any() and not floors.features.all():
            either = free[:, None] & ~floors.features
            np.copyto(block, 0.0, where=either & (block > 0))
    costs[n_tokens:, :n_features][:, floors.features] = np.inf
    costs[:n_tokens, n_features:][floors.tokens] = np.inf
    return costs


def _reduced(costs: Reals) -> bool:
    """Subtract the least of every row and column, where all are matched; False where one has no finite cost."""
    height, width = costs.shape
    for axis in (1, 0) if height == width else (1,) if height < width else (0,):
        least = costs.min(axis=axis, keepdims=True)
        if (least == np.inf).any():
            return False
        costs -= least
    return True


def in_order(matrix: DenseScores) -> tuple[tuple[Indices, Indices], Indices] | None:
    """Tokens paired with features in the order of their sums, by token, and ids of the edges beside these.

    Of products `a_i b_j` and sums `a_i + b_j` it is the best matching (Hardy, Littlewood, Polya). None where the matrix
    is not square, or has forbidden entries.
    """
    size, n_features = matrix.shape
    if size != n_features:
        return None
    sums = [matrix.numbers.sum(axis=axis, dtype=np.float64) for axis in (1, 0)]
    if not np.isfinite(sums).all():
        return None
    rows, columns = (np.argsort(of_side, kind="stable") for of_side in sums)
    # the sums of products have the sign of the other side's sum
    totals = [float(matrix.values_at(matrix.find(rows, order)).sum()) for order in (columns, columns[::-1])]
    columns = columns if totals[0] >= totals[1] else columns[::-1]
    band = [matrix.find(rows, columns), matrix.find(rows[1:], columns[:-1]), matrix.find(rows[:-1], columns[1:])]
    by_token = np.argsort(rows)
    return (rows[by_token], columns[by_token]), np.sort(np.concatenate(band))


def on_edges(matrix: Scores, floors: Floors) -> tuple[Indices, Indices] | None:
    """Ends of the best matches by token; None if there is no matching that meets the floors."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    tokens, features, scores = matrix.matches(matrix.allowed())
    sides = ((tokens, floors.tokens), (features, floors.features))
    lead = leading_side(matrix.shape, floors)
    assert lead is not None  # else refused
    (rows, needed), (columns, _) = sides[lead], sides[1 - lead]
    n_rows, n_columns = matrix.shape[lead], matrix.shape[1 - lead]
    free = np.flatnonzero(~needed)
    costs = -np.concatenate([scores.astype(np.float64), np.zeros(free.size)])
    costs[costs == 0] = NEARLY_ZERO
    if lead == 0 and not free.size:  # in the order of a CSR matrix
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
        graph = csr_array((costs, columns, starts), shape=(n_rows, n_columns))
    else:
        ends = (np.concatenate([rows, free]), np.concatenate([columns, n_columns + np.arange(free.size)]))
        graph = csr_array((costs, ends), shape=(n_rows, n_columns + free.size))
    try:
        found = min_weight_full_bipartite_matching(graph)
    except ValueError:  # no full matching
        return None
    if found[0].size < n_rows:  # full for SciPy is the smaller side
        return None
    real = found[1] < n_columns
    pair = found[0][real].astype(np.int64), found[1][real].astype(np.int64)
    tokens, features = pair if lead == 0 else pair[::-1]
    order = np.argsort(tokens)
    return _worth_it(matrix, tokens[order], features[order], floors)


def leading_side(shape: tuple[int, int], floors: Floors) -> int | None:
    """The side whose every line gets a match or a column of its own; None where floors of the other need more."""
    for side, (own, other) in enumerate(((floors.tokens, floors.features), (floors.features, floors.tokens))):
        if not other.any() or (shape[0] == shape[1] and own.all()):
            return side
    return None


def _worth_it(matrix: Scores, tokens: Indices, features: Indices, floors: Floors) -> tuple[Indices, Indices]:
    """Without the matches that are worth nothing and that no floor needs."""
    if floors.tokens.all() or floors.features.all():
        return tokens, features
    ids = matrix.find(tokens, features)
    keep = (matrix.values_at(ids) > 0) | floors.tokens[tokens] | floors.features[features]
    return tokens[keep], features[keep]
