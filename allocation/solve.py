"""One verb: `solve(problem)`. `Auto` says which solver it picks, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arguments import count_of, number_of, shown
from allocation.errors import InfeasibleError, InvalidProblemError, NotCertifiedError, UnsupportedProblemError
from allocation.problem import Problem, checked_problem
from allocation.ranks import Ranks, checked_ranks
from allocation.rough import Rough
from allocation.solution import Prices, Solution, Status, checked_prices
from allocation.solvers import Assignment, Laminar, Options, Solver, TopSelection, TwoSided
from allocation.solvers.base import localised
from allocation.solvers.narrowing import narrowed
from allocation.solvers.ranked import solve_on_ranks
from allocation.solvers.two_sided.compiled_flow import is_installed


@dataclass(frozen=True)
class Auto:
    """The fastest exact solver for a problem.

    ::

        maximise sum_ij S_ij A_ij   subject to the limits of the problem

    The first row that fits decides:

    ======================================================= ================
    limits beside the budget                                solver
    ======================================================= ================
    none, caps on the tokens, or caps on the features       `TopSelection`
    caps, floors and nested groups, of one side             `Laminar`
    one match a token and a feature, budget slack           `Assignment`
    of both sides                                           `TwoSided`
    ======================================================= ================

    Parameters
    ----------
    compiled : bool, default True
        Let `Assignment` and `TwoSided` use OR-tools where it is installed (extra ``flow``). The answer is as optimal
        without; which of several optimal prices or allocations is returned may differ.

    Examples
    --------
    >>> import allocation as al
    >>> al.Auto().explain(al.token_choice([[1.0, 2.0]], k=1))
    'TopSelection: limits on one side are met by taking the best of every group'
    >>> al.Auto(compiled=False).explain(al.balanced_choice([[1.0, 2.0]], token_caps=1, feature_caps=1))
    'Assignment: one match a token and a feature is an assignment problem'
    """

    compiled: bool = True

    def choose(self, problem: Problem) -> tuple[Solver, str]:
        """The solver for `problem` and the reason."""
        refusal = TopSelection().refusal(checked_problem(problem))
        if refusal is None:
            return TopSelection(), "limits on one side are met by taking the best of every group"
        if Laminar().refusal(problem) is None:
            return Laminar(), f"{refusal}; nested limits on one side are one pass over their tree"
        by_ortools = self.compiled and is_installed()
        if not problem.matrix.on_device and Assignment().refusal(problem) is None:
            reason = "one match a token and a feature is an assignment problem"
            return Assignment(by_ortools), f"{reason}, by OR-tools where it is hard" if by_ortools else reason
        reason = f"limits on both sides, here {_limited_by(problem)}, need prices on both"
        if by_ortools:
            return TwoSided(compiled=True), f"{reason}, by OR-tools where they are hard"
        return TwoSided(), reason

    def explain(self, problem: Problem) -> str:
        """Which solver is chosen, and why, in one line."""
        solver, reason = self.choose(problem)
        return f"{type(solver).__name__}: {reason}"

    def refusal(self, problem: Problem) -> str | None:
        """None: some solver fits every problem."""
        return None

    def localise(self, problem: Problem) -> Problem:
        """The problem where the chosen solver works."""
        return localised(self.choose(problem)[0], problem)

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum by the chosen solver; `stats` says which and why."""
        solver, reason = self.choose(problem)
        solution = solver.solve(problem, options)
        stats = {"solver": type(solver).__name__, "reason": reason, **solution.stats}
        return dataclasses.replace(solution, stats=stats)


def _limited_by(problem: Problem) -> str:
    """The limits of both sides by name, without the budget."""
    sides = []
    for side in ("token", "feature"):
        names = [f"{side}_{kind}" for kind in ("caps", "floors", "groups")]
        given = [name for name in names if isinstance(limit := getattr(problem, name), np.ndarray) or limit]
        sides.append(" with ".join(given))
    return " and ".join(sides)


