"""A budget with caps and floors of one side: what floors force, then the best of the rest within the budget.

A floor matters only for a line that falls short of it among the best within the budget, a cap only for one that reaches
it there. So the search starts without them, imposes those that are broken, and repeats until none is: what is imposed
holds for the optimum too, and stays. Prices are those of the tree with the budget on top (see `laminar.tree`): a line
between its limits has none, one at its cap pays up to the best that it refuses, one at its floor is paid down to the
last that it holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arrays import Indices, Mask, union, without
from allocation.errors import InfeasibleError
from allocation.problem import Problem
from allocation.scores import reals_at
from allocation.solution import Price, Prices, Solution, no_price
from allocation.solvers.base import Options
from allocation.solvers.laminar.tree import laminar_tree
from allocation.solvers.ranked.block import RankBlock, limited_axis
from allocation.solvers.ranked.layout import Layout
from allocation.solvers.ranked.line_cuts import line_cuts
from allocation.solvers.ranked.price_search import Cut, cut_at, keys_of, real_of
from allocation.solvers.top_selection.solver import just_below_prices


def solve_one_side(problem: Problem, whole: Problem, layout: Layout, options: Options) -> Solution:
    """The optimum: this rank's matches and the prices of its block. `whole` has the limits and no edge."""
    block = RankBlock(problem.matrix, layout, options.workers)
    axis = limited_axis(problem)
    budget = layout.edges if problem.budget is None else problem.budget
    candidates = _Candidates(block, options, budget)
    lines = None if axis is None else _Lines(problem, whole, block, axis, options)
    while True:
        forced, left = (np.empty(0, np.int64), budget) if lines is None else (lines.forced, budget - lines.forced_total)
        ids, cut = candidates.within(left, forced, lines)
        ids = np.sort(np.concatenate([forced, ids]))
        if lines is None or not lines.impose_broken(ids, candidates.ids):
            break
    reached = problem.budget is not None and cut.total == left
    dropped = real_of(cut.refused, block.scores) if reached else 0.0
    worst = (real_of(cut.last, block.scores) if cut.last else np.inf) if reached else 0.0
    price = no_price() if problem.budget is None else Price(dropped, (dropped, worst))
    prices = _prices_of(block, price) if lines is None else lines.prices(price, worst)
    return Solution.optimal(problem, block.scores.matches(ids), prices)


class _Candidates:
    """Positive entries of this rank that may be within the budget: those from a guess at its price upwards."""

    def __init__(self, block: RankBlock, options: Options, budget: int) -> None:
        self.block, self.ids = block, np.empty(0, np.int64)
        self.lower: Any = None
        start = options.warm_start
        if budget >= block.layout.edges:
            self.guess = block.lowest()
        elif start is not None and np.ndim(start.budget.value) == 0:
            self.guess = block.expected_price(float(start.budget.value))
        else:
            self.guess = block.sampled_price(budget)

    def within(self, budget: int, forced: Indices, lines: _Lines | None) -> tuple[Indices, Cut]:
        """The best of what is neither forced nor beyond a cap, on this rank, and where the budget ends."""
        block, scores = self.block, self.block.scores
        if lines is not None and lines.alive is not None:  # the caps of all lines left few
            self.guess, self.ids, self.lower = block.lowest(), lines.alive, block.lowest()
        while True:
            if self.lower is None or self.lower != self.guess:
                self.lower, self.ids = self.guess, block.positive_from(self.guess)
                if lines is not None and lines.any_capped:
                    lines.cap(self.ids)
            left = without(self.ids, forced)
            left = left if lines is None else lines.within_caps(left)
            complete = bool(self.lower == block.lowest())
            cut = cut_at(block.layout, keys_of(scores.entries[left]), scores.ends(left)[0], budget, complete)
            if cut is not None:
                return left[cut.taken], cut
            self.guess = block.lowest()  # the guess was too high: all positive entries then


