"""Prices near the optimum: exact one-dimensional price solves, limit by limit, on candidate edges.

Each limit in turn gets the price at which exactly its cap (or its floor) of edges keeps a positive reduced score:
the middle of the interval between two order statistics, for all tokens at once, all features at once, and the budget.
Coordinate steps alone approach a fixed point slowly, since the budget's price drags all others along; Anderson's
extrapolation over the last few sweeps removes those few slow directions. The result is a starting point, not a proof.

Sources: Bertsekas 1998, *Network Optimization*, section 6.6 (dual coordinate ascent); Walker and Ni 2011 (Anderson).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from allocation.scores import Indices
from allocation.solvers.network import UNBOUNDED, Level, Mask, Network, Reals

# Sweeps kept for the extrapolation, most sweeps, and sweeps without progress before giving up.
MEMORY = 4
MOST_SWEEPS = 40
PATIENCE = 5


@dataclass(frozen=True, eq=False)
class Candidates:
    """Edges under consideration, sorted by (token, feature): their ids, ends and scores as float64."""

    ids: Indices
    tokens: Indices
    features: Indices
    scores: Reals


@dataclass(frozen=True, eq=False)
class Task:
    """What to sweep: open edges, matches fixed outside them per limit, and whether edges were left out at the low end.

    `unit` is the distance kept from an order statistic that has no neighbour among the open edges.
    """

    network: Network
    edges: Candidates
    fixed: Indices
    truncated: bool
    unit: float


@dataclass(frozen=True, eq=False)
class SweepResult:
    """Prices per arc, the imbalance they leave (matches too many and too few, over all limits), sweeps made."""

    prices: Reals
    imbalance: int
    sweeps: int


def sweep(task: Task, start: Reals | None, enough: int, deadline: float, most: int = MOST_SWEEPS) -> SweepResult:
    """Price sweeps until the imbalance is at most `enough`, or no longer falls, or `deadline` has passed."""
    lines = [found for level in task.network.levels if (found := _lines(task, level)) is not None]
    prices = np.zeros(task.network.tails.size) if start is None else start
    if start is None:  # the widest limits first: what the budget refuses, no token and no feature has to
        prices = prices.copy()
        for line in reversed(lines):
            line.solve(task, prices)
    # the first limits follow from all others, so they are no part of what is extrapolated
    state_arcs = np.concatenate([line.arcs for line in lines[1:]]) if len(lines) > 1 else np.empty(0, np.int64)
    history: list[tuple[Reals, Reals]] = []
    best, least, number, stale = prices, imbalance(task, prices), 0, 0
    while lines and least > enough and number < most and stale < PATIENCE and time.perf_counter() < deadline:
        number += 1
        before = prices[state_arcs]
        prices = prices.copy()
        for line in lines:
            line.solve(task, prices)
        left = imbalance(task, prices)
        stale = 0 if left < least else stale + 1
        if left < least:
            best, least = prices, left
        history = [*history, (before, prices[state_arcs])][-MEMORY:]
        if len(history) > 1:
            prices = prices.copy()
            prices[state_arcs] = _extrapolated(history)
    return SweepResult(best, least, number)


def imbalance(task: Task, prices: Reals) -> int:
    """Matches too many or too few, summed over all limits, if every open edge above its prices is matched."""
    network, edges = task.network, task.edges
    rows, columns = network.line_prices(prices)
    matched = np.flatnonzero(edges.scores > rows[edges.tokens] + columns[edges.features])
    counts = task.fixed + network.counts(
        np.bincount(edges.tokens[matched], minlength=network.shape[0]),
        np.bincount(edges.features[matched], minlength=network.shape[1]),
    )
    return int(np.abs(counts - wanted_counts(network, prices, counts)).sum())


def wanted_counts(network: Network, prices: Reals, counts: Indices) -> Indices:
    """What each limit must count to go with its price: cap, floor, or anything between them."""
    between = np.clip(counts, network.lower, network.upper)
    return np.where(prices > 0, network.upper, np.where(prices < 0, network.lower, between))


def _extrapolated(history: list[tuple[Reals, Reals]]) -> Reals:
    """Anderson's combination of the last images whose residuals cancel best; signs are kept."""
    images = np.stack([image for _, image in history])
    residuals = images - np.stack([state for state, _ in history])
    steps = np.diff(residuals, axis=0)
    gram = steps @ steps.T
    scale = float(np.trace(gram))
    if not np.isfinite(scale) or scale <= 0:
        return history[-1][1]
    gram[np.diag_indices_from(gram)] += 1e-10 * scale
    weights = np.linalg.solve(gram, steps @ residuals[-1])
    found = images[-1] - weights @ np.diff(images, axis=0)
    extrapolated: Reals = np.where(np.sign(found) == np.sign(images[-1]), found, images[-1])
    return extrapolated


@dataclass(frozen=True, eq=False)
class _Block:
    """Limits with about as many edges each: their positions in the edge list, one padded row per limit."""

    arcs: Indices
    positions: Indices


