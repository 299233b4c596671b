"""Intervals of all prices at an optimum: what one more and one less of every limit is worth, without solving again.

One more unit of a limit u -> v lets one more unit of flow circle through it: it is worth its price less the shortest
residual path from v back to u, in reduced costs. One unit less has to go from u to v some other way. Paths run over all
edges: over a sparse graph first, which then gains, in passes over the scores, every edge that shortens a path.

Source: Ahuja, Magnanti, Orlin 1993, *Network Flows*, section 9.11 (sensitivity analysis).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, Mask, Reals, without
from allocation.problem import Problem
from allocation.scores import DenseScores
from allocation.solvers.two_sided.block_passes import reduced_profit, shortest_steps, without_positions
from allocation.solvers.two_sided.circulation import Network
from allocation.solvers.two_sided.pricing import AllEdges
from allocation.solvers.work_limit import WorkLimit
from allocation.threads import rows_per_block


@dataclass(frozen=True, eq=False)
class Optimum:
    """An optimal circulation: prices per arc, ids of the matches, and of edges near their prices to begin with.

    `seconds` bound what the intervals may take.
    """

    edges: AllEdges
    network: Network
    prices: Reals
    matched: Indices
    near: Indices
    seconds: float | None = None


def price_bounds(optimum: Optimum) -> tuple[Reals, Reals]:
    """`V(b + 1) - V(b)` and `V(b) - V(b - 1)` of every arc's bound; `NotCertifiedError` when time ran out."""
    work_limit = WorkLimit(optimum.seconds)
    with optimum.edges.problem.matrix.scope():
        return _bounds(optimum, work_limit)


def _bounds(optimum: Optimum, work_limit: WorkLimit) -> tuple[Reals, Reals]:
    network, prices = optimum.network, optimum.prices
    counts = network.counts_of(*optimum.edges.ends(optimum.matched))
    floored = _floored(optimum.edges.problem)
    floors = np.maximum(network.lower, 0)
    at_cap = counts == network.upper
    at_floor = floored & (counts == floors)
    lower, upper = np.zeros(prices.size), np.zeros(prices.size)
    reached = np.flatnonzero(at_cap | at_floor)
    paths = _Paths(optimum, counts, work_limit)
    token_side = np.zeros(prices.size, bool)
    for name in ("tokens", "budget", "token_groups"):
        token_side[network.blocks[name]] = True
    outer = np.where(token_side, network.tails, network.heads)
    for node in np.unique(outer[reached]):
        arcs = reached[outer[reached] == node]
        away, towards = paths.distances(int(node), False), paths.distances(int(node), True)
        inner = np.where(token_side[arcs], network.heads[arcs], network.tails[arcs])
        # from head back to tail, and from tail to head by another way
        back = np.where(token_side[arcs], towards[inner], away[inner])
        ahead = np.where(token_side[arcs], away[inner], towards[inner])
        more, less = prices[arcs] - back, prices[arcs] + ahead
        both, cap = at_cap[arcs] & at_floor[arcs], at_cap[arcs]
        lower[arcs] = np.where(cap & ~both, np.maximum(more, 0.0), more)
        upper[arcs] = np.where(cap, less, np.minimum(less, 0.0))
    return lower, upper


def _floored(problem: Problem) -> Mask:
    """Whether each arc has a floor, be it 0."""
    given = [
        np.full(problem.shape[0], problem.token_floors is not None),
        np.full(problem.shape[1], problem.feature_floors is not None),
        np.zeros(1, bool),
        np.array([group.floor is not None for group in problem.token_groups], bool),
        np.array([group.floor is not None for group in problem.feature_groups], bool),
    ]
    return np.concatenate(given)