class _Lines:
    """The limits of one side, those imposed and what they decide.

    Attributes
    ----------
    forced : ids of what imposed floors force on this rank, ascending; `forced_total` on all ranks
    alive : ids of what the caps of all lines let through; None where caps are imposed one by one
    last_forced, last, refused : (lines,) float64
        The last match within an imposed floor and cap, +inf where there is none; the best that this cap refuses, or 0.
    """

    def __init__(self, problem: Problem, whole: Problem, block: RankBlock, axis: int, options: Options) -> None:
        self.block, self.axis = block, axis
        self.tree, self.most = laminar_tree(whole, axis), whole.shape[1 - axis]
        self.tree.refuse_wrong_limits()
        caps, floors = (
            (problem.token_caps, problem.feature_caps)[axis],
            (problem.token_floors, problem.feature_floors)[axis],
        )
        self.caps, self.floors = (None if limit is None else block.of_lines(axis, limit) for limit in (caps, floors))
        self.size = block.size_of_lines(axis)[0]
        self.counts = np.zeros(self.size, np.int64)
        self.floored, self.capped = np.zeros(self.size, bool), np.zeros(self.size, bool)
        self.any_capped = False  # on whatever rank
        self.forced, self.forced_total = np.empty(0, np.int64), 0
        self.refused_ids = np.empty(0, np.int64)
        self.last_forced, self.last = np.full((2, self.size), np.inf)
        self.refused = np.zeros(self.size)
        self.alive: Indices | None = None
        if floors is not None and problem.budget is not None and int(floors.sum()) > problem.budget:
            self._impose_floors(np.ones(self.size, bool))  # a line that cannot meet its floor is named first
            raise InfeasibleError(self.tree.too_many(self.tree.root, int(floors.sum())))
        if self.caps is not None and (floors is None or problem.budget is None):
            self._cap_all(options)

    def within_caps(self, ids: Indices) -> Indices:
        """Those that no imposed cap refuses."""
        return without(ids, self.refused_ids) if self.refused_ids.size else ids

    def cap(self, candidates: Indices) -> None:
        """Cut the lines whose caps are imposed, among all entries that may be within the budget."""
        assert self.caps is not None
        of_lines = candidates[self.capped[self.block.scores.ends(candidates)[self.axis]]]
        ids, lines = self.block.in_line_order(self.axis, of_lines)
        caps = np.where(self.capped, np.minimum(self.caps, self.most), 0)
        cuts = line_cuts(self.block.layout, self.axis, lines, self.block.numbers_at(ids), caps)
        self.refused_ids = np.sort(ids[~cuts.taken])
        self.refused = np.where(self.capped, cuts.refused, 0.0)

    def impose_broken(self, ids: Indices, candidates: Indices) -> bool:
        """Impose the floors and caps that these matches break on any rank; False if there are none."""
        self.counts = _counts(self.block, self.axis, ids)
        short = np.zeros(self.size, bool) if self.floors is None else (self.counts < self.floors) & ~self.floored
        over = np.zeros(self.size, bool)
        if self.caps is not None and self.alive is None:
            # what a line refuses that is exactly at its cap sets no price of the budget either
            over = (self.counts >= self.caps) & ~self.capped
        broken = self.block.layout.ranks.sum(np.array([short.any(), over.any()], np.int64))
        if broken[0]:
            self._impose_floors(short)
        if broken[1]:
            self.capped |= over
            self.any_capped = True
            self.cap(candidates)
        return bool(broken.any())

    def prices(self, budget: Price, worst: float) -> Prices:
        """Prices by the tree's rule, see `laminar.tree.Margins`; intervals where no floor forces a match."""
        at_cap = np.zeros(self.size, bool) if self.caps is None else self.counts >= self.caps
        at_floor = np.zeros(self.size, bool) if self.floors is None else self.counts <= self.floors
        lam = float(budget.value)
        theta = np.where(at_cap, np.maximum(self.refused, lam), lam)
        theta = np.where(at_floor, np.minimum(theta, self.last_forced), theta)
        if self.floors is None:
            lower = np.where(at_cap, np.maximum(self.refused - worst, 0.0), 0.0)
            line = Price(theta - lam, (lower, np.where(at_cap, self.last - lam, 0.0)))
            return _prices_of(self.block, budget, self.axis, line)
        unknown = np.full(self.size, np.nan)
        return _prices_of(self.block, Price(lam, (np.nan, np.nan)), self.axis, Price(theta - lam, (unknown, unknown)))

    def _cap_all(self, options: Options) -> None:
        """Cut every line at its cap."""
        assert self.caps is not None
        block, scores, wanted = self.block, self.block.scores, np.minimum(self.caps, self.most)
        if not block.layout.is_cut(self.axis):
            best = block.best(self.axis, wanted, self._hint(options))
            self.alive = best.flat
            self.last, self.refused = reals_at(scores, best.last, np.inf), reals_at(scores, best.refused, 0.0)
            return
        ids = self._expected(wanted + 1, options)
        if ids is None:
            ids = block.best(self.axis, wanted + 1).flat
        ids, lines = block.in_line_order(self.axis, ids)
        cuts = line_cuts(block.layout, self.axis, lines, block.numbers_at(ids), wanted)
        self.alive, self.last, self.refused = np.sort(ids[cuts.taken]), cuts.last, cuts.refused

    def _expected(self, wanted: Indices, options: Options) -> Indices | None:
        """Entries from just below the expected prices, of features; all the best of those that too few reach.

        None without expectations on any rank.
        """
        block, ranks = self.block, self.block.layout.ranks
        hint = self._hint(options) if self.axis == 1 else None
        if ranks.sum(np.array([hint is not None], np.int64))[0] < ranks.count:
            return None
        assert hint is not None
        ids = block.positive_from(hint)
        short = (_counts(block, self.axis, ids) < wanted) & (hint > block.lowest())
        few = np.flatnonzero(short)
        more, _ = block.best_of_lines(self.axis, few, np.where(short, wanted, 0))
        more = more[block.numbers_at(more) > 0]
        return union(ids, more)

    def _hint(self, options: Options) -> Any:
        """Entries a little below the expected prices of lines."""
        dense = self.block.scores.dense
        below = None if dense is None else just_below_prices(dense, self.axis, options.warm_start)
        return None if dense is None or below is None else dense.encoded(below)

    def _impose_floors(self, short: Mask) -> None:
        """Force the best entries of some lines, whatever they score."""
        assert self.floors is not None
        block, layout = self.block, self.block.layout
        floors = np.where(short, np.minimum(self.floors, self.most), 0)
        ids, lines = block.best_of_lines(self.axis, np.flatnonzero(short), floors)
        cuts = line_cuts(layout, self.axis, lines, block.numbers_at(ids), floors)
        self._refuse_shortage(np.flatnonzero(short & (cuts.counts < self.floors)), cuts.counts)
        self.floored |= short
        self.forced = union(self.forced, ids[cuts.taken])
        self.forced_total = int(layout.ranks.sum(np.array([self.forced.size]))[0])
        self.last_forced[short] = cuts.last[short]

    def _refuse_shortage(self, short: Indices, counts: Indices) -> None:
        """The error of the first line of all that cannot meet its floor, on every rank."""
        first = self.block.size_of_lines(self.axis)[1]
        parts = self.block.layout.ranks.gather(np.concatenate([first + short[:1], counts[short[:1]]]))
        worst = min((tuple(part.tolist()) for part in parts if part.size), default=None)
        if worst is not None:
            raise InfeasibleError(self.tree.too_few(*worst))


def _counts(block: RankBlock, axis: int, ids: Indices) -> Indices:
    """Matches of this rank's lines, those on other ranks too."""
    size, first = block.size_of_lines(axis)
    counts = np.bincount(block.scores.ends(ids)[axis], minlength=size)
    if not block.layout.is_cut(axis):
        return counts
    whole = np.zeros(block.layout.whole[axis], np.int64)
    whole[first : first + size] = counts
    return np.asarray(block.layout.ranks.sum(whole)[first : first + size])


def _prices_of(block: RankBlock, budget: Price, axis: int | None = None, line: Price | None = None) -> Prices:
    """The budget's price, that of the lines of one side, and none of all else."""
    sides = [no_price(size) for size in block.scores.shape]
    if axis is not None and line is not None:
        sides[axis] = line
    return Prices(budget, sides[0], sides[1], no_price(0), no_price(0))
