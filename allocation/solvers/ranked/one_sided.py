"""A budget with caps and floors of one side: what floors force, then the best of the rest within the budget.

Every line first takes what its floor forces and lays aside what its cap lets go; the budget then ends where the price
search says. Prices are those of the tree with the budget on top (see `laminar.tree`): a line between its limits has
none, one at its cap pays up to the best that it refuses, one at its floor is paid down to the last that it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Indices, Reals
from allocation.errors import InfeasibleError
from allocation.problem import Problem
from allocation.solution import Price, Prices, Solution, no_price
from allocation.solvers.base import Options
from allocation.solvers.laminar.tree import Tree, laminar_tree
from allocation.solvers.ranked.block import RankBlock, limited_axis, remaining
from allocation.solvers.ranked.layout import Layout
from allocation.solvers.ranked.line_cuts import line_cuts
from allocation.solvers.ranked.price_search import Cut, cut_at, keys_of, real_of


def solve_one_side(problem: Problem, whole: Problem, layout: Layout, options: Options) -> Solution:
    """The optimum: this rank's matches and the prices of its block. `whole` has the limits and no edge."""
    block = RankBlock(problem.matrix, layout, options.workers)
    axis, most = limited_axis(problem), layout.edges if problem.budget is None else problem.budget
    lines = None if axis is None else _Lines.of(problem, whole, block, axis)
    forced = np.empty(0, np.int64) if lines is None else lines.forced
    left = most if lines is None else most - lines.forced_total
    if left < 0:
        assert lines is not None
        raise InfeasibleError(lines.tree.too_many(lines.tree.root, lines.forced_total))
    rest, cut = _BudgetSearch(block, options).run(forced, None if lines is None else lines.alive, left)
    ids = np.sort(np.concatenate([forced, rest]))
    reached = problem.budget is not None and cut.total == left
    dropped = real_of(cut.refused, block.scores) if reached else 0.0
    worst = (real_of(cut.last, block.scores) if cut.last else np.inf) if reached else 0.0
    budget = no_price() if problem.budget is None else Price(dropped, (dropped, worst))
    prices = _no_prices(block, budget) if lines is None else lines.prices(ids, block, budget, worst)
    return Solution.optimal(problem, block.scores.matches(ids), prices)


@dataclass(frozen=True, eq=False)
class _Lines:
    """What the caps and floors of one side decide before the budget.

    Attributes
    ----------
    forced : ids of what floors force on this rank; `forced_total` on all ranks
    alive : ids of what caps let through on this rank, ascending; None where there are no caps
    last_forced, last, refused : (lines,) float64
        The last match within the floor and within the cap, +inf where there is none; the best that a cap refuses, or 0.
    """

    axis: int
    tree: Tree
    caps: Indices | None
    floors: Indices | None
    forced: Indices
    forced_total: int
    alive: Indices | None
    last_forced: Reals
    last: Reals
    refused: Reals

    @classmethod
    def of(cls, problem: Problem, whole: Problem, block: RankBlock, axis: int) -> _Lines:
        tree = laminar_tree(whole, axis)
        tree.refuse_wrong_limits()
        most = whole.shape[1 - axis]
        given = (
            (problem.token_caps, problem.feature_caps)[axis],
            (problem.token_floors, problem.feature_floors)[axis],
        )
        caps, floors = (None if limit is None else block.of_lines(axis, limit) for limit in given)
        n_lines = block.size_of_lines(axis)[0]
        none = np.empty(0, np.int64)
        forced, forced_total, last_forced = none, 0, np.full(n_lines, np.inf)
        if floors is not None:
            forced, forced_total, last_forced = _forced(tree, block, axis, np.minimum(floors, most))
        alive, last, refused = None, np.full(n_lines, np.inf), np.zeros(n_lines)
        if caps is not None:
            wanted = np.minimum(caps, most)
            ids, of = block.best_positive(axis, wanted + 1)
            cuts = line_cuts(block.layout, axis, of, block.numbers_at(ids), wanted)
            alive, last, refused = np.sort(ids[cuts.taken]), cuts.last, cuts.refused
        return cls(axis, tree, caps, floors, forced, forced_total, alive, last_forced, last, refused)

    def prices(self, ids: Indices, block: RankBlock, budget: Price, worst: float) -> Prices:
        """Prices by the tree's rule, see `laminar.tree.Margins`; intervals where no floor forces a match."""
        counts = _counts(block, self.axis, ids)
        at_cap = np.zeros(counts.size, bool) if self.caps is None else counts >= self.caps
        at_floor = np.zeros(counts.size, bool) if self.floors is None else counts <= self.floors
        lam = float(budget.value)
        theta = np.where(at_cap, np.maximum(self.refused, lam), lam)
        theta = np.where(at_floor, np.minimum(theta, self.last_forced), theta)
        if self.floors is None:
            lower = np.where(at_cap, np.maximum(self.refused - worst, 0.0), 0.0)
            line = Price(theta - lam, (lower, np.where(at_cap, self.last - lam, 0.0)))
            return _no_prices(block, budget, self.axis, line)
        unknown = np.full(counts.size, np.nan)
        return _no_prices(block, Price(lam, (np.nan, np.nan)), self.axis, Price(theta - lam, (unknown, unknown)))


