"""Groups, and limits on both sides: any solver, on the few edges that the ranks offer to each other.

1. Each rank offers the best edges of its tokens and features, a small multiple of what the limits allow.
2. All gather them, and each solves the problem on these edges alone: the same bits, so the same answer, or an error.
3. Each rank looks for edges of its block that would do better at these prices. By linear programming duality the answer
   is that of the whole where no rank finds any; else they join, and step 2 follows.

Where floors cannot be met with the edges at hand, each line offers twice as many.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from allocation.agreement import together
from allocation.arrays import Array, Indices, Mask, Reals, among, union
from allocation.errors import InfeasibleError, NotCertifiedError
from allocation.problem import Problem
from allocation.scores import EdgeScores, Scores
from allocation.solution import Price, Prices, Solution
from allocation.solvers.base import Options, Solver
from allocation.solvers.laminar import Laminar
from allocation.solvers.laminar.solver import limited_sides
from allocation.solvers.laminar.tree import Tree, laminar_tree
from allocation.solvers.ranked.block import RankBlock
from allocation.solvers.ranked.layout import Layout

# Edges offered for each match that a line may hold, and a few more.
WIDE, EXTRA = 3, 8
# Edges that a rank adds in one round, for each line and match: the best of those it finds.
MOST = 4
# Rounding of a sum of a score and a few prices, relative to their sizes.
ROUNDING = 16 * float(np.finfo(np.float64).eps)


def solve_by_exchange(problem: Problem, whole: Problem, layout: Layout, solver: Solver, options: Options) -> Solution:
    """The optimum: this rank's matches and the prices of its block. `whole` has the limits and no edge."""
    block = RankBlock(problem.matrix, layout, options.workers)
    offers = _Offers(whole, block)
    known = _Known(layout, problem.matrix)
    start = None if options.warm_start is None else whole_prices(whole, layout, options.warm_start)
    rounds = 0
    known.add(offers.best())
    if start is not None:
        known.add(offers.above(start, known))
    while True:
        rounds += 1
        edges, near = whole.with_scores(known.edges()), dataclasses.replace(options, warm_start=start)
        try:
            solution = together(layout.ranks, functools.partial(solver.solve, edges, near))
        except InfeasibleError:
            if not offers.widen(known):
                raise
            continue
        _refuse_different_answers(layout, solution)
        start = solution.prices.without_intervals()
        if not known.add(offers.above(start, known, _zeros_of(whole, solution))):
            return _own(problem, layout, solution, rounds)


class _Known:
    """The edges that all ranks know, by their ids in the whole matrix."""

    def __init__(self, layout: Layout, scores: Scores) -> None:
        self.layout, self.scores = layout, scores
        self.ids = np.empty(0, np.int64)
        self.values: Array = scores.values_at(np.empty(0, np.int64))

    def whole_ids(self, ids: Indices) -> Indices:
        """Ids in the whole matrix of entries of this rank's block."""
        tokens, features = self.scores.ends(ids)
        first = self.layout.first
        return np.asarray((tokens + first[0]) * self.layout.whole[1] + features + first[1])

    def add(self, ids: Indices) -> bool:
        """What the ranks offer, each from its block; False if there is nothing new."""
        new = ids[~among(self.whole_ids(ids), self.ids)]
        whole = self.layout.ranks.gather(self.whole_ids(new))
        values = self.layout.ranks.gather(np.ascontiguousarray(self.scores.values_at(new)))
        both = np.concatenate([self.ids, *whole])
        if both.size == self.ids.size:
            return False
        order = np.argsort(both, kind="stable")
        self.ids, self.values = both[order], np.concatenate([self.values, *values])[order]
        return True

    def edges(self) -> EdgeScores:
        """They alone; every other pair is left out."""
        tokens, features = np.divmod(self.ids, max(self.layout.whole[1], 1))
        return EdgeScores(tokens, features, self.values, self.layout.whole, self.scores.type)


