"""Assignment: at most one match a token and a feature, solved by SciPy, proved by prices found afterwards.

Three ways to the matching, the cheapest first: among few edges near reduced prices, in the order of sums, on the whole
matrix. Each ends in prices for its matching; edges that beat them join the few, until a pass over all finds none.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, union
from allocation.problem import Problem, checked_problem
from allocation.scores import EdgeScores
from allocation.solution import Solution
from allocation.solvers.assignment.candidates import near_edges
from allocation.solvers.assignment.compiled_matching import best_matching
from allocation.solvers.assignment.duals import EPS, FINAL_UNITS, Duals, Search, matched_of
from allocation.solvers.assignment.lines import lines_of
from allocation.solvers.assignment.matching import floors_of, in_order, leading_side, on_edges, on_matrix
from allocation.solvers.base import Options
from allocation.solvers.two_sided.circulation import network_of
from allocation.solvers.two_sided.compiled_flow import is_installed
from allocation.solvers.two_sided.pricing import AllEdges, all_edges
from allocation.solvers.two_sided.sensitivity import Optimum
from allocation.solvers.two_sided.solver import TwoSided, _prices
from allocation.solvers.work_limit import WorkLimit

# Sums of integers along a path stay below this, so that float64 holds them.
LARGEST_SUM = 2.0**50
# SciPy's solvers cannot be stopped: with a limit of time they get what they finish at once, in entries times lines.
AT_ONCE = 10**8
# Matchings tried: each from the prices of the one before, where rounding made that one miss the best by a little.
MOST_ROUNDS = 3
# Passes over all edges for one matching; how many edges each may add, for each line.
MOST_PASSES = 60
MOST_JOINING = 4


@dataclass(frozen=True)
class Assignment:
    """The best matching, by SciPy's compiled solvers.

    ::

        maximise sum_ij S_ij A_ij   subject to   floors <= sum_j A_ij <= 1,   floors <= sum_i A_ij <= 1

    SciPy finds the matching (`min_weight_full_bipartite_matching` on candidate edges and on those of a matrix that
    probably matter, `linear_sum_assignment` on matrices with structure), policy iteration finds prices, and a pass over
    all edges proves them. Where rounding hides them, where there is no matching, or where `max_seconds` could not be
    kept, `TwoSided` solves the problem, and `stats` says so.

    Deterministic; which of several optimal allocations is returned may change between versions.

    Parameters
    ----------
    compiled : bool, default False
        Use OR-tools (extra ``flow``), where it is installed, for the matching of all tokens with all features on few
        edges: it is faster where scores have a structure.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.balanced_choice([[3.0, 1.0], [2.5, 0.0]], token_caps=1, feature_caps=1)
    >>> al.solve(problem, al.Assignment()).mask().astype(int)
    array([[0, 1],
           [1, 0]])
    """

    compiled: bool = False

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
        checked_problem(problem)
        started = time.perf_counter()
        problem = problem.on_host()
        found = _found(problem, options, self.compiled)
        if isinstance(found, str):
            solution = TwoSided(self.compiled).solve(problem, options)
            return dataclasses.replace(solution, stats={"solver": "TwoSided", "reason": found, **solution.stats})
        work_limit = WorkLimit(options.max_seconds, problem.matrix.n_edges + sum(problem.shape))
        network, edges = network_of(problem), all_edges(problem, options.workers, work_limit)
        prices = np.concatenate([found.duals.tokens, found.duals.features, np.zeros(1)])
        ids = found.ids
        answer = (found.tokens, found.features, problem.matrix.values_at(ids))
        stats = {"passes": found.passes, "seconds": time.perf_counter() - started, **found.used}
        optimum = Optimum(edges, network, prices, ids, found.near, options.max_seconds)
        return Solution.optimal(problem, answer, _prices(problem, optimum), stats)


@dataclass(frozen=True, eq=False)
class _Found:
    """Ends and ids of the matches, the prices that prove them, edges near these, and passes over all edges."""

    tokens: Indices
    features: Indices
    ids: Indices
    duals: Duals
    near: Indices
    passes: int
    used: dict[str, str]


def _found(problem: Problem, options: Options, compiled: bool) -> _Found | str:
    """The best assignment, or why `TwoSided` has to find it."""
    matrix = problem.matrix
    if matrix.n_edges == 0 or min(problem.shape) == 0:
        return "nothing to assign"
    if options.max_seconds is not None and matrix.n_edges * min(problem.shape) > AT_ONCE:
        return "an assignment by SciPy cannot be stopped, a search with max_seconds can"
    if matrix.is_integer and max(problem.shape) * _largest(problem) > LARGEST_SUM:
        return "integers whose sums float64 does not hold"
    return _Assigning(problem, options, compiled).run()


class _Assigning:
    """One solve: edges that may matter, which grow by those that beat their prices."""

    def __init__(self, problem: Problem, options: Options, compiled: bool) -> None:
        self.problem, self.matrix, self.floors = problem, problem.matrix, floors_of(problem)
        self.edges = AllEdges(problem, options.workers)
        self.complete = bool(self.floors.tokens.all() and self.floors.features.all())
        self.compiled = compiled and self.complete and is_installed()
        self.near, self.start = np.empty(0, np.int64), np.zeros(problem.shape[0])
        self.passes = 0
        self.used: dict[str, str] = {}

    def run(self) -> _Found | str:
        """The best assignment by the cheapest way that leads to it; or why `TwoSided` has to find it."""
        found = self._among_few(structured=False) or self._in_order()
        if found is None and self.compiled and self.matrix.dense is not None:
            found = self._among_few(structured=True)
        return found or self._on_the_whole()

    def _among_few(self, structured: bool) -> _Found | None:
        """The best assignment among the edges near, which gain those that beat its prices; None if that fails."""
        few, near, self.start = near_edges(self.problem, self.edges.workers, structured)
        self.near = union(self.near, near)
        if self.matrix.dense is None:
            few = self.compiled
        before = -1
        while few and self.near.size > before:
            before = self.near.size
            tokens, features, scores = self.matrix.matches(self.near)
            edges = EdgeScores(tokens, features, scores, self.problem.shape, scores.dtype.name)
            pairs = self._compiled(edges) or on_edges(edges, self.floors)
            found = None if pairs is None else self._priced(*pairs)[1]
            if found is not None or pairs is None:
                return found
        return None

    def _compiled(self, edges: EdgeScores) -> tuple[Indices, Indices] | None:
        """Ends of the best matches among some edges by OR-tools; None where it is not there, or does not fit."""
        features = best_matching(lines_of(edges, edges.allowed()), edges.is_integer) if self.compiled else None
        if features is None:
            return None
        self.used = {"compiled": "OR-tools"}
        return np.arange(features.size), features

    def _on_the_whole(self) -> _Found | str:
        """The best assignment by SciPy from all edges; or why `TwoSided` has to find it."""
        prices, dense = None, self.matrix.dense
        for _ in range(MOST_ROUNDS):
            pairs = on_edges(self.matrix, self.floors) if dense is None else on_matrix(dense, self.floors, prices)
            if pairs is None:
                return "no assignment meets the floors, and the search names those that contradict each other"
            search, found = self._priced(*pairs)
            if found is not None:
                return found
            if dense is None or self.matrix.is_integer:
                break
            prices = search.nearly()
        return "rounding hides the prices of the assignment found"

    def _in_order(self) -> _Found | None:
        """The assignment of tokens and features in the order of their sums, if that is the best one."""
        dense = self.matrix.dense
        if dense is None or not self.complete:
            return None
        pairs_and_band = in_order(dense)
        if pairs_and_band is None:
            return None
        pairs, band = pairs_and_band
        others, self.near = self.near, band
        found = self._priced(*pairs)[1]
        if found is None:
            self.near = others
        return found

    def _priced(self, tokens: Indices, features: Indices) -> tuple[Search, _Found | None]:
        """These matches and the prices that prove them; None if there are none. Edges that beat prices join those near.

        Also the search, which knows nearly right prices where there are none.
        """
        ids = self.matrix.find(tokens, features)
        if self.near.size < self.matrix.n_edges:
            self.near = union(self.near, ids)
        scores = self.matrix.values_at(ids).astype(np.float64)
        matched = matched_of(self.problem.shape, tokens, features, scores)
        search = Search(matched, self.floors, self.matrix.is_integer, self.start)
        for _ in range(MOST_PASSES):
            duals = search.run(lines_of(self.matrix, self.near))
            if duals is None:
                break
            more = self._exceeding(duals)
            if not more.size:
                return search, _Found(tokens, features, ids, duals, self.near, self.passes, self.used)
            self.near = union(self.near, more)
        return search, None

    def _exceeding(self, duals: Duals) -> Indices:
        """Ids of edges that beat these prices by more than rounding; not all, where they are many."""
        if self.near.size == self.matrix.n_edges:
            return np.empty(0, np.int64)
        self.passes += 1
        most = MOST_JOINING * sum(self.problem.shape)
        ids = self.edges.above(duals.tokens, duals.features, most=most)
        lines = lines_of(self.matrix, ids)
        rounding = 0.0 if self.matrix.is_integer else FINAL_UNITS * EPS
        return ids[lines.exceeding(duals.tokens, duals.features, rounding)]


def _largest(problem: Problem) -> float:
    numbers = problem.matrix.numbers
    return max(abs(float(numbers.max(initial=0))), abs(float(numbers.min(initial=0))))
