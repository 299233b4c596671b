"""The prices of one side and of the budget together, exactly, on candidate edges, the other side's prices given.

With the prices of the features fixed, the limits of the tokens, their groups and the budget are one laminar family,
and its optimal prices follow from sorting. From the leaves to the root, each limit passes on its best edges: those its
floor forces, which nothing further out can refuse, and those up to its cap, which it leaves open. The threshold of a
limit, above which its edges are matched, is the one of the limit around it, moved up where the cap binds, down where
the floor does. Solving a whole side at once leaves just two blocks to alternate between, and the budget does not
couple them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, Reals, stable_order
from allocation.solvers.two_sided.circulation import Level, Network


@dataclass(frozen=True, eq=False)
class Candidates:
    """Edges under consideration, sorted by (token, feature): their ids, ends and scores as float64."""

    ids: Indices
    tokens: Indices
    features: Indices
    scores: Reals

    def profit(self, rows: Reals, columns: Reals) -> Reals:
        """The reduced profit: what each edge scores above the prices at its two ends."""
        return np.asarray(self.scores - rows[self.tokens] - columns[self.features])


@dataclass(frozen=True, eq=False)
class SweepProblem:
    """What to price: open edges, matches fixed outside them per limit, and whether edges were left out at the low end.

    `unit` is the distance kept from an order statistic that has no neighbour among the open edges, per limit.
    """

    network: Network
    edges: Candidates
    fixed: Indices
    truncated: bool
    unit: Reals


@dataclass(frozen=True, eq=False)
class _Block:
    """Leaves with about as many edges each: their numbers, and the positions of their edges in a padded row each."""

    leaves: Indices
    positions: Indices
    degree: Indices


@dataclass(frozen=True, eq=False)
class _Open:
    """Edges no limit further in has decided on: their values and leaves; and the edges forced so far, per leaf."""

    values: Reals
    leaves: Indices
    forced: Indices


class Side:
    """All limits of the tokens (side 0) or of the features (side 1), and the budget."""

    def __init__(self, problem: SweepProblem, side: int) -> None:
        self.problem, self.side = problem, side
        network, edges = problem.network, problem.edges
        own = [level for level in network.levels if level.side == side]
        self.leaf_arcs, self.groups = own[0].arcs, own[1:]
        ends = (edges.tokens, edges.features)[side]
        n_leaves = self.leaf_arcs.size
        order = stable_order(ends, n_leaves)
        degree = np.bincount(ends, minlength=n_leaves)
        starts = np.cumsum(degree) - degree
        self.unlisted = self.leaf_arcs[degree == 0]
        self.blocks = []
        # rows of like length share a block, so that padding at most doubles the edges
        size_class = np.frexp(degree.astype(np.float64))[1]
        for power in np.unique(size_class[degree > 0]):
            leaves = np.flatnonzero((degree > 0) & (size_class == power))
            rank = np.arange(int(degree[leaves].max()))
            inside = rank < degree[leaves, None]
            positions = order[np.where(inside, starts[leaves, None] + rank, 0)]
            self.blocks.append(_Block(leaves, np.where(inside, positions, edges.scores.size), degree[leaves]))

    @property
    def arcs(self) -> Indices:
        """The limits of this side, the budget left out."""
        return np.concatenate([self.leaf_arcs, *[level.arcs for level in self.groups]])

    def solve(self, before: Reals) -> Reals:
        """Prices as before, with those of this side and the budget optimal for the others."""
        network, edges = self.problem.network, self.problem.edges
        budget = network.budget_arc
        others = before.copy()
        others[self.arcs] = 0.0
        others[budget] = 0.0
        rows, columns = network.line_prices(others)
        values = np.empty(edges.scores.size + 1)
        values[-1] = -np.inf  # what the padding points to
        np.subtract(edges.scores, np.take(rows, edges.tokens), out=values[:-1])
        values[:-1] -= np.take(columns, edges.features)

        thresholds = self._thresholds(before)
        # above `caps` and below `floors` a limit leaves its threshold to the limits around it
        caps, floors = np.full(before.size, -np.inf), np.full(before.size, np.inf)
        still_open = self._leaves(values, before, thresholds, caps, floors)
        for level in self.groups:
            still_open = self._group_level(level, still_open, before, thresholds, caps, floors)
        root = np.array([budget])
        spent = int(still_open.forced.sum()) + self.problem.fixed[root]
        degree = np.array([still_open.values.size])
        self._bounds(_Padded(np.sort(still_open.values)[None]), degree, root, spent, before, thresholds, caps, floors)

        prices = before.copy()
        prices[budget] = max(float(caps[budget]), 0.0)
        around = np.full(self.leaf_arcs.size, prices[budget])
        for level in reversed(self.groups):
            inside = np.flatnonzero(level.arc_of >= 0)
            arcs, old = level.arc_of[inside], around[inside]
            new = np.where(caps[arcs] > old, caps[arcs], np.minimum(floors[arcs], old))
            prices[arcs] = new - old
            around[inside] = new
        new = np.where(caps[self.leaf_arcs] > around, caps[self.leaf_arcs], np.minimum(floors[self.leaf_arcs], around))
        prices[self.leaf_arcs] = new - around
        return prices

    def _thresholds(self, prices: Reals) -> Reals:
        """Of each limit of this side and the budget: its price and those of all limits around it."""
        thresholds = prices.copy()
        around = np.full(self.leaf_arcs.size, prices[self.problem.network.budget_arc])
        for level in reversed(self.groups):
            inside = np.flatnonzero(level.arc_of >= 0)
            around[inside] += prices[level.arc_of[inside]]
            thresholds[level.arc_of[inside]] = around[inside]
        thresholds[self.leaf_arcs] += around
        return thresholds

    def _leaves(self, values: Reals, before: Reals, thresholds: Reals, caps: Reals, floors: Reals) -> _Open:
        network, fixed = self.problem.network, self.problem.fixed
        forced = np.zeros(self.leaf_arcs.size, np.int64)
        parts, leaves = [], []
        for block in self.blocks:
            arcs = self.leaf_arcs[block.leaves]
            ranked = np.sort(values[block.positions], axis=1)
            self._bounds(_Padded(ranked), block.degree, arcs, fixed[arcs], before, thresholds, caps, floors)
            rank = np.arange(ranked.shape[1])[::-1]
            first = np.clip(network.lower[arcs] - fixed[arcs], 0, block.degree)
            last = np.clip(network.upper[arcs] - fixed[arcs], first, block.degree)
            chosen = (rank >= first[:, None]) & (rank < last[:, None])
            parts.append(ranked[chosen])
            leaves.append(np.repeat(block.leaves, last - first))
            forced[block.leaves] = first
        if self.problem.truncated:  # nothing is known about leaves without open edges but their price
            at, price = thresholds[self.unlisted], before[self.unlisted]
            caps[self.unlisted] = np.where(price > 0, at, -np.inf)
            floors[self.unlisted] = np.where(price < 0, at, np.inf)
        empty = np.empty(0)
        return _Open(np.concatenate([empty, *parts]), np.concatenate([empty.astype(np.int64), *leaves]), forced)

    def _group_level(
        self, level: Level, inner: _Open, before: Reals, thresholds: Reals, caps: Reals, floors: Reals
    ) -> _Open:
        """Groups of one depth, side by side: their edges lie one group after the other, each ascending in value."""
        network, arcs, forced = self.problem.network, level.arcs, inner.forced.copy()
        number = np.full(network.tails.size + 1, -1)  # of each group in its level; that of what is in none is -1
        number[arcs] = np.arange(arcs.size)
        group_of = number[level.arc_of]
        groups = group_of[inner.leaves]
        order = np.argsort(inner.values, kind="stable")
        order = order[stable_order(groups[order] + 1, arcs.size + 1)]
        n_outside = int(np.count_nonzero(groups < 0))
        outside, grouped = order[:n_outside], order[n_outside:]
        degree = np.bincount(groups[grouped], minlength=arcs.size)
        stops = np.cumsum(degree)
        spent = self.problem.fixed[arcs]
        np.add.at(spent, group_of[group_of >= 0], inner.forced[group_of >= 0])
        ranked = _Ragged(inner.values[grouped], stops, degree)
        self._bounds(ranked, degree, arcs, spent, before, thresholds, caps, floors)
        first = np.clip(network.lower[arcs] - spent, 0, degree)
        last = np.clip(network.upper[arcs] - spent, first, degree)
        rank = np.repeat(stops, degree) - 1 - np.arange(grouped.size)  # in its group, 0 for the best
        must = rank < np.repeat(first, degree)
        np.add.at(forced, inner.leaves[grouped[must]], 1)
        chosen = np.concatenate([outside, grouped[~must & (rank < np.repeat(last, degree))]])
        return _Open(inner.values[chosen], inner.leaves[chosen], forced)

    def _bounds(
        self, ranked: _Padded | _Ragged, degree: Indices, arcs: Indices, spent: Indices,
        before: Reals, thresholds: Reals, caps: Reals, floors: Reals,
    ) -> None:  # fmt: skip
        """The thresholds at which the caps and the floors of these limits bind, of which each has `degree` values."""
        network, unit = self.problem.network, self.problem.unit[arcs]
        upper, lower = network.upper[arcs] - spent, network.lower[arcs] - spent
        at = thresholds[arcs]
        least, top = ranked.value(degree), ranked.value(np.ones_like(degree))
        least = np.where(degree > 0, least, np.inf)
        # a limit that lists too few edges asks for those below the least of them
        below = np.minimum(at, least - unit) if self.problem.truncated else np.full(at.size, -np.inf)
        bound = _between(ranked, degree, upper, unit)
        caps[arcs] = np.where(upper < degree, bound, np.where(before[arcs] > 0, below, -np.inf))
        # one whose floor others have met keeps its threshold above what is open
        above = np.maximum(at, top + unit) if self.problem.truncated else np.full(at.size, np.inf)
        met = np.where((lower == 0) & (before[arcs] < 0), above, np.inf)
        floors[arcs] = met
        if (lower > 0).any():
            needed = np.where(degree > 0, _between(ranked, degree, lower, unit), at)
            floors[arcs] = np.where(lower > 0, needed, met)


@dataclass(frozen=True, eq=False)
class _Padded:
    """Values of several limits, a row each, ascending, -inf before them."""

    rows: Reals

    def value(self, rank: Indices) -> Reals:
        """The value of this rank in each row, 1 for the largest; inf for rank 0, -inf beyond the row."""
        width = self.rows.shape[1]
        if not width:
            return np.where(rank > 0, -np.inf, np.inf)
        value = self.rows[np.arange(rank.size), np.clip(width - rank, 0, width - 1)]
        return np.where(rank <= 0, np.inf, np.where(rank > width, -np.inf, value))


@dataclass(frozen=True, eq=False)
class _Ragged:
    """Values of several limits, one after the other, each ascending."""

    values: Reals
    stops: Indices
    degree: Indices

    def value(self, rank: Indices) -> Reals:
        """The value of this rank for each limit, 1 for the largest; inf for rank 0, -inf beyond its values."""
        if not self.values.size:
            return np.where(rank > 0, -np.inf, np.inf)
        value = self.values[np.clip(self.stops - rank, 0, self.values.size - 1)]
        return np.where(rank <= 0, np.inf, np.where(rank > self.degree, -np.inf, value))


def _between(ranked: _Padded | _Ragged, degree: Indices, taken: Indices, unit: Reals) -> Reals:
    """A threshold that keeps the `taken` largest values of each row: halfway to the next one."""
    taken = np.clip(taken, 0, degree)
    last, after = ranked.value(taken), ranked.value(taken + 1)
    with np.errstate(invalid="ignore"):
        middle = after + (last - after) / 2
    middle = np.where(middle >= last, after, middle)  # neighbours in the last bit: what is taken stays above
    middle = np.where(after == -np.inf, last - unit, middle)
    return np.asarray(np.where(last == np.inf, np.where(after == -np.inf, 0.0, after + unit), middle))
