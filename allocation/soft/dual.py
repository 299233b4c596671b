"""The dual of the soft problem: prices, and the shares, counts and slopes that follow from them.

In units of the temperature `T` the dual to minimise over prices `p >= 0` is `caps . p + sum_ij phi(x_ij)`, where
`x_ij = (S_ij - mu_i - nu_j - lam) / T` and `phi' = a`; its gradient is cap minus count, its Hessian `C diag(a') C^T`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Mask, Reals
from allocation.soft.forms import Form
from allocation.soft.normal_equations import NormalEquations, slope_matrix
from allocation.threads import map_blocks

# Rows of this size stay in cache between the passes of one evaluation.
BLOCK_BYTES = 1 << 18
# Coarse parts of prices lie on a grid of this share of the largest one, so that scores minus prices lose nothing.
GRID_BITS = 40


@dataclass(frozen=True, eq=False)
class LinePrices:
    """One price per line (tokens, features, the budget): `coarse + temperature * fine`.

    The coarse parts are multiples of one power of 2, so that their sums are exact; the fine ones carry what a
    float64 price of that size could not resolve at this temperature.
    """

    coarse: Reals
    fine: Reals
    temperature: float

    @cached_property
    def lowest(self) -> Reals:
        """The fine part at which a price is 0."""
        return -self.coarse / self.temperature

    @cached_property
    def total(self) -> Reals:
        """The prices as plain numbers."""
        return np.where(self.fine > self.lowest, np.maximum(self.coarse + self.temperature * self.fine, 0.0), 0.0)

    def moved(self, step: Reals) -> LinePrices:
        """The prices after a step of the fine parts, none below 0."""
        return LinePrices(self.coarse, np.maximum(self.fine + step, self.lowest), self.temperature)

    def at(self, temperature: float) -> LinePrices:
        """The same prices for another temperature."""
        largest = float(self.total.max(initial=0.0))
        grid = math.ldexp(1.0, math.frexp(largest)[1] - GRID_BITS) if largest else 1.0
        extra = self.temperature * self.fine
        coarse = np.where(self.total > 0, np.maximum(self.coarse + np.rint(extra / grid) * grid, 0.0), 0.0)
        fine = np.where(self.total > 0, (extra - (coarse - self.coarse)) / temperature, 0.0)
        return LinePrices(coarse, fine, temperature)


@dataclass(frozen=True, eq=False)
class Point:
    """Shares, their slopes and the counts at given prices."""

    prices: LinePrices
    shares: Reals
    slopes: Reals
    counts: Reals
    masses: Reals
    caps: Reals

    @cached_property
    def slack(self) -> Reals:
        """Cap minus count of every line: the gradient of the dual."""
        return self.caps - self.counts

    @cached_property
    def free(self) -> Mask:
        """Lines whose price may move: it is positive, or the cap is exceeded."""
        return (self.prices.fine > self.prices.lowest) | (self.slack < 0)

    @cached_property
    def wrong(self) -> Reals:
        """How far each line is from complementary slackness, in matches."""
        return np.where(self.free, np.abs(self.slack), 0.0)

    @cached_property
    def residual(self) -> float:
        """The largest of `wrong`, as a share of the cap or of 1."""
        return float((self.wrong / np.maximum(self.caps, 1.0)).max(initial=0.0))

    def equations(self, free: Mask) -> NormalEquations:
        """The Hessian on some lines."""
        return NormalEquations(self._slope_matrix, self.masses, free)

    @cached_property
    def _slope_matrix(self) -> Any:
        return slope_matrix(self.slopes)


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual of one problem: scores (-inf forbids), one cap per line (+inf where there is none), the form."""

    scores: Reals
    caps: Reals
    form: Form
    workers: int | None = None

    def point(self, prices: LinePrices) -> Point:
        """Evaluate at these prices, in one pass over the scores."""
        shares, slopes = np.empty_like(self.scores), np.empty_like(self.scores)

        def write(start: int, stop: int) -> tuple[Reals, ...]:
            share, slope = shares[start:stop], slopes[start:stop]
            self.form.evaluate(self.distances(prices, start, stop), share, slope)
            return share, slope

        counts, masses = self._line_sums(write, 2)
        return Point(prices, shares, slopes, counts, masses, self.caps)

    def warming(self, point: Point) -> Reals:
        """`C D x`: how fast the counts would fall per relative rise of the temperature if the prices stayed."""

        def weighted(start: int, stop: int) -> tuple[Reals, ...]:
            slope = point.slopes[start:stop]
            x = self.distances(point.prices, start, stop)
            return (np.multiply(slope, x, out=np.zeros_like(x), where=slope > 0),)

        return self._line_sums(weighted, 1)[0]

    def mass_above(self, point: Point) -> Reals:
        """Mass of each line in shares of at least 1/2."""

        def above(start: int, stop: int) -> tuple[Reals, ...]:
            return (point.slopes[start:stop] * (point.shares[start:stop] >= 0.5),)

        return self._line_sums(above, 1)[0]

    def line_distances(self, prices: LinePrices, side: slice, lines: NDArray[np.int64]) -> Reals:
        """Scores minus prices of some lines of one side, a row each, in temperatures."""
        tokens = self.scores.shape[0]
        if side.stop is None:
            return self.distances(prices, 0, tokens).reshape(1, -1)
        if side.start == 0:
            return np.concatenate([self.distances(prices, line, line + 1) for line in lines])
        order = np.concatenate([tokens + lines, np.arange(tokens), [-1]])
        turned = LinePrices(prices.coarse[order], prices.fine[order], prices.temperature)
        return Dual(self.scores[:, lines].T, self.caps, self.form).distances(turned, 0, lines.size)

    def distances(self, prices: LinePrices, start: int, stop: int) -> Reals:
        """Scores minus prices of a block of rows, in temperatures."""
        tokens = self.scores.shape[0]
        coarse: Reals = prices.coarse[start:stop, None] + prices.coarse[-1] + prices.coarse[tokens:-1]
        x: Reals = self.scores[start:stop] - coarse
        x /= prices.temperature
        x -= prices.fine[start:stop, None] + prices.fine[-1]
        x -= prices.fine[tokens:-1]
        return x

    def _line_sums(self, work: Callable[[int, int], tuple[Reals, ...]], matrices: int) -> list[Reals]:
        """Sums over tokens, over features and over all of each matrix that `work` gives block by block."""

        def block(start: int, stop: int) -> list[tuple[Reals, Reals]]:
            with np.errstate(over="ignore"):  # a score far below its prices is -inf beside them
                return [(part.sum(1), part.sum(0)) for part in work(start, stop)]

        tokens, features = self.scores.shape
        block_sums = map_blocks(block, tokens, self.scores.nbytes, self.workers, BLOCK_BYTES)
        sums = []
        for matrix_index in range(matrices):
            rows = np.concatenate([np.zeros(0), *(parts[matrix_index][0] for parts in block_sums)])
            columns = np.sum([np.zeros(features), *(parts[matrix_index][1] for parts in block_sums)], axis=0)
            sums.append(np.concatenate([rows, columns, [rows.sum()]]))
        return sums
