"""From prices near the optimum to an optimal circulation: first on rounded scores, from coarse grids to the scores.

Where all paths differ in length, each phase of shortest paths serves hardly more than one unit of flow. On a grid many
paths are equally short, and phases are few; the prices found there start the next, finer grid. Lines whose scores are
small beside the grid all look alike on it, and go out of balance when it gets finer: price sweeps put them right
before paths are sought. Which grid is coarse enough shows only on the way: where phases stop paying, it gets coarser.

Source: the scaling of costs, Gabow and Tarjan 1989; Ahuja, Magnanti, Orlin 1993, *Network Flows*, section 10.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from allocation.arrays import Mask, Reals
from allocation.solvers.two_sided.dual_ascent import MOST_SWEEPS, sweep
from allocation.solvers.two_sided.primal_dual import FEW, Balanced, ResidualNetwork
from allocation.solvers.two_sided.side_prices import Candidates, SweepProblem
from allocation.solvers.work_limit import WorkLimit

# Units out of balance that need no grid.
NEAR = 4 * FEW
# From one grid to the next finer one, or to a coarser one where phases stop paying; price sweeps on a grid, at most.
STEP = 64.0
SWEEPS_ON_GRID = 10
# Phases that a grid may take in vain before a coarser one is tried; so many more each time, so that it ends.
PATIENCE = 32
# Bits of a sum of a score and potentials that rounding leaves alone.
EXACT_BITS = 51


class Scaling:
    """One balancing of a residual network; `sweep_problem` states the sweeps of candidates at given prices.

    Scores with a `unit` are multiples of it, and their prices are to be.
    """

    def __init__(
        self, residual: ResidualNetwork, candidates: Candidates,
        sweep_problem: Callable[[Candidates, Reals], SweepProblem], work_limit: WorkLimit, unit: float | None,
    ) -> None:  # fmt: skip
        self.residual, self.network, self.candidates = residual, residual.network, candidates
        self.sweep_problem, self.work_limit = sweep_problem, work_limit
        self.unit = unit
        sizes = np.abs(candidates.scores[candidates.scores != 0])
        self.usual = float(np.median(sizes)) if sizes.size else 0.0

    def run(self, potentials: Reals, matched: Mask) -> Balanced:
        """The optimal circulation; not `done` where only refinement helps. Raises `BlockedError` or `SpentError`."""
        potentials, matched = self._swept(self.residual, self._finest(potentials), potentials, matched)
        grid = self._first_grid(potentials, matched)
        phases, stalled = 0, 0
        while True:
            finest = self._finest(potentials)
            exact = grid <= finest
            on = self.residual if exact else self.residual.on_grid(grid)
            if phases or not exact:
                potentials, matched = self._swept(on, finest if exact else grid, potentials, matched)
            balanced = on.settle(potentials, matched, self.work_limit, PATIENCE * (1 + stalled))
            potentials, matched, phases = balanced.potentials, balanced.matched, phases + balanced.phases
            if not balanced.done:
                stalled += 1
                if exact and stalled > 1 and self.unit is None:
                    return replace(balanced, phases=phases)
                everything = 2.0 * self.network.n_nodes * self._size(potentials)
                grid = min(STEP**stalled * max(grid, self._smallest(potentials)), everything)
            elif exact:
                return replace(balanced, phases=phases)
            else:
                grid = grid / STEP if grid / STEP > self._smallest(potentials) else 0.0

    def _size(self, potentials: Reals) -> float:
        return float(max(np.abs(potentials).max(initial=0.0), np.abs(self.candidates.scores).max(initial=0.0)))

    def _finest(self, potentials: Reals) -> float:
        """A grid on which sums of usual scores and potentials are exact, as far as the scores allow.

        A few scores far beyond all prices are sure matches: rounded to a grid of theirs, the prices would be lost.
        """
        if self.unit is not None:
            return self.unit
        return 2.0 ** (math.frexp(max(float(np.abs(potentials).max(initial=0.0)), self.usual))[1] - EXACT_BITS)

    def _first_grid(self, potentials: Reals, matched: Mask) -> float:
        """As coarse as the longest way to go; 0 where few units have to go any: a grid would unbalance many more."""
        if self.residual.imbalance(potentials, matched) <= NEAR:
            return 0.0
        longest = self.residual.longest_way(potentials, matched)
        return float(2.0 ** math.frexp(longest)[1]) if longest > self._smallest(potentials) else 0.0

    def _smallest(self, potentials: Reals) -> float:
        """Profits below this are so few that no grid is worth its while."""
        size = np.sort(np.abs(self.residual.reduced(potentials)[self.network.tails.size :]))
        positive = size[np.searchsorted(size, 0.0, side="right") :]
        return float(max(size[min(FEW, size.size - 1)], positive[0])) if positive.size else 0.0

    def _swept(self, on: ResidualNetwork, grid: float, potentials: Reals, matched: Mask) -> tuple[Reals, Mask]:
        """Potentials on the grid, after price sweeps where much is out of balance and they help."""
        potentials = _rounded(potentials, grid)
        before = on.imbalance(potentials, matched)
        if before <= 2 * FEW:
            return potentials, matched
        network = self.network
        scores = on.profits[network.tails.size :]
        candidates = replace(self.candidates, scores=scores)
        prices = network.prices(potentials)
        most = MOST_SWEEPS if on is self.residual else SWEEPS_ON_GRID
        result = sweep(self.sweep_problem(candidates, prices), prices, FEW, self.work_limit, most)
        self.work_limit.spend(result.sweeps * scores.size)
        swept = result.prices
        rows, columns = network.line_prices(swept)
        held = scores > rows[candidates.tokens] + columns[candidates.features]
        rounded = _rounded(network.potentials(swept), grid)
        return (rounded, held) if on.imbalance(rounded, held) < before else (potentials, matched)


def _rounded(potentials: Reals, grid: float) -> Reals:
    return np.rint(potentials / grid) * grid if grid > 0 else potentials
