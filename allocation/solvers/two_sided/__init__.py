"""Limits on both sides, by prices on both: a minimum-cost flow on the few edges that matter."""

from allocation.solvers.two_sided.solver import TwoSided

__all__ = ["TwoSided"]
