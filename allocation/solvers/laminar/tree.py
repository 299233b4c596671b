"""A laminar family as a tree, and the exact allocation of scored items to it.

Leaves are the tokens (or the features), inner nodes the groups, the root is the budget. Every node has a floor and a
cap on the items taken below it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from allocation.arguments import matches_in_words
from allocation.arrays import Indices, Mask, Reals, stable_order
from allocation.errors import InfeasibleError
from allocation.nesting import nesting_of
from allocation.problem import Group, Problem
from allocation.solvers.work_limit import WorkLimit

# A cap and a floor that are never reached.
UNLIMITED, ABSENT = np.iinfo(np.int64).max, -1


@dataclass(frozen=True, eq=False)
class Tree:
    """Nodes in the order leaves, groups, root; `parent` of the root is -1."""

    side: str
    leaves: int
    parent: Indices
    depth: Indices
    caps: Indices
    floors: Indices

    @property
    def root(self) -> int:
        """Index of the root."""
        return self.parent.size - 1

    @cached_property
    def levels(self) -> list[Indices]:
        """Nodes of every depth, the root's first."""
        return [np.flatnonzero(self.depth == d) for d in range(int(self.depth.max()) + 1)]

    @cached_property
    def ancestors(self) -> list[Indices]:
        """For every depth, the ancestor of each leaf at that depth; -1 for leaves that lie higher."""
        paths = []
        node = np.arange(self.leaves)
        for d in range(len(self.levels) - 1, -1, -1):
            here = self.depth[node] == d
            paths.append(np.where(here, node, -1))
            node = np.where(here & (d > 0), self.parent[node], node)
        return paths[::-1]

    def leaves_below(self, nodes: Indices) -> Mask:
        """Which leaves lie below any of `nodes`."""
        chosen = np.zeros(self.parent.size + 1, bool)
        chosen[nodes] = True
        return np.asarray(np.any([chosen[level] for level in self.ancestors], axis=0))

    def under_floors_of(self, leaves: Indices) -> Mask:
        """Which leaves lie in a group with a floor that holds one of `leaves` too."""
        groups = np.unique([level[leaves] for level in self.ancestors])
        return self.leaves_below(groups[(groups >= self.leaves) & (self.floors[groups] > 0)])

    def counted(self, of_leaves: Indices) -> Indices:
        """How many items lie below every node, from how many each leaf has."""
        counts = np.zeros(self.parent.size, np.int64)
        counts[: self.leaves] = of_leaves
        for level in reversed(self.levels[1:]):
            np.add.at(counts, self.parent[level], counts[level])
        return counts

    def without(self, held: Indices) -> Tree:
        """What is left of the limits when so many items of each leaf are taken; a limit may become negative."""
        counts = self.counted(held)
        return replace(self, caps=self.caps - counts, floors=self.floors - counts)

    def label(self, node: int) -> str:
        """What the user calls a node."""
        if node < self.leaves:
            return f"{self.side}s[{node}]"
        return "budget" if node == self.root else f"{self.side}_groups[{node - self.leaves}]"

    def refuse_wrong_limits(self) -> None:
        """`InfeasibleError` where a floor lies above its own cap."""
        wrong = np.flatnonzero(self.floors > self.caps)
        if wrong.size:
            at = int(wrong[0])
            raise InfeasibleError(f"{self.label(at)} has floor {self.floors[at]} above its cap {self.caps[at]}")

    def too_many(self, node: int, held: int) -> str:
        """The sentence about a node whose cap the floors inside it exceed."""
        return f"{self.label(node)} has cap {self.caps[node]}, but the floors inside it demand {matches_in_words(held)}"

    def too_few(self, node: int, fits: int) -> str:
        """The sentence about a node whose floor cannot be met."""
        return f"{self.label(node)} has floor {self.floors[node]}, but only {fits} allowed matches fit inside it"


