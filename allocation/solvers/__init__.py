"""The solvers by name, a file or a folder each: small frozen objects passed to `allocation.solve`.

=============== ============================================================ ===========================================
solver          limits that it takes                                         how
=============== ============================================================ ===========================================
`TopSelection`  a budget, and caps on the tokens or on the features          a search for the price of every group
`Laminar`       a budget, and caps, floors and nested groups of one side     one pass over their tree
`TwoSided`      all, on both sides                                           a minimum-cost flow on few candidate edges
`LinearProgram` all, on both sides                                           SciPy; the reference for the others
=============== ============================================================ ===========================================

`allocation.Auto`, in `solve.py`, chooses between the first three. What they have in common is in `base`.
"""

from allocation.solvers.assignment import Assignment
from allocation.solvers.base import Options, Solver
from allocation.solvers.laminar import Laminar
from allocation.solvers.linear_program import LinearProgram
from allocation.solvers.top_selection import TopSelection
from allocation.solvers.two_sided import TwoSided

__all__ = ["Assignment", "Laminar", "LinearProgram", "Options", "Solver", "TopSelection", "TwoSided"]
