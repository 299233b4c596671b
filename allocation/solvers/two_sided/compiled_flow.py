"""An optimal circulation by OR-tools' minimum-cost flow, where it is installed: scores on a grid, and prices for it.

Scores with structure (products, sums) give the phases of `primal_dual` hardly more than one unit of flow each; a
compiled cost-scaling algorithm does not notice. It takes integers and tells no prices: scores go in as multiples of a
power of two, and policy iteration on the residual arcs, in exact sums on that grid, finds the potentials. What the grid
leaves of the reduced profits has potentials for the same flow, found in the same way, or else another flow, on a finer
grid. It is a starting point, not a proof.

Sources: Goldberg 1997, *An efficient implementation of a scaling minimum-cost flow algorithm*; Howard 1960.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Indices, Mask, Reals, stable_order
from allocation.problem import Problem
from allocation.scores import Scores
from allocation.solvers.base import Options
from allocation.solvers.followed_paths import path_lengths
from allocation.solvers.two_sided.primal_dual import ResidualNetwork

# Costs have so many bits: their sums over all arcs, times the number of nodes, stay within 64.
BITS = 36
# Edges up to which, and units out of balance from which, it is worth while.
MOST_EDGES = 1 << 22
# Edges up to which it gets all of them.
ALL_EDGES = 1 << 18
LEAST_IMBALANCE = 128
# Units out of balance after a single price sweep from which further ones are in vain, and from which prices are so far
# off that they do not tell which edges matter.
IN_VAIN = 200
FAR_OFF = 1024
# Scores looked at, and the share of them that differ below which most tie.
SAMPLE = 4096
LEAST_DISTINCT = 0.25
# Scores so small beside the largest lose their sums on a grid for it; and the share of them that matters.
SMALL_SHARE, MOST_SMALL = 2.0**-24, 1 / 16
# Price sweeps before it is asked: those that settle scores without structure.
MOST_PRICE_SWEEPS = 8
# Sweeps for the potentials before giving up; hard ones take 40.
MOST_SWEEPS = 200


@functools.cache
def is_installed() -> bool:
    """Whether OR-tools can be imported; nothing is imported to tell."""
    return importlib.util.find_spec("ortools") is not None


def fits(problem: Problem, options: Options) -> bool:
    """Whether it may help: cold starts without a limit of time, since nothing stops it, of no great size."""
    matrix = problem.matrix
    cold = options.warm_start is None and options.max_seconds is None
    return cold and not matrix.on_device and 0 < matrix.n_edges <= MOST_EDGES and is_installed()


def mostly_ties(matrix: Scores) -> bool:
    """Whether most of a sample of the scores occur more than once."""
    sample = matrix.values_at(np.arange(0, matrix.n_edges, matrix.n_edges // SAMPLE | 1))
    return bool(np.unique(sample).size < LEAST_DISTINCT * sample.size)


def far_apart(matrix: Scores) -> bool:
    """Whether many of a sample of the scores are so small beside the largest that a grid for it loses their sums."""
    sample = matrix.values_at(np.arange(0, matrix.n_edges, matrix.n_edges // SAMPLE | 1))
    sizes = np.abs(sample[np.isfinite(sample) & (sample != 0)].astype(np.float64))
    return bool(np.count_nonzero(sizes < sizes.max(initial=0.0) * SMALL_SHARE) > MOST_SMALL * sizes.size)


def compiled_start(residual: ResidualNetwork, integer: bool) -> tuple[Reals, Mask] | None:
    """Potentials and matched candidates, optimal but for rounding; None where OR-tools finds none."""
    n_limits, root = residual.network.tails.size, residual.network.feature_root
    profits, potentials = residual.profits, np.zeros(residual.network.n_nodes)
    flow = None
    for _ in range(1 if integer else 2):
        largest = float(np.abs(profits[np.isfinite(profits)]).max(initial=0.0))
        unit = 1.0 if integer else 2.0 ** (math.frexp(largest)[1] - BITS)
        if not largest or unit == 0 or largest / unit > 2.0**BITS:
            return None
        whole = np.rint(profits / unit)
        flow = _flow(residual, whole)
        raised = None if flow is None else _potentials(residual, whole, flow, np.zeros(flow.size))
        if flow is None or raised is None:
            return None
        potentials = potentials + (raised - raised[root]) * unit
        if integer:
            break
        # the best flow on the grid is nearly always the best one: then what the grid left of profits has potentials too
        reduced = residual.reduced(potentials)
        left = _potentials(residual, reduced, flow, residual.slack(potentials))
        if left is not None:
            potentials = potentials + (left - left[root])
            break
        # what lies further from its price than the grid is decided
        finer = 2.0**BITS * float(np.finfo(np.float64).eps) * max(largest, float(np.abs(potentials).max()))
        profits = np.clip(reduced, -finer, finer)
    assert flow is not None
    return residual.snapped(potentials, flow), flow[n_limits:] > 0


def balanced_on_grid(residual: ResidualNetwork, grid: float) -> tuple[Reals, Mask] | None:
    """Potentials and matches, optimal for profits that are multiples of `grid`; None where OR-tools is of no help.

    A profit beyond so many units as it takes counts as that many, which no path uses up.
    """
    whole = np.clip(np.rint(residual.profits / grid), -(2.0**BITS), 2.0**BITS)
    flow = _flow(residual, whole)
    raised = None if flow is None else _potentials(residual, whole, flow, np.zeros(flow.size))
    if flow is None or raised is None:
        return None
    potentials = (raised - raised[residual.network.feature_root]) * grid
    matched = flow[residual.network.tails.size :] > 0
    return (potentials, matched) if residual.imbalance(potentials, matched) == 0 else None


def _flow(residual: ResidualNetwork, profits: Reals) -> Indices | None:
    """The best flow on all arcs; None if there is none."""
    from ortools.graph.python import min_cost_flow

    solver: Any = min_cost_flow.SimpleMinCostFlow()
    lower = np.maximum(residual.lower, 0)
    room = np.minimum(residual.upper, lower + int(residual.upper[residual.network.tails.size :].size)) - lower
    arcs = solver.add_arcs_with_capacity_and_unit_cost(residual.tails, residual.heads, room, -profits.astype(np.int64))
    n_nodes = residual.network.n_nodes
    supply = residual.supply.copy()
    np.add.at(supply, residual.heads, lower)
    np.add.at(supply, residual.tails, -lower)
    solver.set_nodes_supplies(np.arange(n_nodes), supply)
    if solver.solve() != solver.OPTIMAL:
        return None
    flow: Indices = solver.flows(arcs) + lower
    return flow


def _potentials(residual: ResidualNetwork, profits: Reals, flow: Indices, slack: Reals) -> Reals | None:
    """Potentials that leave no residual arc a profit beyond its slack: longest paths, whole paths evaluated at once.

    Few arcs decide: limits, matches, and the best refused edges of every node, which join as passes find them.
    """
    n_nodes, n_limits = residual.network.n_nodes, residual.network.tails.size
    ahead, back = np.flatnonzero(flow < residual.upper), np.flatnonzero(flow > residual.lower)
    to = np.concatenate([residual.tails[ahead], residual.heads[back]])
    order = stable_order(to, n_nodes)
    few = np.concatenate([ahead < n_limits, np.ones(back.size, bool)])[order]
    everything = _Arcs(
        to[order],
        np.concatenate([residual.heads[ahead], residual.tails[back]])[order],
        np.concatenate([profits[ahead], -profits[back]])[order],
        np.concatenate([slack[ahead], slack[back]])[order],
    )
    potentials, follows, steps = np.zeros(n_nodes), np.full(n_nodes, -1), np.zeros(n_nodes)
    for _ in range(MOST_SWEEPS):
        arcs = everything.part(few)
        for _ in range(MOST_SWEEPS):
            at = arcs.best(potentials)
            if not at.size:
                break
            follows[arcs.to[at]], steps[arcs.to[at]] = arcs.source[at], arcs.length[at]
            total = path_lengths(follows, steps)
            if total is None:
                return None
            potentials = np.maximum(potentials, total)
        at = everything.best(potentials)
        if not at.size:
            return potentials
        few[at] = True
    return None


@dataclass(frozen=True, eq=False)
class _Arcs:
    """Residual arcs, those into one node together: where each leads, from where, its profit and the slack of that."""

    to: Indices
    source: Indices
    length: Reals
    slack: Reals

    def part(self, mask: Mask) -> _Arcs:
        """Some of them."""
        return _Arcs(*(part[mask] for part in vars(self).values()))

    def best(self, potentials: Reals) -> Indices:
        """Of each node whose potential an arc raises the arc that raises it most, or equal ones."""
        gain = potentials[self.source] + self.length - potentials[self.to]
        gaining = np.flatnonzero(gain > self.slack)
        if not gaining.size:
            return gaining
        to, gain = self.to[gaining], gain[gaining]
        first = np.flatnonzero(np.diff(to, prepend=-1))
        most = np.maximum.reduceat(gain, first)
        at: Indices = gaining[gain == np.repeat(most, np.diff(np.append(first, to.size)))]
        return at