@dataclass(frozen=True, eq=False)
class _Lines:
    """The limits of one level that can bind."""

    level: Level
    arcs: Indices
    blocks: tuple[_Block, ...]

    def solve(self, task: Task, prices: Reals) -> None:
        """Set the prices of this level, all others given."""
        network, edges = task.network, task.edges
        before = prices.copy()
        prices[self.arcs] = 0.0
        rows, columns = network.line_prices(prices)
        values = np.empty(edges.scores.size + 1)
        values[-1] = -np.inf  # what the padding points to
        np.subtract(edges.scores, np.take(rows, edges.tokens), out=values[:-1])
        values[:-1] -= np.take(columns, edges.features)
        for block in self.blocks:
            arcs = block.arcs
            ranked = np.sort(np.take(values, block.positions), axis=1)
            bounds = network.lower[arcs] - task.fixed[arcs], network.upper[arcs] - task.fixed[arcs]
            found, short = _line_prices(ranked, *bounds, task.unit)
            if task.truncated:  # a limit that lists too few edges asks for those below the least of them
                found = np.where(short, np.minimum(before[arcs], np.maximum(found, 0.0)), found)
            else:
                found = np.where(short, 0.0, found)
            prices[arcs] = found


def _lines(task: Task, level: Level) -> _Lines | None:
    """The limits of `level` that can bind on the open edges; None if there are none."""
    network, edges = task.network, task.edges
    can_bind = (network.upper[level.arcs] < UNBOUNDED) | (network.lower[level.arcs] > 0)
    if not can_bind.any() or not edges.scores.size:
        return None
    if level.arc_of is None:
        degree, order = np.array([edges.scores.size]), np.arange(edges.scores.size)
    else:
        index = np.full(network.tails.size + 1, level.arcs.size)
        index[level.arcs] = np.arange(level.arcs.size)
        line = index[level.arc_of][(edges.tokens, edges.features)[level.side]]
        narrow = np.uint16 if level.arcs.size < 1 << 16 else np.int64  # NumPy's stable sort of 16 bits is a radix sort
        order = np.argsort(line.astype(narrow), kind="stable")
        degree = np.bincount(line, minlength=level.arcs.size + 1)[: level.arcs.size]
    if not task.truncated:
        can_bind &= (degree + task.fixed[level.arcs] > network.upper[level.arcs]) | (network.lower[level.arcs] > 0)
    can_bind &= degree > 0
    starts = np.cumsum(degree) - degree
    blocks = []
    # rows of like length share a block, so that padding at most doubles the edges
    size_class = np.frexp(degree.astype(np.float64))[1]
    for number in np.unique(size_class[can_bind]):
        chosen = np.flatnonzero(can_bind & (size_class == number))
        place = np.arange(int(degree[chosen].max()))
        inside = place < degree[chosen, None]
        positions = order[np.where(inside, starts[chosen, None] + place, 0)]
        blocks.append(_Block(level.arcs[chosen], np.where(inside, positions, edges.scores.size)))
    if not blocks:
        return None
    return _Lines(level, np.concatenate([block.arcs for block in blocks]), tuple(blocks))


def _line_prices(ranked: Reals, lower: Indices, upper: Indices, unit: float) -> tuple[Reals, Mask]:
    """The price of each row of ascending values under which it keeps at most `upper` and at least `lower` of them.

    With it whether the row is shorter than its cap; then the price is one just below its least value.
    """
    degree = np.count_nonzero(ranked > -np.inf, axis=1)
    at_cap = _between(ranked, upper, unit)
    at_floor = _between(ranked, lower, unit)
    short = (upper >= degree) & (lower < upper)
    needs_floor = (lower > -UNBOUNDED // 2) & (at_floor < 0)
    capped = ~short & ((at_cap > 0) | (lower == upper))
    price = np.where(capped, at_cap, np.where(needs_floor, at_floor, 0.0))
    return np.where(short & ~needs_floor, at_cap, price), short & ~needs_floor


def _between(ranked: Reals, kept: Indices, unit: float) -> Reals:
    """A price that keeps the `kept` largest values of each row: halfway to the next one."""
    n_rows, width = ranked.shape
    every = np.arange(n_rows)
    kept = np.clip(kept, 0, width)
    last = np.where(kept > 0, ranked[every, width - np.maximum(kept, 1)] if width else -np.inf, np.inf)
    after = np.where(kept < width, ranked[every, np.maximum(width - kept - 1, 0)] if width else -np.inf, -np.inf)
    # fewer values than are to be kept: below the least of them
    least = ranked.min(axis=1, initial=np.inf, where=ranked > -np.inf)
    last = np.where(last == -np.inf, np.where(least < np.inf, least, 0.0), last)
    with np.errstate(invalid="ignore"):
        middle = after + (last - after) / 2
    middle = np.where(middle >= last, after, middle)  # neighbours in the last bit: what is kept stays above
    middle = np.where(after == -np.inf, last - unit, middle)
    return np.where(last == np.inf, np.where(after == -np.inf, 0.0, after + unit), middle)
