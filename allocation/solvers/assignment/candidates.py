"""Edges among which the best assignment probably lies: those near prices from one reduction of the matrix.

To each feature the most that it is worth to anyone, to each token the most that it is worth beyond that: these prices
bound every score from above. Of scores without structure the best assignment uses edges close to them, a few of each
line. Nothing rests on it, since prices that prove an assignment are compared with all scores.

Source: Dell'Amico and Toth 2000, *Algorithms and codes for dense assignment problems* (core problems).
"""

from __future__ import annotations

import numpy as np

from allocation.arrays import Indices, Reals, union
from allocation.problem import Problem
from allocation.scores import DenseScores
from allocation.solvers.assignment.matching import floors_of, leading_side
from allocation.solvers.two_sided.pricing import BLOCK_BYTES, AllEdges

# Edges of each token on average, and of every line at least.
PER_LINE = 16
LEAST = 4
# So many times as many where scores have a structure.
STRUCTURED = 4
# Tokens whose scores say how near the edges of all are.
SAMPLE = 32
# So many times the edges wanted show that most scores tie: any of them will do.
TIES = 4
# Lines of each side, and edges of each, whose matching says whether few edges will do; the share it has to match.
PART = 256
PART_PER_LINE = 7
MATCHED = 0.99
# Below this side a matrix is solved as it is.
SMALL = 100


def near_edges(problem: Problem, workers: int | None, structured: bool = False) -> tuple[bool, Indices, Reals]:
    """Whether the best assignment may well lie among few edges near reduced prices; their ids; prices of the tokens.

    Of `structured` scores the edges are more.
    """
    matrix = problem.matrix.dense
    if matrix is None or min(problem.shape) < SMALL:
        return False, problem.matrix.allowed(), np.zeros(problem.shape[0])
    more = STRUCTURED if structured else 1
    few, ids, prices = _near(problem, matrix, workers, more * PER_LINE)
    lead = leading_side(problem.shape, floors_of(problem))
    few = few and lead is not None and _promising(matrix, more * PART_PER_LINE)
    return few, ids, np.where(prices > -np.inf, prices, 0.0)


def _near(problem: Problem, matrix: DenseScores, workers: int | None, per_line: int) -> tuple[bool, Indices, Reals]:
    """The same with so many edges of each line on average; False where scales are so mixed that these are not found."""
    n_tokens, n_features = problem.shape
    edges = AllEdges(problem, workers)
    columns = np.zeros(n_features)
    if n_tokens >= n_features:
        columns = _largest_of_features(matrix, workers)
        columns[columns == -np.inf] = 0.0
    wanted = per_line * max(n_tokens, n_features)
    width, share = _width(matrix, columns, wanted / n_tokens)
    if share > TIES * wanted / (n_tokens * n_features):
        n_diagonals = min(n_features, int(np.ceil(per_line / share)))
        ids, rows = _on_diagonals(matrix, columns, width, n_diagonals, workers)
    else:
        ids, rows = _within(matrix, columns, width, workers)
    few = ids.size <= TIES * wanted
    parts = [ids if few else np.empty(0, np.int64)]
    for side, ends in enumerate(edges.ends(parts[0])):
        poor = np.flatnonzero(np.bincount(ends, minlength=problem.shape[side]) < LEAST)
        if poor.size:
            parts.append(edges.best_of_lines(side, poor, np.full(poor.size, LEAST), (columns, rows)[side]))
    return few, union(*parts), rows


def _promising(matrix: DenseScores, per_line: int) -> bool:
    """Whether even fewer edges match a part of the matrix, as they do not where scores have a structure."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    part = matrix
    if min(matrix.shape) > 2 * PART:
        tokens, features = (np.arange(PART) * size // PART for size in matrix.shape)
        part = DenseScores(np.ascontiguousarray(matrix.array[tokens[:, None], features]), matrix.type)
    few, ids, _ = _near(Problem(part), part, 1, per_line)
    graph = csr_array((np.ones(ids.size, bool), part.ends(ids)), shape=part.shape)
    matched = np.count_nonzero(maximum_bipartite_matching(graph) >= 0)
    return few and bool(matched >= MATCHED * min(part.shape))


def _largest_of_features(matrix: DenseScores, workers: int | None) -> Reals:
    parts = matrix.in_blocks(lambda start, stop: matrix.rows(start, stop).max(axis=0), workers, 8 * BLOCK_BYTES)
    return np.asarray(np.max(parts, axis=0), np.float64)


def _width(matrix: DenseScores, columns: Reals, wanted: float) -> tuple[float, float]:
    """How far below its token's best an edge may be, so that a token has as many as wanted; and how many then are."""
    tokens = np.unique(np.linspace(0, matrix.shape[0] - 1, SAMPLE).astype(np.int64))
    profit = matrix.part(tokens).numbers - columns
    best = profit.max(axis=1, keepdims=True)
    profit -= np.where(best > -np.inf, best, 0.0)
    number = min(int(wanted * tokens.size), profit.size)
    least = float(np.partition(profit, profit.size - number, axis=None)[profit.size - number])
    width = max(-least, 1e-300)
    return width, float(np.mean(profit >= -width))


def _within(matrix: DenseScores, columns: Reals, width: float, workers: int | None) -> tuple[Indices, Reals]:
    """Ids of the edges within the width of their token's best, and what that is."""
    n_features = matrix.shape[1]

    def of_block(start: int, stop: int) -> tuple[Indices, Reals]:
        profit = matrix.rows(start, stop) - columns
        best = profit.max(axis=1)
        return np.flatnonzero(profit >= _least(best, width)) + start * n_features, best

    return _joined(matrix.in_blocks(of_block, workers, _block_bytes(matrix)))


def _on_diagonals(
    matrix: DenseScores, columns: Reals, width: float, n_diagonals: int, workers: int | None
) -> tuple[Indices, Reals]:
    """The same on a few diagonals, which meet every line alike: where most edges tie, any will do."""
    n_features = matrix.shape[1]
    offsets = np.arange(n_diagonals) * n_features // n_diagonals

    def of_block(start: int, stop: int) -> tuple[Indices, Reals]:
        profit = matrix.rows(start, stop) - columns
        best = profit.max(axis=1)
        at = (np.arange(start, stop)[:, None] + offsets) % n_features
        near = np.take_along_axis(profit, at, axis=1) >= _least(best, width)
        ids = (np.arange(start, stop)[:, None] * n_features + at)[near]
        return np.sort(ids), best

    return _joined(matrix.in_blocks(of_block, workers, _block_bytes(matrix)))


def _least(best: Reals, width: float) -> Reals:
    """What an edge of each token has to reach, as a column; of a token without edges none does."""
    return np.where(best > -np.inf, best - width, np.inf)[:, None]


def _joined(parts: list[tuple[Indices, Reals]]) -> tuple[Indices, Reals]:
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([best for _, best in parts])


def _block_bytes(matrix: DenseScores) -> int:
    """Of the scores, so that as many float64 fill a block."""
    return BLOCK_BYTES * matrix.array.itemsize // 8
