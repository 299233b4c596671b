"""The soft twin of the exact problem: shares between 0 and 1, prices, and a derivative."""

from allocation.soft.solution import SoftSolution
from allocation.soft.solve import soft_solve

__all__ = ["SoftSolution", "soft_solve"]