def laminar_tree(problem: Problem, axis: int) -> Tree:
    """The tree of one side's limits with the budget on top."""
    leaves = problem.shape[axis]
    groups: tuple[Group, ...] = (problem.token_groups, problem.feature_groups)[axis]
    caps = (problem.token_caps, problem.feature_caps)[axis]
    floors = (problem.token_floors, problem.feature_floors)[axis]
    root = leaves + len(groups)
    nesting = nesting_of([group.members for group in groups], leaves)
    # -1, no group, is the root
    parent_group = np.concatenate([nesting.innermost, nesting.around])
    parent = np.append(np.where(parent_group < 0, root, leaves + parent_group), -1)
    group_depth = np.append(nesting.depth + 1, 0)
    depth = np.concatenate([group_depth[nesting.innermost] + 1, group_depth])
    return Tree(
        side=("token", "feature")[axis],
        leaves=leaves,
        parent=parent,
        depth=depth,
        caps=_limits(leaves, caps, [group.cap for group in groups], problem.budget, UNLIMITED),
        floors=_limits(leaves, floors, [group.floor for group in groups], None, ABSENT),
    )


def _limits(leaves: int, own: Indices | None, groups: list[int | None], root: int | None, absent: int) -> Indices:
    """Limits of leaves, groups and root in one vector."""
    others = np.array([absent if limit is None else limit for limit in [*groups, root]], np.int64)
    return np.concatenate([np.full(leaves, absent) if own is None else own, others])


class ShortageError(Exception):
    """A node's floor needs more items than were offered below it."""

    def __init__(self, nodes: Indices, message: str) -> None:
        super().__init__(message)
        self.nodes = nodes


def take(tree: Tree, leaf: Indices, positive: Mask, work_limit: WorkLimit) -> Mask:
    """Which items are taken. `leaf` is the leaf of every item, the preferred item first.

    From the leaves upwards each node keeps what its children force, forces the best others up to its floor, and lets
    go all beyond its cap; at the root, unforced items that score 0 or less go. Raises `ShortageError`, `SpentError`.
    """
    forced, alive = np.zeros(leaf.size, bool), np.ones(leaf.size, bool)
    count = tree.parent.size
    tree.refuse_wrong_limits()
    for depth, level in reversed(list(enumerate(tree.ancestors))):
        work_limit.check()
        nodes = level[leaf]
        held = np.bincount(nodes[forced & (nodes >= 0)], minlength=count)
        over = np.flatnonzero(held > tree.caps)
        if over.size:
            raise InfeasibleError(tree.too_many(int(over[0]), int(held[over[0]])))
        items = np.flatnonzero(alive & ~forced & (nodes >= 0))
        order = items[stable_order(nodes[items], count)]
        by_node = nodes[order]
        sizes = np.bincount(by_node, minlength=count)
        rank = np.arange(order.size) - (np.cumsum(sizes) - sizes)[by_node]
        need = np.maximum(tree.floors - held, 0)
        # groups without members too, which are nobody's ancestors
        short = np.flatnonzero((tree.depth == depth) & (need > sizes))
        if short.size:
            at = int(short[0])
            raise ShortageError(short, tree.too_few(at, int(held[at] + sizes[at])))
        forced[order[rank < need[by_node]]] = True
        alive[order[rank >= (tree.caps - held)[by_node]]] = False
    return alive & (forced | positive)