class _Paths:
    """Shortest residual paths from or to one node over all edges; edges that mattered once are kept."""

    def __init__(self, optimum: Optimum, counts: Indices, work_limit: WorkLimit) -> None:
        self.optimum, self.work_limit = optimum, work_limit
        network = optimum.network
        rows, columns = network.line_prices(optimum.prices)
        self.rows, self.columns = rows, columns
        prices = optimum.prices
        ahead, back = counts < network.upper, counts > np.maximum(network.lower, 0)
        matched = optimum.edges.candidates(optimum.matched)
        profit = matched.profit(rows, columns)
        n_tokens = network.shape[0]
        self.sources = np.concatenate([network.tails[ahead], network.heads[back], matched.features + n_tokens])
        self.targets = np.concatenate([network.heads[ahead], network.tails[back], matched.tokens])
        costs = np.concatenate([-prices[ahead], prices[back], profit])
        self.costs = np.maximum(costs, 0.0)
        matrix = optimum.edges.problem.matrix
        self.dense = matrix.dense
        near = np.arange(matrix.n_edges) if self.dense is None else optimum.near
        self._add(without(near, optimum.matched))

    def _add(self, ids: Indices) -> None:
        """Unmatched edges as arcs from token to feature."""
        edges = self.optimum.edges.candidates(ids)
        profit = edges.profit(self.rows, self.columns)
        self.sources = np.concatenate([self.sources, edges.tokens])
        self.targets = np.concatenate([self.targets, edges.features + self.optimum.network.shape[0]])
        self.costs = np.concatenate([self.costs, np.maximum(-profit, 0.0)])

    def distances(self, node: int, towards: bool) -> Reals:
        """Length of the shortest path from `node` to every node, or from every node towards it."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import dijkstra

        n_nodes = self.optimum.network.n_nodes
        while True:
            self.work_limit.check_intervals()
            ends = (self.targets, self.sources) if towards else (self.sources, self.targets)
            graph = csr_array((self.costs, ends), shape=(n_nodes, n_nodes))
            distance = np.asarray(dijkstra(graph, indices=node))
            ids = np.empty(0, np.int64) if self.dense is None else self._shortcuts(self.dense, distance, towards)
            if not ids.size:
                return distance
            self._add(ids)

    def _shortcuts(self, matrix: DenseScores, distance: Reals, towards: bool) -> Indices:
        """Unmatched edges that shorten a path: the best of each token on the way in, of each feature on the way out."""
        n_tokens, n_features = matrix.shape
        at_tokens, at_features = distance[:n_tokens], distance[n_tokens : n_tokens + n_features]
        matched = self.optimum.matched
        shortcuts = []
        best, best_token = at_features.copy(), np.full(n_features, -1)
        step = rows_per_block(n_features)
        xp = matrix.namespace
        rows, columns, lengths = (
            matrix.put(x) for x in (self.rows, self.columns, at_features if towards else at_tokens)
        )
        for start in range(0, n_tokens if n_features else 0, step):
            self.work_limit.check_intervals()
            stop = min(start + step, n_tokens)
            inside = slice(*np.searchsorted(matched, [start * n_features, stop * n_features]))
            # rounded as in `_add`, so that an edge that has joined never looks shorter again
            profit = reduced_profit(xp, matrix.rows(start, stop), rows[start:stop], columns)
            profit = without_positions(xp, profit, matrix.put(matched[inside] - start * n_features), -np.inf)
            cost = xp.where(profit < 0, -profit, 0.0)
            if towards:
                feature, value = (matrix.get(array) for array in shortest_steps(xp, cost, lengths, 1))
                better = value < at_tokens[start:stop]
                shortcuts.append((np.arange(start, stop) * n_features + feature)[better])
            else:
                top, value = (matrix.get(array) for array in shortest_steps(xp, cost, lengths[start:stop], 0))
                better = value < best
                best[better], best_token[better] = value[better], start + top[better]
        if not towards:
            hit = np.flatnonzero(best_token >= 0)
            shortcuts.append(best_token[hit] * n_features + hit)
        return np.concatenate(shortcuts) if shortcuts else np.empty(0, np.int64)
