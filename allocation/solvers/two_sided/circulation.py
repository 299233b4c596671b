"""The limits of a problem as a circulation: every match is one unit of flow through all the limits that count it.

Flow leaves the root of the tokens, passes the groups of a token and the token itself, crosses the edge to a feature,
passes the feature and its groups to the root of the features, and returns through the budget. Each limit is one arc
with a lower and an upper bound, each edge an arc of capacity 1. With a potential per node,

    reduced profit of an arc u -> v  =  profit + potential(v) - potential(u)

is the price of the arc if it is a limit, and `S_ij - (prices of token i) - (prices of feature j)` if it is an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, Reals
from allocation.errors import InfeasibleError
from allocation.problem import Group, Problem

# A bound that no flow reaches; sums of a few stay far below the range of int32, which SciPy's maximum flow counts in.
UNBOUNDED = 1 << 29


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
    the budget, which counts every edge, is in none of them.
    """

    shape: tuple[int, int]
    tails: Indices
    heads: Indices
    lower: Indices
    upper: Indices
    levels: tuple[Level, ...]

    @property
    def n_nodes(self) -> int:
        """Tokens, features, two roots and the groups."""
        return self.tails.size + 1

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
        leaves = self.upper[: self.shape[0]], self.upper[self.shape[0] : self.budget_arc]
        return min(int(self.upper[self.budget_arc]), *(int(caps.sum()) for caps in leaves))

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
    root = n_tokens + n_features
    first_group = root + 2
    token_parents, token_levels = _laminar(problem.token_groups, n_tokens, root, first_group)
    later = first_group + len(problem.token_groups)
    feature_parents, feature_levels = _laminar(problem.feature_groups, n_features, root + 1, later)
    groups = len(problem.token_groups)
    tails = np.concatenate(
        [token_parents[:n_tokens], np.arange(n_tokens, root), [root + 1], token_parents[n_tokens:],
         later + np.arange(len(problem.feature_groups))]
    )  # fmt: skip
    heads = np.concatenate(
        [np.arange(n_tokens), feature_parents[:n_features], [root], first_group + np.arange(groups),
         feature_parents[n_features:]]
    )  # fmt: skip
    lower, upper = _bounds(problem)
    levels = [Level(np.arange(n_tokens), 0, np.arange(n_tokens))]
    levels += [Level(arcs + root + 1, 0, np.where(of >= 0, of + root + 1, -1)) for arcs, of in token_levels]
    levels.append(Level(np.arange(n_tokens, root), 1, np.arange(n_tokens, root)))
    shift = root + 1 + groups
    levels += [Level(arcs + shift, 1, np.where(of >= 0, of + shift, -1)) for arcs, of in feature_levels]
    return Network(problem.shape, tails, heads, lower, upper, tuple(levels))


def _laminar(
    groups: tuple[Group, ...], size: int, root: int, first: int
) -> tuple[Indices, list[tuple[Indices, Indices]]]:
    """Parent node of every leaf and group, and the groups by depth, the deepest first, each with the group per leaf."""
    innermost = np.full(size, -1)
    parents, depth = np.full(size + len(groups), root), np.zeros(len(groups), np.int64)
    levels: dict[int, tuple[list[int], Indices]] = {}
    for number in sorted(range(len(groups)), key=lambda g: -len(groups[g].members)):
        members = groups[number].members
        outer = int(innermost[members[0]]) if len(members) else -1
        if outer >= 0:
            parents[size + number], depth[number] = first + outer, depth[outer] + 1
        innermost[members] = number
        arcs, of = levels.setdefault(int(depth[number]), ([], np.full(size, -1)))
        arcs.append(number)
        of[members] = number
    parents[:size] = np.where(innermost >= 0, first + innermost, root)
    return parents, [(np.array(arcs), of) for _, (arcs, of) in sorted(levels.items(), reverse=True)]


def _bounds(problem: Problem) -> tuple[Indices, Indices]:
    """Lower and upper bound of every arc. A floor of 0 is no bound: counts are never negative.

    Nor is a cap above the entries it counts; a floor above them is an error. So no bound exceeds the entries.
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
        high = np.full_like(entries, UNBOUNDED) if cap is None else np.where(cap > entries, UNBOUNDED, cap)
        for limit, text in ((entries, "the {} pairs it counts"), (high, "its own cap of {}")):
            above = np.flatnonzero(low > limit)
            if above.size:
                at = int(above[0])
                raise InfeasibleError(
                    f"the floors of {name} {at} ({low[at]}) demand {low[at]} matches, more than "
                    f"{text.format(limit[at])} allow"
                )
        lower.append(np.where(low > 0, low, -UNBOUNDED))
        upper.append(high)
    return np.concatenate(lower), np.concatenate(upper)
