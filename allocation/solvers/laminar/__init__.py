"""Nested limits on one side, by one pass over their tree."""

from allocation.solvers.laminar.solver import Laminar

__all__ = ["Laminar"]
