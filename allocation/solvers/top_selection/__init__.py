"""Limits on one side, by a search for the price of every group."""

from allocation.solvers.top_selection.solver import TopSelection

__all__ = ["TopSelection"]
