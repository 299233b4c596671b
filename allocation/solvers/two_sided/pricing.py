"""Passes over all edges: which of them beat their prices, and which come near.

A pass compares in the scores' own type against thresholds rounded down, so that it misses nothing; the few survivors
are compared again in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allocation.arrays import Array, Indices, Mask, Reals, among, union, without
from allocation.problem import Problem
from allocation.scores import DenseScores
from allocation.solvers.two_sided.block_passes import (
    beating,
    best_of_each,
    best_positions,
    hash24,
    reduced_profit,
    total_excess,
    without_positions,
)
from allocation.solvers.two_sided.side_prices import Candidates
from allocation.solvers.work_limit import WorkLimit
from allocation.threads import rows_per_block

# Rounding of a threshold built in float32 from two rounded prices, relative to their sizes.
SINGLE = 2.0**-21
# Prices beyond this are compared in float64: sums near the end of float32's range overflow.
LARGE_SINGLE = 1e36
# Number types that float32 holds exactly.
SINGLE_HOLDS = ("float16", "bfloat16", "float32", "int8", "uint8", "int16", "uint16", "bool")
# Bytes of scores per block: with the thresholds they stay in a core's own cache.
BLOCK_BYTES = 1 << 19
# Entries of the lines that are ranked at once: a device takes one wait for each such block.
LINE_ENTRIES = 1 << 18


@dataclass(frozen=True, eq=False)
class Band:
    """How near its prices an edge must be to stay open: the share of its token plus that of its feature."""

    tokens: Reals
    features: Reals

    def at(self, tokens: Indices, features: Indices) -> Reals:
        """The width at edges."""
        return np.asarray(self.tokens[tokens] + self.features[features])


@dataclass(frozen=True, eq=False)
class AllEdges:
    """Every allowed edge of a problem, by id, found in a matrix wherever it is."""

    problem: Problem
    workers: int | None = None
    work_limit: WorkLimit = field(default_factory=WorkLimit)

    @property
    def matrix(self) -> DenseScores:
        """The scores."""
        dense = self.problem.matrix.dense
        assert dense is not None  # else `ListedEdges`
        return dense

    def ends(self, ids: Indices) -> tuple[Indices, Indices]:
        """Token and feature of each edge."""
        return self.problem.matrix.ends(ids)

    def values(self, ids: Indices) -> Array:
        """Scores in their own type (float32 for bfloat16)."""
        matrix = self.problem.matrix
        return matrix.get(matrix.values_at(matrix.put(ids)))

    def candidates(self, ids: Indices) -> Candidates:
        """The edges as arrays of ends and float64 scores; `ids` ascending."""
        tokens, features = self.ends(ids)
        return Candidates(ids, tokens, features, self.values(ids).astype(np.float64))

    def above(
        self, rows: Reals, columns: Reals, band: Band | None = None, most: int | None = None,
        ranks: Indices | None = None, but: Indices | None = None,
    ) -> Indices:  # fmt: skip
        """Ids of the edges whose score exceeds the prices at their ends less the band, ascending.

        Those in `but`, which ascend, are left out. Of each token no more than its rank, the best ones. With more than
        `most` of them those below their prices, or else all, are thinned out evenly.
        """
        n_rows, n_columns = self.problem.shape
        below = Band(np.zeros(n_rows), np.zeros(n_columns)) if band is None else band
        left_out = np.empty(0, np.int64) if but is None else but
        matrix = self.matrix
        low_rows, low_columns = rows - below.tokens, columns - below.features
        kind = self._comparison_type(rows, columns, low_rows, low_columns)
        if kind == np.float32:
            low_rows = low_rows - SINGLE * (np.abs(rows) + below.tokens) - float(np.finfo(np.float32).tiny)
            low_columns = low_columns - SINGLE * (np.abs(columns) + below.features)
        xp = matrix.namespace
        lowest = matrix.put(low_rows.astype(kind)), matrix.put(low_columns.astype(kind))
        share = None if most is None else most / max(n_rows, 1)
        # the band may vanish beside the prices, and edges exactly at them still count
        strictly = band is None

        def of_block(start: int, stop: int) -> Indices:
            self.work_limit.check()
            parts = beating(xp, matrix.rows(start, stop), lowest[0][start:stop], lowest[1], strictly)
            at, score = (matrix.get(part) for part in parts)
            token, feature = np.divmod(at, n_columns)
            survivors = Candidates(at + start * n_columns, start + token, feature, score.astype(np.float64))
            profit = survivors.profit(rows, columns)
            near = profit > -below.at(survivors.tokens, feature)
            ids = survivors.ids[near]
            token, profit = token[near], profit[near]
            if left_out.size:
                inside = slice(*np.searchsorted(left_out, [start * n_columns, stop * n_columns]))
                new = ~among(ids, left_out[inside])
                ids, token, profit = ids[new], token[new], profit[new]
            if ranks is not None:
                within = _within_ranks(token, profit, ids, ranks[start:stop])
                ids, profit = ids[within], profit[within]
            if share is None or ids.size <= share * (stop - start):
                return ids
            return _thinned(ids, profit, int(share * (stop - start)))

        parts = matrix.in_blocks(of_block, self.workers, BLOCK_BYTES)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _comparison_type(self, *thresholds: Reals) -> Any:
        """A type in which scores are exact and thresholds can be rounded down."""
        single = self.matrix.type in SINGLE_HOLDS
        largest = max(np.abs(part).max(initial=0.0) for part in thresholds)
        return np.float32 if single and largest < LARGE_SINGLE else np.float64

    def total_above(self, rows: Reals, columns: Reals) -> float:
        """Sum over all edges of what they score above their prices."""
        matrix = self.matrix
        prices = matrix.put(rows), matrix.put(columns)

        def excess(start: int, stop: int) -> float:
            self.work_limit.check()
            block = matrix.rows(start, stop)
            return float(total_excess(matrix.namespace, block, prices[0][start:stop], prices[1]))

        return math.fsum(matrix.in_blocks(excess, self.workers, BLOCK_BYTES))

    def best_of_lines(self, side: int, lines: Indices, wanted: Indices, other_prices: Reals) -> Indices:
        """Ids of the best allowed edges of each of these tokens (side 0) or features (side 1), as many as wanted.

        Up to twice as many, so that lines which want about as many are looked at together.
        """
        matrix, n_columns = self.matrix, self.problem.shape[1]
        length, prices = self.problem.shape[1 - side], matrix.put(other_prices)
        wanted = np.minimum(wanted, length)
        size_class = np.frexp(wanted.astype(np.float64))[1]
        best_ids = [np.empty(0, np.int64)]
        step = rows_per_block(length, LINE_ENTRIES)
        for power in np.unique(size_class[wanted > 0]):
            alike = lines[size_class == power]
            most = int(wanted[size_class == power].max())
            for start in range(0, alike.size, step):
                self.work_limit.check()
                part = alike[start : start + step]
                best = best_positions(matrix.namespace, matrix.lines(side, part), prices, most)
                across, scores = (matrix.get(array) for array in best)
                line = np.broadcast_to(part[:, None], across.shape)
                ids = line * n_columns + across if side == 0 else across * n_columns + line
                best_ids.append(ids[scores > -np.inf])
        return np.concatenate(best_ids)

    def leaving(self, tokens: Indices, features: Indices, rows: Reals, columns: Reals, but: Indices) -> Indices:
        """Ids of the best allowed edges from each of `tokens` into `features`, and of each feature from `tokens`.

        Those in `but`, which ascend, are left out.
        """
        matrix, n_columns, xp = self.matrix, self.problem.shape[1], self.matrix.namespace
        taken_rows, taken_columns = _places(but, tokens, features, self.problem.shape)
        best = np.full(features.size, -np.inf)
        best_token = np.full(features.size, -1)
        best_ids = []
        step = rows_per_block(n_columns)  # ties between blocks go to the first: the size decides which
        into, prices = matrix.put(features), matrix.put(columns[features])
        for start in range(0, tokens.size if features.size else 0, step):
            self.work_limit.check()
            part = tokens[start : start + step]
            block = xp.take(matrix.lines(0, part), into, axis=1)
            profit = reduced_profit(xp, block, matrix.put(rows[part]), prices)
            own = slice(*np.searchsorted(taken_rows, [start, start + step]))
            taken = (taken_rows[own] - start) * features.size + taken_columns[own]
            profit = without_positions(xp, profit, matrix.put(taken), -np.inf)
            # of equal ones not all lines may take the same
            order = hash24(xp, matrix.put(part)[:, None] * n_columns + into[None, :])
            column, value = (matrix.get(array) for array in best_of_each(xp, profit, order, 1))
            best_ids.append((part * n_columns + features[column])[value > -np.inf])
            top, value = (matrix.get(array) for array in best_of_each(xp, profit, order, 0))
            better = value > best
            best[better], best_token[better] = value[better], part[top[better]]
        hit = best_token >= 0
        best_ids.append(best_token[hit] * n_columns + features[hit])
        return union(*best_ids) if best_ids else np.empty(0, np.int64)


class ListedEdges(AllEdges):
    """The same of candidate edges: few enough to look at all of them each time."""

    def above(
        self, rows: Reals, columns: Reals, band: Band | None = None, most: int | None = None,
        ranks: Indices | None = None, but: Indices | None = None,
    ) -> Indices:  # fmt: skip
        """Ids of the edges whose score exceeds the prices at their ends less the band, ascending."""
        edges = self._everything
        least = 0.0 if band is None else -band.at(edges.tokens, edges.features)
        ids = np.flatnonzero(edges.profit(rows, columns) > least)
        return ids if but is None else without(ids, but)

    def total_above(self, rows: Reals, columns: Reals) -> float:
        """Sum over all edges of what they score above their prices."""
        edges = self._everything
        return float(np.maximum(edges.scores - (rows[edges.tokens] + columns[edges.features]), 0.0).sum())

    def best_of_lines(self, side: int, lines: Indices, wanted: Indices, other_prices: Reals) -> Indices:
        """None: all of them are candidates from the start."""
        return np.empty(0, np.int64)

    def leaving(self, tokens: Indices, features: Indices, rows: Reals, columns: Reals, but: Indices) -> Indices:
        """Ids of all edges from `tokens` into `features`, without those in `but`."""
        edges = self._everything
        return without(np.flatnonzero(np.isin(edges.tokens, tokens) & np.isin(edges.features, features)), but)

    @property
    def _everything(self) -> Candidates:
        return self.candidates(self.problem.matrix.allowed())


def all_edges(problem: Problem, workers: int | None, work_limit: WorkLimit) -> AllEdges:
    """The edges of a problem, by what holds its scores; passes over them raise `SpentError`."""
    return (ListedEdges if problem.matrix.dense is None else AllEdges)(problem, workers, work_limit)


def _places(ids: Indices, tokens: Indices, features: Indices, shape: tuple[int, int]) -> tuple[Indices, Indices]:
    """Rows and columns, in the submatrix of these tokens and features, of the edges that lie in it."""
    row, column = np.full(shape[0], -1), np.full(shape[1], -1)
    row[tokens], column[features] = np.arange(tokens.size), np.arange(features.size)
    token, feature = np.divmod(ids, max(shape[1], 1))
    inside = (row[token] >= 0) & (column[feature] >= 0)
    return row[token[inside]], column[feature[inside]]


def _within_ranks(lines: Indices, profit: Reals, ids: Indices, ranks: Indices) -> Mask:
    """Of each line the best entries up to its rank, equal ones in the order of `hash24`; `lines` ascending."""
    counts = np.bincount(lines, minlength=ranks.size)
    within = np.ones(lines.size, bool)
    stops = np.cumsum(counts)
    for line in np.flatnonzero(counts > ranks):
        own = slice(stops[line] - counts[line], stops[line])
        within[own] = _best(profit[own], ids[own], int(ranks[line]))
    return within


def _best(profit: Reals, ids: Indices, most: int) -> Mask:
    """The `most` best entries, of which there are more; equal ones in the order of `hash24`."""
    if most == 0:
        return np.zeros(ids.size, bool)
    last = np.partition(profit, ids.size - most)[ids.size - most]
    best = np.asarray(profit > last)
    ties = np.flatnonzero(profit == last)
    missing = most - int(np.count_nonzero(best))
    chosen = np.argpartition(hash24(np, ids[ties]), missing - 1)[:missing] if missing < ties.size else slice(None)
    best[ties[chosen]] = True
    return best


def _thinned(ids: Indices, profit: Reals, most: int) -> Indices:
    """About `most` of the edges: the best of those above their prices, of the others an even pseudo-random share."""
    sure = profit > 0
    n_sure = int(np.count_nonzero(sure))
    if n_sure >= most:
        return ids[_best(profit, ids, most)]
    bound = int((most - n_sure) / (ids.size - n_sure) * (1 << 24))
    return np.asarray(ids[sure | (hash24(np, ids) < bound)])
