"""Exact allocation under nested limits on one side: floors and caps of tokens, of groups of tokens, and a total."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Indices, Reals
from allocation.errors import InfeasibleError, NotCertifiedError
from allocation.problem import Problem, checked_problem
from allocation.solution import Price, Prices, Real, Solution, no_price
from allocation.solvers.base import Options, in_main_memory
from allocation.solvers.laminar.candidates import Offers
from allocation.solvers.laminar.device_candidates import candidates
from allocation.solvers.laminar.ranking import best
from allocation.solvers.laminar.tree import ShortageError, Tree, laminar_tree, margins
from allocation.solvers.top_selection.solver import HINT_SLACK, prices_to_exceed
from allocation.solvers.work_limit import SpentError, WorkLimit

# Prices that a floor made lower are those of few matches, and jump from batch to batch: they are lowered by this share.
FLOOR_SLACK = 0.15


@dataclass(frozen=True)
class Laminar:
    """Nested limits with floors on one side, and a budget: one pass over a tree of candidates.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= budget,
                 floor_g <= sum over g <= cap_g   for single tokens and nested groups of tokens (or all of features)

    A laminar family of caps is a laminar matroid; with floors, the pass from the leaves upwards keeps what floors force
    and the best of the rest (`tree.take`). It runs on what lies above a price per line (`candidates.Offers`); the
    prices it returns prove that no other match can enter, or name the lines that must offer more.

    Ties go to the larger score, then the smaller token, then the smaller feature.

    Source: Edmonds 1970, *Submodular functions, matroids, and certain polyhedra*; Murota 2003, *Discrete convex
    analysis*, for why single exchanges are enough.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.Problem([[5, 4], [3, -1], [-2, -3]], budget=3, token_caps=2, token_floors=[0, 0, 1])
    >>> al.solve(problem, al.Laminar()).mask().astype(int)
    array([[1, 1],
           [0, 0],
           [1, 0]])
    """

    def refusal(self, problem: Problem) -> str | None:
        """Why this solver does not solve `problem`, or None if it does."""
        if all(limited_sides(problem)):
            return "Laminar takes limits on tokens or on features, not on both"
        return None

    def localise(self, problem: Problem) -> Problem:
        """The candidate edges of a matrix on a device; in main memory, with a warning, where they would be too many."""
        if not problem.matrix.on_device:
            return problem
        return candidates(problem) or in_main_memory(self, problem)

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum of `problem`, which must not be refused; `NotCertifiedError` when time ran out."""
        checked_problem(problem)
        try:
            return self._optimum(problem, options, WorkLimit(options.max_seconds))
        except SpentError:
            raise NotCertifiedError(
                f"stopped after {options.max_seconds} seconds without an answer; allow more with max_seconds="
            ) from None

    def _optimum(self, problem: Problem, options: Options, work_limit: WorkLimit) -> Solution:
        started = time.perf_counter()
        axis = 1 if limited_sides(problem)[1] else 0
        tree = laminar_tree(problem, axis)
        offers = Offers(
            problem, axis, tree, options.workers, work_limit, _just_below(problem, axis, options.warm_start)
        )
        while True:
            work_limit.check()
            offered, lines, scores = offers.everything()
            try:
                taken, worth = best(tree, lines, scores, work_limit)
            except ShortageError as shortage:
                if not offers.widen(tree.leaves_below(shortage.nodes)):
                    raise InfeasibleError(str(shortage)) from None
                continue
            if offers.priced(worth.thresholds[: tree.leaves], tree.under_floors_of(lines[taken & (scores == 0)])):
                break
        flat = offered.compress(taken)

        def exact() -> tuple[Reals, Reals]:
            refused = _best_refused(problem, axis, flat, options.max_seconds)
            return margins(tree, lines, scores.astype(np.float64), taken, refused).intervals()

        prices = _prices(problem, tree, axis, worth.prices, exact)
        stats = {"passes": offers.passes, "seconds": time.perf_counter() - started}
        return Solution.optimal(problem, problem.matrix.matches(flat), prices, stats)


def _just_below(problem: Problem, axis: int, warm_start: Prices | None) -> Reals | None:
    """A little less than an entry of every line had to exceed; not for lines in groups, which have prices too."""
    if (problem.token_groups, problem.feature_groups)[axis]:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        expected = prices_to_exceed(problem.shape, axis, warm_start)
        if warm_start is None or expected is None:
            return None
        lowered = expected < warm_start.budget.value
        return np.asarray((1 - np.where(lowered, FLOOR_SLACK, HINT_SLACK[None])) * expected)


def limited_sides(problem: Problem) -> tuple[bool, bool]:
    """Whether there are limits on tokens, and on features, beside the budget."""
    tokens = (problem.token_caps, problem.token_floors, problem.token_groups or None)
    features = (problem.feature_caps, problem.feature_floors, problem.feature_groups or None)
    return any(limit is not None for limit in tokens), any(limit is not None for limit in features)


def _best_refused(problem: Problem, axis: int, flat: Indices, seconds: float | None) -> Reals:
    """The largest score of every line that was not taken: one dense pass, for the intervals alone."""
    best = np.full(problem.shape[axis], -np.inf)
    work_limit = WorkLimit(seconds)
    for block in problem.matrix.blocks(without=flat):
        work_limit.check_intervals()
        block.raise_best(best, axis)
    return best


def _prices(problem: Problem, tree: Tree, axis: int, values: Reals, exact: Any) -> Prices:
    """Prices of leaves, groups and root under their names; intervals on first access, all at once."""
    cache: list[tuple[Reals, Reals]] = []

    def part(nodes: slice | int) -> Price:
        def bounds() -> tuple[Real, Real]:
            if not cache:
                cache.append(exact())
            lower, upper = cache[0]
            return (
                (lower[nodes], upper[nodes]) if isinstance(nodes, slice) else (float(lower[nodes]), float(upper[nodes]))
            )

        return Price(values[nodes] if isinstance(nodes, slice) else float(values[nodes]), bounds)

    leaves, root = tree.leaves, tree.root
    sides = [(no_price(size), no_price(0)) for size in problem.shape]
    sides[axis] = (part(slice(0, leaves)), part(slice(leaves, root)))
    budget = no_price() if problem.budget is None else part(root)
    return Prices(budget, sides[0][0], sides[1][0], sides[0][1], sides[1][1])