@dataclass(frozen=True, eq=False)
class Margins:
    """What one more and one less item below each node is worth, other nodes' limits respected.

    `gain` is the best item that could be added below a node, `loss` the worst that could be removed, its own cap and
    floor set aside. Optimality makes single items enough: no exchange below a node improves it.
    """

    tree: Tree
    counts: Indices
    gain: Reals
    loss: Reals

    @cached_property
    def reached(self) -> tuple[Mask, Mask]:
        """Nodes at their cap, nodes at their floor."""
        return self.counts >= self.tree.caps, self.counts <= self.tree.floors

    @cached_property
    def thresholds(self) -> Reals:
        """From the root downwards, the sum of prices on the way to each node."""
        tree = self.tree
        theta = np.zeros(tree.parent.size)
        for level in tree.levels:
            above = np.where(level == tree.root, 0.0, theta[tree.parent[level]])
            theta[level] = np.minimum(np.maximum(above, self.gain[level]), self.loss[level])
        return theta

    @property
    def prices(self) -> Reals:
        """Positive only at a reached cap, negative only at a reached floor."""
        theta = self.thresholds
        return theta - np.where(self.tree.parent >= 0, theta[self.tree.parent], 0.0)

    def intervals(self) -> tuple[Reals, Reals]:
        """`V(b + 1) - V(b)` and `V(b) - V(b - 1)` of the limit of every node."""
        at_cap, at_floor = self.reached
        add = self.gain - self._compensation(at_cap, self.loss, ~at_floor, np.minimum)
        remove = self.loss - self._compensation(at_floor, self.gain, ~at_cap, np.maximum)
        pinned = self.tree.caps == self.tree.floors
        lower = np.where(at_cap & ~pinned, np.maximum(add, 0.0), np.where(at_floor | pinned, add, 0.0))
        upper = np.where(at_cap | pinned, remove, np.where(at_floor, np.minimum(remove, 0.0), 0.0))
        return lower, upper

    def _compensation(self, tight: Mask, worth: Reals, movable: Mask, better: np.ufunc) -> Reals:
        """The best item that may move the other way elsewhere, when one moves below a node.

        It must lie below the lowest tight node above; if there is none it may lie anywhere, or not move at all.
        """
        tree = self.tree
        elsewhere = _among_siblings(tree, np.where(movable, worth, -_sign(better) * np.inf), better)
        best = np.full(tree.parent.size, -_sign(better) * np.inf)
        settled = np.zeros(tree.parent.size, bool)
        path = np.arange(tree.parent.size)
        while True:
            climbing = np.flatnonzero(~settled & (tree.parent[path] >= 0))
            if climbing.size == 0:
                break
            best[climbing] = better(best[climbing], elsewhere[path[climbing]])
            path[climbing] = tree.parent[path[climbing]]
            settled[climbing] = tight[path[climbing]]
        return np.where(settled, best, better(best, 0.0))


def margins(tree: Tree, leaf: Indices, scores: Reals, taken: Mask, next_scores: Reals | None = None) -> Margins:
    """Gains and losses of every node from the items; `next_scores` may give the leaves' gains themselves."""
    nodes = tree.parent.size
    gain, loss = np.full(nodes, -np.inf), np.full(nodes, np.inf)
    if next_scores is None:
        np.maximum.at(gain, leaf[~taken], scores[~taken])
    else:
        gain[: tree.leaves] = next_scores
    np.minimum.at(loss, leaf[taken], scores[taken])
    counts = tree.counted(np.bincount(leaf[taken], minlength=tree.leaves))
    for level in reversed(tree.levels[1:]):
        more, fewer = level[counts[level] < tree.caps[level]], level[counts[level] > tree.floors[level]]
        np.maximum.at(gain, tree.parent[more], gain[more])
        np.minimum.at(loss, tree.parent[fewer], loss[fewer])
    return Margins(tree, counts, gain, loss)


def _among_siblings(tree: Tree, worth: Reals, better: np.ufunc) -> Reals:
    """For every node, the best worth among the other children of its parent."""
    sign = _sign(better)
    order = np.lexsort((-sign * worth, tree.parent))
    parent = tree.parent[order]
    first = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]])
    best = np.full(tree.parent.size, -1)
    best[parent[first]] = order[first]
    second = np.full(tree.parent.size, -sign * np.inf)
    has_second = first[np.r_[first[1:] - first[:-1], parent.size - first[-1]] > 1]
    second[parent[has_second]] = worth[order[has_second + 1]]
    favourite = best[tree.parent]
    return np.where(favourite == np.arange(tree.parent.size), second[tree.parent], worth[favourite])


def _sign(better: np.ufunc) -> float:
    return 1.0 if better is np.maximum else -1.0
