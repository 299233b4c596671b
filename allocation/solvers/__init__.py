"""The solvers by name, a file or a folder each: small frozen objects passed to `allocation.solve`."""

from allocation.solvers.assignment import Assignment
from allocation.solvers.base import Options, Solver
from allocation.solvers.laminar import Laminar
from allocation.solvers.linear_program import LinearProgram
from allocation.solvers.top_selection import TopSelection
from allocation.solvers.two_sided import TwoSided

__all__ = ["Assignment", "Laminar", "LinearProgram", "Options", "Solver", "TopSelection", "TwoSided"]
