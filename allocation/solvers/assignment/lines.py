"""What each token could gain at given prices of the features, among edges that are few."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from allocation.arrays import Indices, Reals
from allocation.scores import Scores


@dataclass(frozen=True, eq=False)
class Best:
    """How far a score of each token exceeds the price of its feature, which feature, and the score."""

    profit: Reals
    features: Indices
    scores: Reals


@dataclass(frozen=True, eq=False)
class Lines:
    """Edges sorted by token, asked at prices of the features; `inf` closes a feature."""

    n_tokens: int
    tokens: Indices
    features: Indices
    scores: Reals

    def best(self, prices: Reals) -> Best:
        """The most that each token's scores exceed the prices by; -inf where it has no edge."""
        profit = self.scores - prices[self.features]
        most = self._largest(profit)
        at = np.flatnonzero(profit == np.repeat(most, self.counts))[::-1]  # of equal ones the first
        reached = self.tokens[self.first]
        best = Best(np.full(self.n_tokens, -np.inf), np.zeros(self.n_tokens, np.int64), np.full(self.n_tokens, -np.inf))
        best.profit[reached] = most
        best.features[self.tokens[at]] = self.features[at]
        best.scores[self.tokens[at]] = self.scores[at]
        return best

    def exceeding(self, tokens: Reals, features: Reals, rounding: float) -> Indices:
        """Edges that score above the prices of both sides by more than so much of what is added up."""
        profit = self.scores - tokens[self.tokens] - features[self.features]
        above = np.flatnonzero(profit > 0)
        if rounding and above.size:
            size = np.abs(self.scores[above]) + np.abs(tokens[self.tokens[above]])
            size += np.abs(features[self.features[above]])
            above = above[profit[above] > rounding * size]
        return above

    def _largest(self, profit: Reals) -> Reals:
        return np.maximum.reduceat(profit, self.first) if self.first.size else np.empty(0)

    @cached_property
    def first(self) -> Indices:
        """The first edge of each token that has one."""
        return np.flatnonzero(np.diff(self.tokens, prepend=-1))

    @cached_property
    def counts(self) -> Indices:
        """How many edges each of them has."""
        return np.diff(self.first, append=self.tokens.size)


def lines_of(matrix: Scores, ids: Indices) -> Lines:
    """Some edges of a matrix, or candidates."""
    tokens, features, scores = matrix.matches(ids)
    return Lines(matrix.shape[0], tokens, features, scores.astype(np.float64))
