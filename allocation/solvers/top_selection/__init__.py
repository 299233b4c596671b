"""Limits on one side, by a search for the price of every group: the whole matrix, a row (token) or a column (feature).

1. *bracket*: a lower end below the price, from a sample (`whole`) or from maxima of groups (`lines`);
2. *compact*: one pass keeps the entries that reach it, the survivors (`whole.compact` and the functions of `lines`);
3. *finish*: the choice itself, exactly the best few of each group among the survivors (`ranking.finish`);
4. *check*: a group with too few survivors, or too many, gets a better bracket (`whole`, `lines`).

Where a large share of all entries is taken, positions would be larger than the scores: `thresholds` finds the price of
every group and answers with one bit an entry.

`solver` is `TopSelection`: it calls `whole` or `lines`, then takes the budget among what the caps left, and makes the
prices. `stream` selects from blocks of rows that come one by one; `survivors` holds what may still be in the answer.

On a GPU these steps are kernels of `allocation.cuda`. `fixed` is for a GPU only: `select_fixed` calls the kernels
without a problem or a solver.
"""

from allocation.solvers.top_selection.solver import TopSelection

__all__ = ["TopSelection"]
