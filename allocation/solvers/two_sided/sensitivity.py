"""Intervals of all prices at an optimum: what one more and one less of every limit is worth, without solving again.

One more unit of a limit u -> v lets one more unit of flow circle through it: it is worth its price less the shortest
residual path from v back to u, in reduced costs. One unit less has to go from u to v some other way. Paths run over all
edges: over a sparse graph first, which then gains, in passes over the scores, every edge that shortens a path.

A path ends in each limit's outer node: a root, or one of many groups. Those of many groups come from one pass: no path
is longer than its detour by a root, and an edge that costs more than that is on none.

Source: Ahuja, Magnanti, Orlin 1993, *Network Flows*, section 9.11 (sensitivity analysis).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Indices, Mask, Reals, without
from allocation.problem import Problem
from allocation.scores import DenseScores
from allocation.solvers.two_sided.block_passes import reduced_profit, shortest_steps, without_positions
from allocation.solvers.two_sided.circulation import Network
from allocation.solvers.two_sided.pricing import AllEdges
from allocation.solvers.work_limit import WorkLimit
from allocation.threads import rows_per_block

# From so many outer nodes on, one pass over the scores looks for the edges of the paths of all.
MANY = 4
# Edges that this pass may find for each node, before a pass for each outer node is cheaper; the rounding of a path.
MOST, ROUNDING = 64, 1e-9
# Distances that are held at once.
DISTANCES = 1 << 18


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
    inner = np.where(token_side, network.heads, network.tails)
    for nodes, away, towards in paths.between(outer[reached], inner[reached]):
        arcs = reached[np.isin(outer[reached], nodes)]
        at = np.searchsorted(nodes, outer[arcs]), inner[arcs]
        # from head back to tail, and from tail to head by another way
        back = np.where(token_side[arcs], towards[at], away[at])
        ahead = np.where(token_side[arcs], away[at], towards[at])
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
        self.known = np.empty(0, np.int64)
        self._add(without(near, optimum.matched))

    def _add(self, ids: Indices) -> None:
        """Unmatched edges as arcs from token to feature."""
        edges = self.optimum.edges.candidates(ids)
        profit = edges.profit(self.rows, self.columns)
        self.sources = np.concatenate([self.sources, edges.tokens])
        self.targets = np.concatenate([self.targets, edges.features + self.optimum.network.shape[0]])
        self.costs = np.concatenate([self.costs, np.maximum(-profit, 0.0)])
        self.known = np.concatenate([self.known, ids])

    def between(self, outer: Indices, inner: Indices) -> Iterator[tuple[Indices, Reals, Reals]]:
        """Some of the outer nodes at a time, ascending, and distances from each to every node, and from that to it.

        Right are those between each outer node and its inner ones; others may be infinite.
        """
        nodes = np.unique(outer)
        detours = None if self.dense is not None and nodes.size < MANY else self._complete(nodes)
        if detours is None:
            for node in nodes:
                yield np.array([node]), self.distances(int(node), False)[None], self.distances(int(node), True)[None]
            return
        away, towards = detours
        farthest = np.zeros(away.size)
        np.maximum.at(farthest, outer, np.maximum(towards[outer] + away[inner], towards[inner] + away[outer]))
        nodes = nodes[np.argsort(farthest[nodes], kind="stable")]  # searches that end early go together
        graphs = [self._graph(back) for back in (False, True)]
        step = max(1, DISTANCES // away.size)
        for start in range(0, nodes.size, step):
            self.work_limit.check_intervals()
            some = np.sort(nodes[start : start + step])
            limit = float(farthest[some].max()) * (1.0 + ROUNDING)
            yield some, _lengths(graphs[0], some, limit), _lengths(graphs[1], some, limit)

    def _complete(self, nodes: Indices) -> tuple[Reals, Reals] | None:
        """Add all edges of the shortest paths of these nodes by one pass; None where these are too many.

        From a node to any other none is longer than by way of the root, and so is no edge of it. The distances of all
        nodes from the root and back are returned.
        """
        root = self.optimum.network.token_root
        away, towards = self.distances(root, False), self.distances(root, True)
        if self.dense is not None:
            longest = towards[nodes].max(initial=0.0) + away, away[nodes].max(initial=0.0) + towards
            ids = self._shorter(self.dense, *(length * (1.0 + ROUNDING) for length in longest))
            if ids is None:
                return None
            self._add(without(ids, np.sort(self.known)))
        return away, towards

    def _graph(self, towards: bool) -> Any:
        """The arcs so far, or their reverse, as a SciPy CSR array."""
        from scipy.sparse import csr_array

        n_nodes = self.optimum.network.n_nodes
        ends = (self.targets, self.sources) if towards else (self.sources, self.targets)
        return csr_array((self.costs, ends), shape=(n_nodes, n_nodes))

    def distances(self, node: int, towards: bool) -> Reals:
        """Length of the shortest path from `node` to every node, or from every node towards it."""
        while True:
            self.work_limit.check_intervals()
            distance = _lengths(self._graph(towards), node)
            ids = np.empty(0, np.int64) if self.dense is None else self._shortcuts(self.dense, distance, towards)
            if not ids.size:
                return distance
            self._add(ids)

    def _costs(self, matrix: DenseScores) -> Iterator[tuple[int, int, Any]]:
        """What every edge costs, in blocks of rows where the scores are; +inf for a match."""
        n_tokens, n_features = matrix.shape
        matched, xp = self.optimum.matched, matrix.namespace
        step = rows_per_block(n_features)
        rows, columns = matrix.put(self.rows), matrix.put(self.columns)
        for start in range(0, n_tokens if n_features else 0, step):
            self.work_limit.check_intervals()
            stop = min(start + step, n_tokens)
            inside = slice(*np.searchsorted(matched, [start * n_features, stop * n_features]))
            # rounded as in `_add`, so that an edge that has joined never looks shorter again
            profit = reduced_profit(xp, matrix.rows(start, stop), rows[start:stop], columns)
            profit = without_positions(xp, profit, matrix.put(matched[inside] - start * n_features), -np.inf)
            yield start, stop, xp.where(profit < 0, -profit, 0.0)

    def _shorter(self, matrix: DenseScores, away: Reals, towards: Reals) -> Indices | None:
        """Unmatched edges that cost at most what their feature, or their token, may be away; None if they are many."""
        n_tokens, n_features = matrix.shape
        xp, found, left = matrix.namespace, [np.empty(0, np.int64)], MOST * self.optimum.network.n_nodes
        to_features, from_tokens = matrix.put(away[n_tokens : n_tokens + n_features]), matrix.put(towards[:n_tokens])
        for start, stop, cost in self._costs(matrix):
            near = (cost <= to_features) | (cost <= from_tokens[start:stop, None])
            near &= cost < np.inf
            ids = matrix.get(xp.nonzero(near.reshape(-1))[0])
            left -= ids.size
            if left < 0:
                return None
            found.append(ids + start * n_features)
        return np.concatenate(found)

    def _shortcuts(self, matrix: DenseScores, distance: Reals, towards: bool) -> Indices:
        """Unmatched edges that shorten a path: the best of each token on the way in, of each feature on the way out."""
        n_tokens, n_features = matrix.shape
        at_tokens, at_features = distance[:n_tokens], distance[n_tokens : n_tokens + n_features]
        shortcuts = []
        best, best_token = at_features.copy(), np.full(n_features, -1)
        xp = matrix.namespace
        lengths = matrix.put(at_features if towards else at_tokens)
        for start, stop, cost in self._costs(matrix):
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


def _lengths(graph: Any, nodes: Indices | int, limit: float = np.inf) -> Reals:
    """Length of the shortest path from each of `nodes` to every node; infinite where it is beyond the limit."""
    from scipy.sparse.csgraph import dijkstra

    return np.asarray(dijkstra(graph, indices=nodes, limit=limit))
