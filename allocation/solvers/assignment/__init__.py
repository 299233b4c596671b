"""Assignments: at most one match a token and a feature, by SciPy's compiled solvers, with prices that prove them."""

from allocation.solvers.assignment.solver import Assignment

__all__ = ["Assignment"]
