"""Pictures of problems and solutions, with matplotlib: `al.plot.matrix(problem, solution)` and the like.

Every function draws into ``ax``, or into a new figure, and returns the Axes. Needs the extra ``plot``.
"""

from allocation.plot.cells import matrix
from allocation.plot.curves import soft_to_exact, value_curve
from allocation.plot.limits import load, prices

__all__ = ["load", "matrix", "prices", "soft_to_exact", "value_curve"]
