"""What every solver is: a small frozen object that refuses a problem with a reason, or solves it exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from allocation.problem import Problem
from allocation.solution import Prices, Solution


@dataclass(frozen=True)
class Options:
    """What `solve` passes on: where to start, how many threads, how long."""

    warm_start: Prices | None = None
    workers: int | None = None
    max_seconds: float | None = None


class Solver(Protocol):
    """The interface of a solver."""

    def refusal(self, problem: Problem) -> str | None:
        """Why this solver does not solve `problem`, or None if it does."""

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum of `problem`, which must not be refused; raises `InfeasibleError` or `NotCertifiedError`."""
