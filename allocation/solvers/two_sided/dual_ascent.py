"""Prices near the optimum: exact one-dimensional price solves, limit by limit, on candidate edges.

Each limit in turn gets the price at which exactly its cap (or its floor) of edges keeps a positive reduced score:
the middle of the interval between two order statistics, for all tokens at once, all features at once, and the budget.
Coordinate steps alone approach a fixed point slowly, since the budget's price drags all others along; Anderson's
extrapolation over the last few sweeps removes those few slow directions. The result is a starting point, not a proof.

Sources: Bertsekas 1998, *Network Optimization*, section 6.6 (dual coordinate ascent); Walker and Ni 2011 (Anderson).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices, Reals
from allocation.solvers.two_sided.circulation import Network
from allocation.solvers.two_sided.side_prices import Side, SweepProblem
from allocation.solvers.work_limit import WorkLimit

# Sweeps kept for the extrapolation, most sweeps, and sweeps without progress before giving up.
MEMORY = 4
MOST_SWEEPS = 40
PATIENCE = 5
# Multiple of the largest score beyond which no price is extrapolated.
FARTHEST = 4.0


@dataclass(frozen=True, eq=False)
class SweepResult:
    """Prices per arc, the imbalance they leave (matches too many and too few, over all limits), sweeps made."""

    prices: Reals
    imbalance: int
    sweeps: int


def sweep(
    problem: SweepProblem, start: Reals | None, enough: int, work_limit: WorkLimit, most: int = MOST_SWEEPS
) -> SweepResult:
    """Price sweeps until the imbalance is at most `enough`, or no longer falls; raises `SpentError`."""
    sides = [Side(problem, side) for side in (0, 1)]
    # the tokens' prices and the budget's follow from those of the features, which alone are extrapolated
    state = sides[1].arcs
    prices = np.zeros(problem.network.tails.size) if start is None else start
    if start is None:  # both sides pay half: where one pays all, the limits of the other look slack
        prices[state] = sides[1].solve(prices)[state] / 2
    history: list[tuple[Reals, Reals]] = []
    farthest = FARTHEST * float(np.abs(problem.edges.scores).max(initial=0.0))
    best, sweeps, stale = prices, 0, 0
    least = np.iinfo(np.int64).max if start is None else imbalance(problem, prices)
    while least > enough and sweeps < most and stale < PATIENCE:
        sweeps += 1
        before = prices[state]
        for side in sides:
            work_limit.check()
            prices = side.solve(prices)
        prices = _shared(problem.network, prices)
        now = imbalance(problem, prices)
        stale = 0 if now < least else stale + 1
        if now < least:
            best, least = prices, now
        history = [*history, (before, prices[state])][-MEMORY:]
        if len(history) > 1:
            prices = prices.copy()
            prices[state] = _extrapolated(history, farthest)
    return SweepResult(best, least, sweeps)


def imbalance(problem: SweepProblem, prices: Reals) -> int:
    """Matches too many or too few, summed over all limits, if every open edge above its prices is matched."""
    network, edges = problem.network, problem.edges
    rows, columns = network.line_prices(prices)
    matched = np.flatnonzero(edges.scores > rows[edges.tokens] + columns[edges.features])
    counts = problem.fixed + network.counts_of(edges.tokens[matched], edges.features[matched])
    return int(np.abs(counts - wanted_counts(network, prices, counts)).sum())


def wanted_counts(network: Network, prices: Reals, counts: Indices) -> Indices:
    """What each limit must count to go with its price: cap, floor, or anything between them."""
    between = np.clip(counts, network.lower, network.upper)
    return np.where(prices > 0, network.upper, np.where(prices < 0, network.lower, between))


def _shared(network: Network, prices: Reals) -> Reals:
    """Prices moved from all tokens to all features, or back, so that the dual objective is least, no edge noticing.

    Where any move of some range is as good, as with caps of equal sum, the middle: at its ends limits look slack.
    """
    tokens, features = network.lines
    upper, lower = network.upper[: network.budget_arc], network.lower[: network.budget_arc]
    # the objective is convex and piecewise linear in what each feature pays more and each token less
    kinks = np.concatenate([prices[tokens], -prices[features]])
    order = np.argsort(kinks)
    before = int(lower[features].sum() - upper[tokens].sum())
    slopes = before + np.cumsum((upper - lower)[order])
    first = int(np.searchsorted(slopes, 0))  # the slope turns from negative here
    last = int(np.searchsorted(slopes, 0, side="right"))  # and positive here
    if before >= 0 or last == kinks.size:
        return prices
    by = (kinks[order[first]] + kinks[order[last]]) / 2
    moved = prices.copy()
    moved[tokens] -= by
    moved[features] += by
    return moved


def _extrapolated(history: list[tuple[Reals, Reals]], farthest: float) -> Reals:
    """Anderson's combination of the last images whose residuals cancel best; signs are kept.

    Where prices that rise together meet no resistance no residual changes: nothing would keep them near the scores.
    """
    images = np.stack([image for _, image in history])
    residuals = images - np.stack([state for state, _ in history])
    size = np.abs(residuals).max(initial=0.0)
    if not 0 < size < np.inf:
        return history[-1][1]
    residuals /= size  # squares stay in range
    steps = np.diff(residuals, axis=0)
    gram = steps @ steps.T
    scale = float(np.trace(gram))
    if scale <= 0:
        return history[-1][1]
    gram[np.diag_indices_from(gram)] += 1e-10 * scale
    weights = np.linalg.solve(gram, steps @ residuals[-1])
    combined = images[-1] - weights @ np.diff(images, axis=0)
    usable = (np.sign(combined) == np.sign(images[-1])) & (np.abs(combined) <= farthest)
    extrapolated: Reals = np.where(usable, combined, images[-1])
    return extrapolated