class _Offers:
    """The edges of one rank's block that may matter."""

    def __init__(self, whole: Problem, block: RankBlock) -> None:
        self.whole, self.block, self.scores = whole, block, block.scores
        self.has_floors = whole.has_floors
        self.one_sided = Laminar().refusal(whole) is None
        self.most = MOST * (sum(whole.shape) + _most_matches(whole))
        self.share = 1

    def widen(self, known: _Known) -> bool:
        """Offer more of every line until there is an edge that was not known; False if all are."""
        enough = max(self.whole.shape) * self.block.layout.ranks.count
        while EXTRA * self.share < enough:
            self.share *= 2
            if known.add(self.best()):
                return True
        return False

    def best(self) -> Indices:
        """Ids of the best edges of every line, a multiple of what it may hold."""
        parts = []
        for axis in (0, 1):
            ranks = self.block.of_lines(axis, self.share * (WIDE * _usual(self.whole, axis) + EXTRA))
            ranks = -(-ranks // self.block.layout.same_lines(axis).size)
            parts.append(self.block.best(axis, ranks).flat)
            if self.has_floors:
                lines = self.scores.ends(parts[-1])[axis]
                short = np.flatnonzero(np.bincount(lines, minlength=ranks.size) < ranks)
                parts.append(self.block.best_of_lines(axis, short, ranks)[0])
        return union(*parts)

    def above(self, prices: Prices, known: _Known, zeros: tuple[Mask, Mask] | None = None) -> Indices:
        """Ids of edges above these prices, or at them where the order of equals decides; the best of very many.

        Edges below 0 are at their prices where a floor forces them. `zeros` are the tokens and features of which an
        edge of score 0 counts as one at a price of 0.
        """
        rows, columns = (self.block.of_lines(axis, sums) for axis, sums in enumerate(price_sums(self.whole, prices)))
        ids, profits = [np.empty(0, np.int64)], [np.empty(0)]
        for part in self.scores.blocks(without=np.empty(0, np.int64)):
            spent = rows[part.tokens] + columns[part.features]
            profit = part.scores - spent
            room = ROUNDING * (np.abs(part.scores) + np.abs(rows[part.tokens]) + np.abs(columns[part.features]))
            found = profit > room
            if self.one_sided:
                found |= (profit >= -room) & (part.scores != 0) & (part.scores > -np.inf)
                if zeros is not None:
                    found |= (profit >= -room) & (part.scores == 0) & zeros[0][part.tokens] & zeros[1][part.features]
            if not self.has_floors:
                found &= part.scores > 0
            at = np.nonzero(found)
            tokens, features = (np.broadcast_to(end, profit.shape)[at] for end in (part.tokens, part.features))
            ids.append(self.scores.find(tokens, features))
            profits.append(profit[at])
        found_ids, gains = np.concatenate(ids), np.concatenate(profits)
        new = ~among(known.whole_ids(found_ids), known.ids)
        found_ids, gains = found_ids[new], gains[new]
        if found_ids.size > self.most:
            found_ids = np.sort(found_ids[np.argsort(-gains, kind="stable")[: self.most]])
        return found_ids


def _usual(whole: Problem, axis: int) -> Indices:
    """How many matches a token (axis 0) or feature (1) may have, or without a cap its share of all."""
    lines, length = whole.shape[axis], whole.shape[1 - axis]
    caps, floors = (whole.token_caps, whole.feature_caps)[axis], (whole.token_floors, whole.feature_floors)[axis]
    cap = np.full(lines, length) if caps is None else np.minimum(caps, length)
    floor = np.zeros(lines, np.int64) if floors is None else np.minimum(floors, length)
    return np.asarray(np.maximum(np.minimum(cap, -(-_most_matches(whole) // max(lines, 1))), floor))


def _most_matches(whole: Problem) -> int:
    """More than these no allocation has."""
    most = whole.shape[0] * whole.shape[1] if whole.budget is None else whole.budget
    for axis, caps in enumerate((whole.token_caps, whole.feature_caps)):
        if caps is not None:
            most = min(most, int(np.minimum(caps, whole.shape[1 - axis]).sum()))
    return most


def _zeros_of(whole: Problem, solution: Solution) -> tuple[Mask, Mask] | None:
    """Lines in which an edge of score 0 ties with a match of score 0 that a floor forces."""
    if Laminar().refusal(whole) is not None or not (solution.values == 0).any():
        return None
    axis = 1 if limited_sides(whole)[1] else 0
    tree: Tree = laminar_tree(whole, axis)
    lines = (solution.tokens, solution.features)[axis][solution.values == 0]
    sides = [np.ones(size, bool) for size in whole.shape]
    tied = np.zeros(tree.leaves, bool)
    tied[lines] = True
    sides[axis] = tied | tree.under_floors_of(lines)
    return sides[0], sides[1]


def price_sums(whole: Problem, prices: Prices) -> tuple[Reals, Reals]:
    """What a match pays to the budget and the limits of its token, and to those of its feature."""
    sides = []
    for size, first, line, groups, price in (
        (whole.shape[0], float(prices.budget.value), prices.tokens, whole.token_groups, prices.token_groups),
        (whole.shape[1], 0.0, prices.features, whole.feature_groups, prices.feature_groups),
    ):
        total = np.full(size, first) + line.value
        for group, value in zip(groups, np.atleast_1d(price.value), strict=True):
            total[group.members] += value
        sides.append(total)
    return sides[0], sides[1]


def whole_prices(whole: Problem, layout: Layout, prices: Prices) -> Prices | None:
    """The prices of all limits from those that every rank has of its block; None where one's do not fit."""
    vectors: dict[str, Reals] = {}
    for axis, name in enumerate(("tokens", "features")):
        vectors[name] = np.full(layout.whole[axis], np.nan)
        for rank, part in enumerate(layout.ranks.gather(_vector(getattr(prices, name)))):
            if part.size == layout.sizes[rank, axis]:
                first = int(layout.firsts[rank, axis])
                vectors[name][first : first + part.size] = part
    for name, size in (
        ("budget", 1),
        ("token_groups", len(whole.token_groups)),
        ("feature_groups", len(whole.feature_groups)),
    ):
        parts = layout.ranks.gather(_vector(getattr(prices, name)))  # the same on all, if they are of one problem
        vectors[name] = parts[0] if parts[0].size == size else np.full(size, np.nan)
    if not all(np.isfinite(vector).all() for vector in vectors.values()):
        return None
    return Prices(Price(float(vectors.pop("budget")[0])), **{name: Price(vector) for name, vector in vectors.items()})


def _refuse_different_answers(layout: Layout, solution: Solution) -> None:
    """Each rank keeps its part of the answer: parts of two optima would be none."""
    prices = [_vector(price) for price in vars(solution.prices).values()]
    digest = hashlib.blake2b(digest_size=8)
    for array in (solution.tokens, solution.features, *prices):
        digest.update(array.tobytes())
    every = np.concatenate(layout.ranks.gather(np.frombuffer(digest.digest(), np.int64)))
    other = np.flatnonzero(every != every[0])
    if other.size:
        raise NotCertifiedError(
            f"rank {other[0]} found another answer than rank 0 from the same edges: give all ranks the same packages, "
            "such as OR-tools or none, or solver=al.Auto(compiled=False)"
        )


def _vector(price: Price) -> Reals:
    return np.array(np.atleast_1d(np.asarray(price.value, np.float64)))


def _own(problem: Problem, layout: Layout, solution: Solution, rounds: int) -> Solution:
    """The part of the whole answer that is about this rank's block."""
    first, (rows, columns) = layout.first, problem.shape
    tokens, features = solution.tokens - first[0], solution.features - first[1]
    inside = (tokens >= 0) & (tokens < rows) & (features >= 0) & (features < columns)
    matches = (tokens[inside], features[inside], solution.values[inside])
    prices = solution.prices.without_intervals()
    own = dataclasses.replace(
        prices,
        tokens=_slice(prices.tokens, first[0], rows),
        features=_slice(prices.features, first[1], columns),
    )
    return Solution.optimal(problem, matches, own, {**solution.stats, "rounds": rounds})


def _slice(price: Price, first: int, size: int) -> Price:
    value = np.asarray(price.value)[first : first + size]
    return Price(value, (np.full(size, np.nan), np.full(size, np.nan)))