class _BudgetSearch:
    """The best of what is not forced, within the budget."""

    def __init__(self, block: RankBlock, options: Options) -> None:
        self.block, self.options = block, options

    def run(self, forced: Indices, alive: Indices | None, budget: int) -> tuple[Indices, Cut]:
        """Ids of this rank's matches, ascending, and where the budget ends."""
        block, scores = self.block, self.block.scores
        lower = block.lowest() if alive is not None else self._lower(budget)
        while True:
            ids = remaining(block.positive_from(lower) if alive is None else alive, forced)
            complete = bool(lower == block.lowest())
            cut = cut_at(block.layout, keys_of(scores.entries[ids]), scores.ends(ids)[0], budget, complete)
            if cut is not None:
                return ids[cut.taken], cut
            lower = block.lowest()  # the guess was too high: all positive entries then

    def _lower(self, budget: int) -> Any:
        """An entry below the budget's price, the same on every rank."""
        start = self.options.warm_start
        if budget >= self.block.layout.edges:
            return self.block.lowest()
        if start is not None and np.ndim(start.budget.value) == 0:
            return self.block.expected_price(float(start.budget.value))
        return self.block.sampled_price(budget)


def _forced(tree: Tree, block: RankBlock, axis: int, floors: Indices) -> tuple[Indices, int, Reals]:
    """What floors force: ids, how many of all ranks, and the last of each line."""
    ids, lines = block.best_positive(axis, floors + 1)
    cuts = line_cuts(block.layout, axis, lines, block.numbers_at(ids), floors)
    forced, last, missing = ids[cuts.taken], cuts.last, floors - cuts.counts
    ranks = block.layout.ranks
    if ranks.sum(np.array([missing.any()], np.int64))[0]:  # too few positive entries: then others
        ids, lines = block.best_others(axis, np.flatnonzero(missing), missing)
        others = line_cuts(block.layout, axis, lines, block.numbers_at(ids), missing)
        forced = np.concatenate([forced, ids[others.taken]])
        last = np.where(others.counts > 0, others.last, last)
        _refuse_short(tree, block, axis, cuts.counts + others.counts, floors)
    return forced, int(ranks.sum(np.array([forced.size]))[0]), last


def _refuse_short(tree: Tree, block: RankBlock, axis: int, counts: Indices, floors: Indices) -> None:
    """The error of the first line of all that cannot meet its floor, on every rank."""
    first = block.size_of_lines(axis)[1]
    short = np.flatnonzero(counts < floors)[:1]
    parts = block.layout.ranks.gather(np.concatenate([first + short, counts[short]]))
    worst = min((tuple(part.tolist()) for part in parts if part.size), default=None)
    if worst is not None:
        raise InfeasibleError(tree.too_few(*worst))


def _counts(block: RankBlock, axis: int, ids: Indices) -> Indices:
    """Matches of this rank's lines, those on other ranks too."""
    size, first = block.size_of_lines(axis)
    counts = np.bincount(block.scores.ends(ids)[axis], minlength=size)
    if not block.layout.is_cut(axis):
        return counts
    whole = np.zeros(block.layout.whole[axis], np.int64)
    whole[first : first + size] = counts
    return np.asarray(block.layout.ranks.sum(whole)[first : first + size])


def _no_prices(block: RankBlock, budget: Price, axis: int | None = None, line: Price | None = None) -> Prices:
    """The budget's price, that of the lines of one side, and none of all else."""
    sides = [no_price(size) for size in block.scores.shape]
    if axis is not None and line is not None:
        sides[axis] = line
    return Prices(budget, sides[0], sides[1], no_price(0), no_price(0))