def solve(
    problem: Problem,
    solver: Solver | None = None,
    throw: bool = True,
    warm_start: Prices | None = None,
    workers: int | None = None,
    max_seconds: float | None = None,
    ranks: Ranks | None = None,
) -> Solution:
    """The optimal allocation, with the prices that prove it.

    ::

        maximise sum_ij S_ij A_ij   subject to the limits of the problem

    With `ranks` an error of one rank is raised on all of them; one that is none of those below, such as a caller's own,
    comes on the others as a `RuntimeError` that names it.

    Parameters
    ----------
    problem : Problem
    solver : solver object, default Auto()
        ``TopSelection()``, ``Laminar()``, ``Assignment()``, ``TwoSided()`` or ``LinearProgram()``; `Auto` chooses the
        fastest exact one.
    throw : bool, default True
        With False a failed solve returns a `Solution` whose status says why and whose answer raises that error.
    warm_start : Prices, optional
        Prices of a similar problem, for instance the last batch. They change the time, never the answer.
    workers : int, optional
        Threads; all available cores by default.
    max_seconds : float, optional
        Bound for solvers that iterate, which is all but `TopSelection` with its two or so reads of the scores; and for
        the intervals of their prices, each time these are computed.
    ranks : Ranks, optional
        The processes that hold the parts of the problem, such as ``al.mpi_ranks(comm)``: each calls `solve` with its
        own part and the same limits and options.

    Returns
    -------
    Solution
        Equal scores go to the smaller token, then to the smaller feature, in one-sided problems. With `ranks` it holds
        the matches of this rank's part, in its own indices, and the prices of its tokens and features; `objective` is
        that of the whole. They are those of one process that holds the whole matrix, bit for bit; with limits on both
        sides value and certificate are, and the matching may be another optimum. Of prices with floors, groups or
        limits on both sides no intervals are computed: they are NaN.

    Raises
    ------
    InfeasibleError
        If floors and caps contradict each other; the message names them.
    UnsupportedProblemError
        If the solver does not handle these limits.
    NotCertifiedError
        If an iterating solver ran out of time.

    Examples
    --------
    >>> import allocation as al
    >>> solution = al.solve(al.mutual_choice([[4.0, 3.0, 1.0], [2.0, -1.0, 5.0]], budget=3))
    >>> solution.tokens, solution.features, solution.objective
    (array([0, 0, 1]), array([0, 1, 2]), 12.0)
    """
    solver = Auto() if solver is None else solver

    def checked() -> tuple[Problem, Solver, Options]:
        checked_problem(problem, with_ranks=ranks is not None)
        if isinstance(solver, type) or not (hasattr(solver, "refusal") and hasattr(solver, "solve")):
            raise InvalidProblemError(f"solver: expected a solver object such as al.Auto(), found {shown(solver)}")
        if not isinstance(throw, bool):
            raise InvalidProblemError(f"throw: expected True or False, found {shown(throw)}")
        return problem, solver, _options(warm_start, workers, max_seconds)

    try:
        if ranks is not None:
            return solve_on_ranks(checked, checked_ranks(ranks))
        options = checked()[2]
        reason = solver.refusal(problem)
        if reason is not None:
            raise UnsupportedProblemError(f"{reason}; use solver=al.Auto()" if not isinstance(solver, Auto) else reason)
        solution = _solved(problem, solver, options)
    except (InfeasibleError, UnsupportedProblemError, NotCertifiedError) as error:
        if throw:
            raise
        return Solution(problem.shape, _STATUS[type(error)], {"solver": type(solver).__name__}, error)
    stats: Mapping[str, Any] = {
        "solver": type(solver).__name__,
        "reason": "chosen by the caller",
        **solution.stats,
    }
    return dataclasses.replace(solution, stats=stats)


def _solved(problem: Problem, solver: Solver, options: Options) -> Solution:
    """The answer where the scores are; solvers that work in main memory get a copy of the scores, not in silence."""
    matrix = problem.matrix
    if isinstance(matrix, Rough):
        return narrowed(problem, solver, options)
    if not matrix.on_device:
        return solver.solve(problem, options)
    with matrix.scope():
        solution = solver.solve(localised(solver, problem), options)
        matches = matrix.returned((solution.tokens, solution.features, solution.values))
    return dataclasses.replace(solution, _matches=matches, _scope=matrix.scope)


_STATUS = {
    InfeasibleError: Status.INFEASIBLE,
    UnsupportedProblemError: Status.UNSUPPORTED,
    NotCertifiedError: Status.NOT_CERTIFIED,
}


def _options(warm_start: Any, workers: Any, max_seconds: Any) -> Options:
    """What every solver may rely on."""
    if warm_start is not None and not isinstance(warm_start, Prices):
        raise InvalidProblemError(f"warm_start: expected solution.prices, found {shown(warm_start)}")
    if warm_start is not None:
        warm_start = checked_prices(warm_start, "warm_start")
    if workers is not None and (workers := count_of(workers, "workers")) < 1:
        raise InvalidProblemError("workers: expected 1 or more threads, found 0")
    if max_seconds is not None and (max_seconds := number_of(max_seconds, "max_seconds")) < 0:
        raise InvalidProblemError(f"max_seconds: expected 0 or more, found {max_seconds}")
    return Options(warm_start, workers, max_seconds)
