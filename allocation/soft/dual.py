"""The dual of the soft problem: prices, and the shares, counts and slopes that follow from them.

In units of the temperature `T` the dual to minimise over prices `p >= 0` is `caps . p + sum_ij phi(x_ij)`, where
`x_ij = (S_ij - mu_i - nu_j - lam) / T` and `phi' = a`; its gradient is cap minus count, its Hessian `C diag(a') C^T`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Mask, Reals
from allocation.soft.forms import Form
from allocation.soft.line_moves import line_moves
from allocation.soft.normal_equations import NormalEquations, slope_matrix
from allocation.threads import Block, map_blocks, map_runs

# Rows of this size stay in cache between the passes of one evaluation.
BLOCK_BYTES = 1 << 18
# Lines of about so many entries are moved at a time.
LINE_ENTRIES = 1 << 20
# From so many entries on, points on the way are computed in float32, where the largest score is at most so many
# temperatures.
LARGE, ROUGH_REACH = 1 << 18, 4096.0
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

    @cached_property
    def scaled(self) -> Reals:
        """The prices in temperatures."""
        return self.coarse / self.temperature + self.fine

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
    """The slopes of all shares at given prices, and of each line the count, the mass, and the mass in shares from 1/2.

    The shares themselves are left out: a matrix that only the last point needs.
    """

    prices: LinePrices
    slopes: Array
    counts: Reals
    masses: Reals
    masses_above: Reals
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
    """The dual of one problem: scores (-inf forbids), one cap per line (+inf where there is none), the form.

    Matrices are of type `kind`: float64, or float32 for points that need not be precise.
    """

    scores: Array
    caps: Reals
    form: Form
    workers: int | None = None
    kind: Any = np.float64

    @cached_property
    def best(self) -> float:
        """The largest score, or 0: about what the prices of an edge that matters add up to."""
        return float(self.scores.max(initial=0.0))

    def roughly(self, temperature: float) -> Dual:
        """The dual in float32 where that is worth while and tells apart what is near its price; else itself."""
        rough = self.scores.size >= LARGE and self.best <= ROUGH_REACH * temperature
        return replace(self, kind=np.float32) if rough else self

    def point(self, prices: LinePrices) -> Point:
        """Evaluate at these prices, in one pass over the scores."""
        slopes = np.empty(self.scores.shape, self.kind)

        def write(start: int, stop: int) -> tuple[Array, ...]:
            slope = slopes[start:stop]
            share = np.empty_like(slope)
            self.form.evaluate(self.distances(prices, start, stop), share, slope)
            return share, slope, slope * (share >= 0.5)

        counts, masses, masses_above = self._line_sums(write, 3)
        return Point(prices, slopes, counts, masses, masses_above, self.caps)

    def shares(self, prices: LinePrices) -> Reals:
        """The shares at these prices."""
        shares = np.empty(self.scores.shape)

        def write(start: int, stop: int) -> None:
            share = shares[start:stop]
            self.form.evaluate(self.distances(prices, start, stop), share, np.empty_like(share))

        map_blocks(write, len(shares), shares.nbytes, self.workers, BLOCK_BYTES)
        return shares

    def warming(self, point: Point) -> Reals:
        """`C D x`: how fast the counts would fall per relative rise of the temperature if the prices stayed."""

        def weighted(start: int, stop: int) -> tuple[Array, ...]:
            slope = point.slopes[start:stop]
            x = self.distances(point.prices, start, stop)
            return (np.multiply(slope, x, out=np.zeros_like(x), where=slope > 0),)

        return self._line_sums(weighted, 1)[0]

    def line_moves(self, prices: LinePrices, side: slice, lines: NDArray[np.int64]) -> Reals:
        """The move of each of some prices of one side that brings its line to its cap, the other prices given."""
        tokens = self.scores.shape[0]
        caps = self.caps[side][lines]
        if side.stop is None:
            return line_moves(self.form, self._all_distances(prices), caps)
        dual, turned = self, prices
        step = max(1, LINE_ENTRIES // max(self.scores.shape[1 if side.start == 0 else 0], 1))
        moves = [np.zeros(0)]
        for start in range(0, lines.size, step):
            some = lines[start : start + step]
            if side.start == 0:
                order = np.concatenate([some, np.arange(tokens, self.caps.size)])
                scores = self.scores[some]
            else:
                order = np.concatenate([tokens + some, np.arange(tokens), [-1]])
                scores = np.ascontiguousarray(self.scores[:, some].T)
            turned = LinePrices(prices.coarse[order], prices.fine[order], prices.temperature)
            dual = replace(self, scores=scores)
            moves.append(line_moves(self.form, dual.distances(turned, 0, some.size), caps[start : start + step]))
        return np.concatenate(moves)

    def _all_distances(self, prices: LinePrices) -> Array:
        """All distances in one row."""
        distances = np.empty(self.scores.shape, self.kind)

        def write(start: int, stop: int) -> None:
            distances[start:stop] = self.distances(prices, start, stop)

        map_blocks(write, len(distances), distances.nbytes, self.workers, BLOCK_BYTES)
        return distances.reshape(1, -1)

    def distances(self, prices: LinePrices, start: int, stop: int) -> Array:
        """Scores minus prices of a block of rows, in temperatures."""
        tokens = self.scores.shape[0]
        if self.kind == np.float32:
            plain = prices.scaled
            near: Array = self.scores[start:stop] * np.float32(1.0 / prices.temperature)
            near -= (plain[start:stop, None] + plain[-1]).astype(np.float32)
            near -= plain[tokens:-1].astype(np.float32)
            return near
        coarse: Reals = prices.coarse[start:stop, None] + prices.coarse[-1] + prices.coarse[tokens:-1]
        x: Reals = np.subtract(self.scores[start:stop], coarse, out=coarse)
        x /= prices.temperature
        x -= prices.fine[start:stop, None] + prices.fine[-1]
        x -= prices.fine[tokens:-1]
        return x

    def _line_sums(self, work: Callable[[int, int], tuple[Array, ...]], matrices: int) -> list[Reals]:
        """Sums over tokens, over features and over all of each matrix that `work` gives block by block."""
        tokens, features = self.scores.shape
        rows = np.zeros((matrices, tokens))

        def of_run(run: list[Block]) -> Reals:
            columns = np.zeros((matrices, features))
            with np.errstate(over="ignore"):  # a score far below its prices is -inf beside them
                for start, stop in run:
                    for number, part in enumerate(work(start, stop)):
                        rows[number, start:stop] = part.sum(1)
                        columns[number] += part.sum(0)
            return columns

        nbytes = self.scores.size * np.dtype(self.kind).itemsize
        parts = map_runs(of_run, tokens, nbytes, self.workers, BLOCK_BYTES)
        columns = sum(parts, np.zeros((matrices, features)))
        return [np.concatenate([*lines, [lines[0].sum()]]) for lines in zip(rows, columns, strict=True)]
