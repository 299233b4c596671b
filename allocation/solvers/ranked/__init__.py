"""Problems whose scores several processes hold: the answer of one process, bit for bit, and never the matrix.

1. `layout`: what every rank holds, agreed on by all; an error of one becomes the error of all.
2. `price_search`: the price of a budget, by counts and histograms alone. `line_cuts`: the price of every token or
   feature, whose entries may lie on several ranks, by the few best of each.
3. `one_sided` puts them together for a budget with caps and floors of one side.
4. `exchange`: every other problem, on edges that the ranks offer to each other until prices prove the rest.
"""

from allocation.solvers.ranked.solver import solve_on_ranks

__all__ = ["solve_on_ranks"]
