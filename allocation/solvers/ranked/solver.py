"""The answer of one process, from the blocks of several: every rank calls it and gets its part of the answer."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from allocation.agreement import no_edges
from allocation.errors import UnsupportedProblemError
from allocation.exact_sums import exact_terms
from allocation.problem import Problem
from allocation.ranks import Ranks
from allocation.solution import Solution
from allocation.solvers.base import Options, Solver
from allocation.solvers.laminar import Laminar
from allocation.solvers.ranked.exchange import solve_by_exchange
from allocation.solvers.ranked.layout import agreed
from allocation.solvers.ranked.one_sided import solve_one_side
from allocation.solvers.top_selection import TopSelection


def solve_on_ranks(checked: Callable[[], tuple[Problem, Solver, Options]], ranks: Ranks) -> Solution:
    """The optimum of the whole: matches and prices of this rank's block; an error of one rank is raised on all.

    `checked` returns the arguments, or raises what is wrong with those of this rank.
    """
    started = time.perf_counter()

    def described() -> tuple[Problem, dict[str, str], tuple[Solver, Options]]:
        problem, solver, options = checked()
        start = options.warm_start
        names = {"solver": _name_of(solver), "warm_start.budget": str(start is None or start.budget.value)}
        return problem, names, (solver, options)

    layout, problem, (solver, options) = agreed(ranks, described)
    whole = Problem(no_edges(layout.whole, problem.matrix.type), **problem.limits)
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
        name = str(solution.stats.get("solver", type(solver).__name__))
    values = np.concatenate(ranks.gather(np.array(exact_terms(solution.values), np.float64)))
    stats = {
        **solution.stats,
        "solver": name,
        "reason": f"on {ranks.count} rank(s)",
        "seconds": time.perf_counter() - started,
    }
    return dataclasses.replace(solution, stats=stats, _objective=math.fsum(values))


def _name_of(solver: Solver) -> str:
    """What tells solvers apart on every rank: their arguments, if they say them, but never where they are in memory."""
    kind = type(solver)
    own = "" if kind.__repr__ is object.__repr__ else repr(solver)
    return f"{kind.__module__}.{kind.__qualname__} {own}"
