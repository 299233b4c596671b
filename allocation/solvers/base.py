"""What every solver is: a small frozen object that refuses a problem with a reason, or solves it exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from allocation.errors import warn_caller
from allocation.problem import Problem
from allocation.solution import Prices, Solution


@dataclass(frozen=True)
class Options:
    """What `solve` passes on: where to start, how many threads, how long.

    Attributes
    ----------
    warm_start : Prices, optional
        Prices of a similar problem.
    workers : int, optional
        Threads; all available cores by default.
    max_seconds : float, optional
        Bound for solvers that iterate.

    Examples
    --------
    >>> import allocation as al
    >>> al.TopSelection().solve(al.mutual_choice([[2.0, 1.0]], budget=1), al.Options(workers=1)).features
    array([0])
    """

    warm_start: Prices | None = None
    workers: int | None = None
    max_seconds: float | None = None


class Solver(Protocol):
    """The interface of a solver: a small frozen object.

    Solvers that subclass it inherit `localise`; those that only have the two other methods get the same treatment.

    Examples
    --------
    >>> import allocation as al
    >>> class Reversed(al.Solver):
    ...     def refusal(self, problem):
    ...         return "Reversed solves nothing yet"
    >>> al.solve(al.mutual_choice([[2.0, 1.0]], budget=1), Reversed(), throw=False).status.name
    'UNSUPPORTED'
    """

    def refusal(self, problem: Problem) -> str | None:
        """Why this solver does not solve `problem`, or None if it does."""

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum of `problem`, which must not be refused; raises `InfeasibleError` or `NotCertifiedError`."""

    def localise(self, problem: Problem) -> Problem:
        """The same problem where this solver works: by default in main memory, which costs a copy and a warning."""
        return in_main_memory(self, problem)


def in_main_memory(solver: Solver, problem: Problem) -> Problem:
    """The problem with its scores in main memory; says so where that takes a copy from a device."""
    near = problem.on_host()
    if near is not problem:
        name = type(solver).__name__
        warn_caller(f"{name} works in main memory: the scores are copied there from the device")
    return near


def localised(solver: Solver, problem: Problem) -> Problem:
    """The problem where `solver` works, whether or not it says where that is."""
    localise = getattr(solver, "localise", None)
    return in_main_memory(solver, problem) if localise is None else localise(problem)
