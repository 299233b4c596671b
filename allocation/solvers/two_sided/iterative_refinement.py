"""An optimal circulation where rounding decides: what scores miss of their prices is solved for again, grid by grid.

On a grid all sums of scores and potentials are exact, so that paths end in balance whatever ties. What the grid left
of each reduced profit is kept, and is the score of the next, finer grid: no digit is lost between the largest and the
smallest, however far apart they are. It ends once no edge is on the wrong side of its prices by more than rounding.

Source: iterative refinement, Gleixner, Steffy, Wolter 2016, *Iterative Refinement for Linear Programming*.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from allocation.arrays import Mask, Reals
from allocation.solvers.two_sided import compiled_flow
from allocation.solvers.two_sided.primal_dual import TIGHT, Balanced, ResidualNetwork
from allocation.solvers.work_limit import SpentError, WorkLimit

# From one grid to the next finer one; the third power after a grid that took few phases.
STEP = 64.0
QUICK = 3
# Reduced profits count up to so many units of a grid: larger ones no path can use up, and sums stay exact.
MOST_UNITS = 2.0**40
# Grids end above the numbers that have fewer digits.
LEAST = float(np.finfo(np.float64).tiny)


def refined(
    residual: ResidualNetwork, potentials: Reals, matched: Mask, near: bool, work_limit: WorkLimit,
    steadily: bool = False, compiled: bool = False,
) -> Balanced:  # fmt: skip
    """The optimal circulation, from any potentials; raises `BlockedError` or `SpentError`.

    From those `near` the optimal ones the grid starts as coarse as the longest way to go, else as the scores. It gets
    finer as fast as the misses allow, or `steadily`: a jump passes over scores that paths turn out to need. OR-tools
    solves grids that leave much out of balance, if `compiled`.
    """
    network, n_limits = residual.network, residual.network.tails.size
    tails, heads = residual.tails, residual.heads
    exact = copy.copy(residual)
    exact.tolerance = 0.0
    first, lost = exact_sum(potentials[heads], -potentials[tails])
    profits, more_lost = exact_sum(first, residual.profits)
    exact.profits = profits + (lost + more_lost)
    prices, low = first[:n_limits], lost[:n_limits]
    grid = float(np.abs(exact.profits).max(initial=0.0))
    if near:
        grid = exact.longest_way(np.zeros(network.n_nodes), matched)
    phases, step = 0, STEP
    start = potentials, matched
    while True:
        size = np.abs(potentials)
        slack = TIGHT * (np.abs(residual.profits) + size[heads] + size[tails])[n_limits:]
        fitting = exact.fitting(prices + low, matched)
        rows, columns = network.line_prices(prices + low - fitting)
        profit = exact.profits[n_limits:] + rows[tails[n_limits:]] + columns[heads[n_limits:] - network.shape[0]]
        miss = np.where(matched, -profit, profit)
        largest = float(miss[miss > slack].max(initial=0.0))
        finer = grid / STEP if steadily else min(grid / step, largest)
        grid = finer if phases else max(grid, largest)
        if (phases and largest == 0) or grid < LEAST:
            grid = 0.0
        if grid == 0:
            return Balanced(network.potentials(fitting), matched, phases, True)
        grid = 2.0 ** math.frexp(grid)[1] / 2
        on = exact.on_grid(grid, MOST_UNITS)
        # a limit that is none has no price
        charged = on.profits[:n_limits]
        none = np.where(charged > 0, network.upper >= network.unbounded, network.lower <= -network.unbounded)
        begin = network.potentials(np.where(none, -charged, 0.0))
        found = None
        if compiled and on.imbalance(begin, matched) > compiled_flow.LEAST_IMBALANCE:
            found = compiled_flow.balanced_on_grid(on, grid)
        settled = on.settle(*(found or (begin, matched)), work_limit)
        if not settled.done:
            if not near:
                raise SpentError
            return refined(residual, *start, False, work_limit, steadily, compiled)
        phases, matched = phases + max(settled.phases, 1), settled.matched
        step = STEP if settled.phases > QUICK else STEP**3
        moved = settled.potentials[heads] - settled.potentials[tails]
        prices, lost = exact_sum(prices, moved[:n_limits])
        low = low + lost
        exact.profits = (exact.profits - on.profits) + (on.profits + moved)
        exact.profits[:n_limits] = prices + low
        potentials = network.potentials(prices + low)


def exact_sum(a: Reals, b: Reals) -> tuple[Reals, Reals]:
    """A sum and what rounding it lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
