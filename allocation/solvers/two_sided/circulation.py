"""The limits of a problem as a circulation: every match is one unit of flow through all the limits that count it.

Flow leaves the root of the tokens, passes the groups of a token and the token itself, crosses the edge to a feature,
passes the feature and its groups to the root of the features, and returns through the budget. Each limit is one arc
with a lower and an upper bound, each edge an arc of capacity 1. With a potential per node,

    reduced profit of an arc u -> v  =  profit + potential(v) - potential(u)

is the price of the arc if it is a limit, and `S_ij - (prices of token i) - (prices of feature j)` if it is an edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from allocation.arguments import matches_in_words
from allocation.arrays import Indices, Reals
from allocation.errors import InfeasibleError
from allocation.nesting import nesting_of
from allocation.problem import Problem

# A bound that no flow reaches is at least so large.
LEAST_UNBOUNDED = 1 << 29


@dataclass(frozen=True, eq=False)
class Level:
    """Limits of one side whose edges are disjoint: all tokens, all features, or groups of equal depth.

    `arc_of` gives the arc of each token (side 0) or feature (side 1), -1 where it belongs to none.
    """

    arcs: Indices
    side: int
    arc_of: Indices


@dataclass(frozen=True, eq=False)
class Network:
    """Limits as arcs, in the order tokens, features, budget, token groups, feature groups.

    Nodes: tokens, features, the two roots, token groups, feature groups. `levels` go from the leaves to the roots;
    the budget, which counts every edge, is in none of them. Where there is no cap or floor the bound is `unbounded`,
    up or down, which is more than there are edges; every other bound lies within.
    """

    shape: tuple[int, int]
    n_token_groups: int
    tails: Indices
    heads: Indices
    lower: Indices
    upper: Indices
    levels: tuple[Level, ...]
    unbounded: int

    @property
    def n_nodes(self) -> int:
        """Tokens, features, two roots and the groups."""
        return self.tails.size + 1

    @cached_property
    def blocks(self) -> dict[str, slice]:
        """The arcs of each kind of limit, under the name that its prices have."""
        sizes = (*self.shape, 1, self.n_token_groups)
        starts = [0, *np.cumsum(sizes).tolist(), self.tails.size]
        names = ("tokens", "features", "budget", "token_groups", "feature_groups")
        return {name: slice(*ends) for name, *ends in zip(names, starts, starts[1:], strict=False)}

    @property
    def lines(self) -> tuple[slice, slice]:
        """The arcs of the tokens, and of the features: each has the number of its node."""
        return self.blocks["tokens"], self.blocks["features"]

    @property
    def budget_arc(self) -> int:
        """The arc from the features' root to the tokens' root."""
        return self.shape[0] + self.shape[1]

    @property
    def token_root(self) -> int:
        """Where every token's limits begin."""
        return self.shape[0] + self.shape[1]

    @property
    def feature_root(self) -> int:
        """Where every feature's limits end; its potential is 0."""
        return self.token_root + 1

    @property
    def most_matches(self) -> int:
        """No allocation has more: the budget, or what the tokens or the features may hold in all."""
        return min(int(self.upper[self.budget_arc]), *(int(self.upper[arcs].sum()) for arcs in self.lines))

    @property
    def hubs(self) -> Indices:
        """Nodes that are neither a token nor a feature."""
        return np.arange(self.token_root, self.n_nodes)

    def potentials(self, prices: Reals) -> Reals:
        """Potentials of the nodes from one price per arc."""
        potential = np.zeros(self.n_nodes)
        potential[self.token_root] = prices[self.budget_arc]
        for level in reversed(self.levels):
            arcs = level.arcs
            if level.side == 0:  # from the root to the leaf
                potential[self.heads[arcs]] = potential[self.tails[arcs]] + prices[arcs]
            else:
                potential[self.tails[arcs]] = potential[self.heads[arcs]] - prices[arcs]
        return potential

    def prices(self, potential: Reals) -> Reals:
        """One price per arc from the potentials."""
        return potential[self.heads] - potential[self.tails]

    def line_prices(self, prices: Reals) -> tuple[Reals, Reals]:
        """What an edge pays at its token, the budget included, and at its feature."""
        tokens, features = self.shape
        rows = np.full(tokens, prices[self.budget_arc])
        columns = np.zeros(features)
        for level in self.levels:
            inside = level.arc_of >= 0
            sums = columns if level.side else rows
            sums[inside] += prices[level.arc_of[inside]]
        return rows, columns

    def counts(self, tokens: Indices, features: Indices) -> Indices:
        """Matches that each arc counts, from the matches of every token and of every feature."""
        counts = np.zeros(self.tails.size, np.int64)
        counts[self.budget_arc] = tokens.sum()
        for level in self.levels:
            inside = level.arc_of >= 0
            per_line = (tokens, features)[level.side]
            np.add.at(counts, level.arc_of[inside], per_line[inside])
        return counts

    def counts_of(self, tokens: Indices, features: Indices) -> Indices:
        """Matches that each arc counts, from the two ends of every match."""
        n_tokens, n_features = self.shape
        return self.counts(np.bincount(tokens, minlength=n_tokens), np.bincount(features, minlength=n_features))


