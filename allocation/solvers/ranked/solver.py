"""The answer of one process, from the blocks of several: every rank calls it and gets its part of the answer."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from allocation.arrays import Array
from allocation.errors import UnsupportedProblemError
from allocation.exact_sums import exact_terms
from allocation.problem import Problem
from allocation.ranks import Ranks
from allocation.scores import EdgeScores
from allocation.solution import Solution
from allocation.solvers.base import Options, Solver
from allocation.solvers.laminar import Laminar
from allocation.solvers.ranked.exchange import solve_by_exchange
from allocation.solvers.ranked.layout import agreed
from allocation.solvers.ranked.one_sided import solve_one_side
from allocation.solvers.top_selection import TopSelection


def solve_on_ranks(problem: Problem, solver: Solver, options: Options, ranks: Ranks) -> Solution:
    """The optimum of the whole: matches and prices of this rank's block; an error of one rank is raised on all."""
    started = time.perf_counter()
    start = options.warm_start
    layout, problem = agreed(problem, repr((solver, start is None or start.budget.value)), ranks)
    whole = Problem(_no_edges(layout.whole, problem.matrix.type), **problem.limits)
    reason = solver.refusal(whole)
    if reason is not None:
        raise UnsupportedProblemError(f"{reason}; use solver=al.Auto()")
    grouped = problem.token_groups or problem.feature_groups
    by_parts = [one for one in (TopSelection(), Laminar()) if one.refusal(whole) is None and not grouped]
    chosen = solver.choose(whole)[0] if hasattr(solver, "choose") else solver
    if by_parts and isinstance(chosen, (TopSelection, Laminar)):
        solution = solve_one_side(problem, whole, layout, options)
        name = type(chosen).__name__
    else:
        solution = solve_by_exchange(problem, whole, layout, solver, options)
        name = str(solution.stats["solver"])
    values = np.concatenate(ranks.gather(np.array(exact_terms(solution.values), np.float64)))
    stats = {
        **solution.stats,
        "solver": name,
        "reason": f"on {ranks.count} rank(s)",
        "seconds": time.perf_counter() - started,
    }
    return dataclasses.replace(solution, stats=stats, _objective=math.fsum(values))


def _no_edges(shape: tuple[int, int], kind: str) -> EdgeScores:
    """Scores without an edge, to hold limits."""
    none = np.empty(0, np.int64)
    values: Array = np.empty(0, np.float32 if kind == "bfloat16" else kind)
    return EdgeScores(none, none, values, shape, kind)
