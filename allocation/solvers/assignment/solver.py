"""Assignment: at most one match a token and a feature, solved by SciPy, proved by prices found afterwards."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, union
from allocation.problem import Problem
from allocation.solution import Solution
from allocation.solvers.assignment.duals import Duals, Search, matched_of
from allocation.solvers.assignment.lines import lines_of
from allocation.solvers.assignment.matching import Floors, floors_of, leading_side, on_edges, on_matrix
from allocation.solvers.base import Options
from allocation.solvers.two_sided.circulation import network_of
from allocation.solvers.two_sided.pricing import all_edges
from allocation.solvers.two_sided.sensitivity import Optimum
from allocation.solvers.two_sided.solver import TwoSided, _prices
from allocation.solvers.work_limit import WorkLimit

# Sums of integers along a path stay below this, so that float64 holds them.
LARGEST_SUM = 2.0**50
# SciPy's solvers cannot be stopped: with a limit of time they get what they finish at once, in entries times lines.
AT_ONCE = 10**8
# Matchings tried: each from the prices of the one before, where rounding made that one miss the best by a little.
MOST_ROUNDS = 3


@dataclass(frozen=True)
class Assignment:
    """The best matching, by SciPy's compiled solvers.

    ::

        maximise sum_ij S_ij A_ij   subject to   floors <= sum_j A_ij <= 1,   floors <= sum_i A_ij <= 1

    SciPy finds the matching (`linear_sum_assignment` on a matrix, `min_weight_full_bipartite_matching` on candidate
    edges), policy iteration over all edges finds prices that prove it. Where rounding hides them, where there is no
    matching, or where `max_seconds` could not be kept, `TwoSided` solves the problem, and `stats` says so.

    Deterministic; which of several optimal allocations is returned may change between versions.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.balanced_choice([[3.0, 1.0], [2.5, 0.0]], token_caps=1, feature_caps=1)
    >>> al.solve(problem, al.Assignment()).mask().astype(int)
    array([[0, 1],
           [1, 0]])
    """

    def refusal(self, problem: Problem) -> str | None:
        """Why not, where any cap is not 1, or other limits bind."""
        if problem.token_groups or problem.feature_groups:
            return "Assignment takes no groups"
        if problem.budget is not None and problem.budget < min(problem.shape):
            return "Assignment takes no budget below the number of matches that the caps allow"
        for name in ("token", "feature"):
            caps, floors = getattr(problem, f"{name}_caps"), getattr(problem, f"{name}_floors")
            if caps is None or not (caps == 1).all():
                return f"Assignment takes {name}_caps of 1 only"
            if floors is not None and floors.max(initial=0) > 1:
                return f"Assignment takes {name}_floors of 0 and 1 only"
        if problem.matrix.dense is None and leading_side(problem.shape, floors_of(problem)) is None:
            return "Assignment on candidate edges takes floors on one side only, or on all tokens and features"
        return None

    def localise(self, problem: Problem) -> Problem:
        """In main memory, where SciPy works."""
        return TwoSided().localise(problem) if problem.matrix.on_device else problem

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum, proved; `InfeasibleError` where there is none."""
        started = time.perf_counter()
        problem = problem.on_host()
        found = _found(problem, options)
        if isinstance(found, str):
            solution = TwoSided().solve(problem, options)
            return dataclasses.replace(solution, stats={"solver": "TwoSided", "reason": found, **solution.stats})
        tokens, features, duals = found
        work_limit = WorkLimit(options.max_seconds, problem.matrix.n_edges + sum(problem.shape))
        network, edges = network_of(problem), all_edges(problem, options.workers, work_limit)
        prices = np.concatenate([duals.tokens, duals.features, np.zeros(1)])
        ids = problem.matrix.find(tokens, features)
        nearest = problem.matrix.find(np.arange(problem.shape[0]), duals.nearest)
        near = union(ids, nearest[nearest >= 0])
        answer = (tokens, features, problem.matrix.values_at(ids))
        stats = {"sweeps": duals.sweeps, "seconds": time.perf_counter() - started}
        optimum = Optimum(edges, network, prices, ids, near, options.max_seconds)
        return Solution.optimal(problem, answer, _prices(problem, optimum), stats)


def _found(problem: Problem, options: Options) -> tuple[Indices, Indices, Duals] | str:
    """Ends of the matches and their prices, or why `TwoSided` has to do it."""
    matrix, floors = problem.matrix, floors_of(problem)
    if matrix.n_edges == 0 or min(problem.shape) == 0:
        return "nothing to assign"
    if options.max_seconds is not None and matrix.n_edges * min(problem.shape) > AT_ONCE:
        return "an assignment by SciPy cannot be stopped, a search with max_seconds can"
    if matrix.is_integer and max(problem.shape) * _largest(problem) > LARGEST_SUM:
        return "integers whose sums float64 does not hold"
    prices = None
    for _ in range(MOST_ROUNDS):
        pairs = on_edges(matrix, floors) if matrix.dense is None else on_matrix(matrix.dense, floors, prices)
        if pairs is None:
            return "no assignment meets the floors, and the search names those that contradict each other"
        search = _search(problem, *pairs, floors, options)
        duals = search.run()
        if duals is not None:
            return *pairs, duals
        if matrix.dense is None or matrix.is_integer:
            break
        prices = search.nearly()
    return "rounding hides the prices of the assignment found"


def _search(problem: Problem, tokens: Indices, features: Indices, floors: Floors, options: Options) -> Search:
    """The search for prices that prove these matches."""
    values = problem.matrix.values_at(problem.matrix.find(tokens, features)).astype(np.float64)
    matched = matched_of(problem.shape, tokens, features, values)
    return Search(lines_of(problem, options.workers), matched, floors, problem.matrix.is_integer)


def _largest(problem: Problem) -> float:
    numbers = problem.matrix.numbers
    return max(abs(float(numbers.max(initial=0))), abs(float(numbers.min(initial=0))))
