"""Whether the last bits of the scores may decide: then an optimum within rounding need not be the optimum.

Scores that are multiples of one power of two, the unit, have optimal prices that are multiples of it too, since a price
is a sum of scores and their opposites along a path. Where float64 holds these sums, the search goes on with prices on
this grid and without any slack, and what it ends in is exact.
"""

from __future__ import annotations

import math

import numpy as np

from allocation.arrays import Indices, Mask, Reals
from allocation.solvers.two_sided.circulation import Network
from allocation.solvers.two_sided.iterative_refinement import exact_sum
from allocation.solvers.two_sided.side_prices import Candidates

# Integers beyond this are not all float64s.
HELD = 2.0**53


def deciding_unit(network: Network, prices: Reals, edges: Candidates, matched: Mask, slack: Reals) -> float | None:
    """The unit of the scores near their prices; None where the answer is exact already, or no grid holds the prices.

    `slack` is the rounding of each edge's reduced profit.
    """
    rows, columns = network.line_prices(prices)
    near = np.flatnonzero(np.abs(edges.profit(rows, columns)) <= slack)
    tokens, features, scores = edges.tokens[near], edges.features[near], edges.scores[near]
    part, lost = exact_sum(scores, -rows[tokens])
    profit, more_lost = exact_sum(part, -columns[features])
    unit = unit_of(scores)
    wrong = np.where(matched[near], -profit, profit)
    missed = float(wrong[wrong > 0].sum())
    if missed == 0 and not (lost.any() or more_lost.any()):
        return None
    largest = max(float(np.abs(part).max(initial=0.0)) for part in (scores, rows, columns))
    if not largest < HELD * unit < math.inf or not _have_a_choice(network, prices, edges, near, slack):
        return None
    return unit


def unit_of(numbers: Reals) -> float:
    """The largest power of two that all are multiples of; infinite where all are 0."""
    fractions, exponents = np.frexp(np.abs(numbers[numbers != 0]))
    whole = np.ldexp(fractions, 53).astype(np.int64)
    return float(np.ldexp((whole & -whole).astype(np.float64), exponents - 53).min(initial=math.inf))


def on_unit(potentials: Reals, unit: float) -> Reals:
    """Potentials on the grid; differences by whole units stay as they are."""
    return np.asarray(np.floor(potentials / unit + 0.5) * unit)


def _have_a_choice(network: Network, prices: Reals, edges: Candidates, near: Indices, slack: Reals) -> bool:
    """Whether edges near their prices and limits without one close a circle: else only one answer goes with them."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    free = np.flatnonzero((np.abs(prices) <= slack.max(initial=0.0)) & (network.lower < network.upper))
    tails = np.concatenate([edges.tokens[near], network.tails[free]])
    heads = np.concatenate([edges.features[near] + network.shape[0], network.heads[free]])
    graph = csr_array((np.ones(tails.size), (tails, heads)), shape=(network.n_nodes, network.n_nodes))
    parts = connected_components(graph, directed=False, return_labels=False)
    return bool(tails.size > network.n_nodes - parts)