def network_of(problem: Problem) -> Network:
    """The circulation of a problem; `InfeasibleError` where a floor exceeds its own cap."""
    n_tokens, n_features = problem.shape
    token_root = n_tokens + n_features
    roots, first_group = (token_root, token_root + 1), token_root + 2
    group_nodes = first_group, first_group + len(problem.token_groups)
    nestings = [
        nesting_of([group.members for group in groups], size)
        for groups, size in zip((problem.token_groups, problem.feature_groups), problem.shape, strict=True)
    ]
    # the node around each line, and around each group: a group's, or the root where there is none
    around = [
        [np.where(groups < 0, root, first + groups) for groups in (nesting.innermost, nesting.around)]
        for nesting, root, first in zip(nestings, roots, group_nodes, strict=True)
    ]
    lines = np.arange(n_tokens), np.arange(n_tokens, token_root)
    groups = [first + np.arange(nesting.depth.size) for nesting, first in zip(nestings, group_nodes, strict=True)]
    tails = np.concatenate([around[0][0], lines[1], [roots[1]], around[0][1], groups[1]])
    heads = np.concatenate([lines[0], around[1][0], [roots[0]], groups[0], around[1][1]])
    levels = []
    for side in (0, 1):
        first_arc = group_nodes[side] - 1  # one root has no arc of its own
        levels.append(Level(lines[side], side, lines[side]))
        levels += [
            Level(of_depth + first_arc, side, np.where(group_of >= 0, group_of + first_arc, -1))
            for of_depth, group_of in reversed(nestings[side].levels)
        ]
    unbounded = max(LEAST_UNBOUNDED, 1 << problem.matrix.n_edges.bit_length())
    bounds = _bounds(problem, unbounded)
    return Network(problem.shape, len(problem.token_groups), tails, heads, *bounds, tuple(levels), unbounded)


def _bounds(problem: Problem, unbounded: int) -> tuple[Indices, Indices]:
    """Lower and upper bound of every arc. A floor of 0 is no bound: counts are never negative.

    Nor is a cap above the pairs it counts or the edges there are; a floor above them is an error.
    """
    tokens, features = problem.shape
    blocks: list[tuple[str, Indices, Indices | None, Indices | None]] = [
        ("tokens", np.full(tokens, features), problem.token_floors, problem.token_caps),
        ("features", np.full(features, tokens), problem.feature_floors, problem.feature_caps),
        ("budget", np.array([tokens * features]), None, None if problem.budget is None else np.array([problem.budget])),
    ]
    for name, groups, across in (
        ("token_groups", problem.token_groups, features),
        ("feature_groups", problem.feature_groups, tokens),
    ):
        entries = np.array([len(group.members) * across for group in groups], np.int64)
        floors = np.array([group.floor or 0 for group in groups], np.int64)
        caps = np.array([np.iinfo(np.int64).max if g.cap is None else g.cap for g in groups], np.int64)
        blocks.append((name, entries, floors, caps))
    lower, upper = [], []
    for name, entries, floor, cap in blocks:
        low = np.zeros_like(entries) if floor is None else floor
        high = np.full_like(entries, unbounded) if cap is None else np.where(cap > entries, unbounded, cap)
        high = np.minimum(high, unbounded)
        everything = np.full_like(entries, problem.matrix.n_edges)
        checks = ((entries, "the {} pairs it counts"), (high, "its own cap of {}"), (everything, "all {} edges"))
        for limit, text in checks:
            above = np.flatnonzero(low > limit)
            if above.size:
                at = int(above[0])
                raise InfeasibleError(
                    f"the floors of {name} {at} ({low[at]}) demand {matches_in_words(low[at])}, more than "
                    f"{text.format(limit[at])} allow"
                )
        lower.append(np.where(low > 0, low, -unbounded))
        upper.append(high)
    return np.concatenate(lower), np.concatenate(upper)
