"""What each token could gain at given prices of the features, in one pass over a matrix or over candidate edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from allocation.arrays import Array, Indices, Reals
from allocation.problem import Problem
from allocation.scores import DenseScores, Scores, reals_at

# Bytes of float64 per block: with the prices they stay in a core's own cache.
BLOCK_BYTES = 1 << 19
EPS = float(np.finfo(np.float64).eps)


class Lines(Protocol):
    """The tokens of a problem, asked at prices of the features; `inf` closes a feature."""

    def best(self, prices: Reals) -> tuple[Reals, Indices]:
        """The most that each token's scores exceed the prices by, and at which feature; -inf where it has none."""

    def scores(self, features: Indices) -> Reals:
        """The score of each token at its feature; -inf where none joins them."""

    def surely(self, prices: Reals, units: float) -> Reals:
        """The most that each token's scores exceed the prices by, less so many units of rounding of either."""


def lines_of(problem: Problem, workers: int | None) -> Lines:
    """The tokens of a problem, by what holds its scores."""
    matrix, dense = problem.matrix, problem.matrix.dense
    if dense is not None:
        return Matrix(dense, workers)
    return Listed(matrix, *matrix.matches(matrix.allowed()))


@dataclass(frozen=True, eq=False)
class Matrix:
    """Rows of a matrix, in blocks on threads."""

    matrix: DenseScores
    workers: int | None

    def best(self, prices: Reals) -> tuple[Reals, Indices]:
        """See `Lines`."""

        def of_block(start: int, stop: int) -> tuple[Reals, Indices]:
            profit = self.matrix.rows(start, stop) - prices
            at = profit.argmax(axis=1)
            return profit[np.arange(stop - start), at], at

        parts = self.matrix.in_blocks(of_block, self.workers, self._block_bytes)
        return np.concatenate([value for value, _ in parts]), np.concatenate([at for _, at in parts])

    def scores(self, features: Indices) -> Reals:
        """See `Lines`."""
        return _scores(self.matrix, features)

    def surely(self, prices: Reals, units: float) -> Reals:
        """See `Lines`."""
        limits = prices + units * EPS * np.abs(prices)

        def of_block(start: int, stop: int) -> Reals:
            scores = self.matrix.rows(start, stop).astype(np.float64)
            profit = scores - limits
            profit[scores > -np.inf] -= units * EPS * np.abs(scores[scores > -np.inf])
            return np.asarray(profit.max(axis=1))

        return np.concatenate(self.matrix.in_blocks(of_block, self.workers, self._block_bytes))

    @property
    def _block_bytes(self) -> int:
        """Of the scores, so that as many float64 fill a block."""
        return BLOCK_BYTES * self.matrix.array.itemsize // 8


@dataclass(frozen=True, eq=False)
class Listed:
    """Candidate edges, which are sorted by token."""

    matrix: Scores
    tokens: Indices
    features: Indices
    values: Array

    def best(self, prices: Reals) -> tuple[Reals, Indices]:
        """See `Lines`."""
        profit = self.values - prices[self.features]
        best = self._largest(profit)
        at = np.zeros(best.size, np.int64)
        reached = np.flatnonzero(profit == best[self.tokens])[::-1]  # of equal ones the first
        at[self.tokens[reached]] = self.features[reached]
        return best, at

    def scores(self, features: Indices) -> Reals:
        """See `Lines`."""
        return _scores(self.matrix, features)

    def surely(self, prices: Reals, units: float) -> Reals:
        """See `Lines`."""
        scores = self.values.astype(np.float64)
        limits = prices + units * EPS * np.abs(prices)
        return self._largest(scores - limits[self.features] - units * EPS * np.abs(scores))

    def _largest(self, profit: Reals) -> Reals:
        largest = np.full(self.matrix.shape[0], -np.inf)
        first = np.flatnonzero(np.diff(self.tokens, prepend=-1))
        if first.size:
            largest[self.tokens[first]] = np.maximum.reduceat(profit, first)
        return largest


def _scores(matrix: Scores, features: Indices) -> Reals:
    return reals_at(matrix, matrix.find(np.arange(features.size), features), -np.inf)
