"""An optimal circulation by OR-tools' minimum-cost flow, where it is installed: scores on a grid, and prices for it.

Scores with structure (products, sums) give the phases of `primal_dual` hardly more than one unit of flow each; a
compiled cost-scaling algorithm does not notice. It takes integers and tells no prices: scores go in as multiples of a
power of two, and policy iteration on the residual arcs, in exact sums on that grid, finds the potentials. What the grid
leaves of the reduced profits is solved for once more on a finer one. It is a starting point, not a proof.

Sources: Goldberg 1997, *An efficient implementation of a scaling minimum-cost flow algorithm*; Howard 1960.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import numpy as np

from allocation.arrays import Indices, Mask, Reals
from allocation.problem import Problem
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
# Scores looked at, and the share of them that must differ.
SAMPLE = 4096
LEAST_DISTINCT = 0.25
# Price sweeps before it is asked: those that settle scores without structure.
MOST_PRICE_SWEEPS = 8
# Sweeps for the potentials before giving up; hard ones take 40.
MOST_SWEEPS = 200


@functools.cache
def is_installed() -> bool:
    """Whether OR-tools can be imported; nothing is imported to tell."""
    return importlib.util.find_spec("ortools") is not None


def fits(problem: Problem, options: Options) -> bool:
    """Whether it may help: cold starts without a limit of time, since nothing stops it, of no great size, few ties.

    Where ties are the rule, many paths are equally short, and phases are few anyway.
    """
    matrix = problem.matrix
    cold = options.warm_start is None and options.max_seconds is None
    if not cold or matrix.on_device or not 0 < matrix.n_edges <= MOST_EDGES or not is_installed():
        return False
    sample = matrix.values_at(np.arange(0, matrix.n_edges, matrix.n_edges // SAMPLE | 1))
    return bool(np.unique(sample).size >= LEAST_DISTINCT * sample.size)


def compiled_start(residual: ResidualNetwork, integer: bool) -> tuple[Reals, Mask] | None:
    """Potentials and matched candidates, optimal but for rounding; None where OR-tools finds none."""
    n_limits = residual.network.tails.size
    profits, potentials = residual.profits, np.zeros(residual.network.n_nodes)
    flow = None
    for _ in range(1 if integer else 2):
        largest = float(np.abs(profits[np.isfinite(profits)]).max(initial=0.0))
        unit = 1.0 if integer else 2.0 ** (math.frexp(largest)[1] - BITS)
        if not largest or unit == 0 or largest / unit > 2.0**BITS:
            return None
        whole = np.rint(profits / unit)
        flow = _flow(residual, whole)
        raised = None if flow is None else _potentials(residual, whole, flow)
        if flow is None or raised is None:
            return None
        potentials = potentials + raised * unit
        if residual.imbalance(potentials, flow[n_limits:] > 0) <= LEAST_IMBALANCE:
            break
        reduced = residual.reduced(potentials)
        # what lies further from its price than the grid is decided
        finer = 2.0**BITS * float(np.finfo(np.float64).eps) * max(largest, float(np.abs(potentials).max()))
        profits = np.clip(reduced, -finer, finer)
    potentials = potentials - potentials[residual.network.feature_root]
    return potentials, np.asarray(flow)[n_limits:] > 0


def balanced_on_grid(residual: ResidualNetwork, grid: float) -> tuple[Reals, Mask] | None:
    """Potentials and matches, optimal for profits that are multiples of `grid`; None where OR-tools is of no help.

    A profit beyond so many units as it takes counts as that many, which no path uses up.
    """
    whole = np.clip(np.rint(residual.profits / grid), -(2.0**BITS), 2.0**BITS)
    flow = _flow(residual, whole)
    raised = None if flow is None else _potentials(residual, whole, flow)
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


def _potentials(residual: ResidualNetwork, profits: Reals, flow: Indices) -> Reals | None:
    """Potentials that leave no residual arc a profit: longest paths, whole paths evaluated at once."""
    ahead, back = flow < residual.upper, flow > residual.lower
    to = np.concatenate([residual.tails[ahead], residual.heads[back]])
    source = np.concatenate([residual.heads[ahead], residual.tails[back]])
    length = np.concatenate([profits[ahead], -profits[back]])
    order = np.argsort(to, kind="stable")
    to, source, length = to[order], source[order], length[order]
    first = np.flatnonzero(np.diff(to, prepend=-1))
    ends = to[first]
    counts = np.diff(np.append(first, to.size))
    potentials = np.zeros(residual.network.n_nodes)
    follows, steps = np.full(potentials.size, -1), np.zeros(potentials.size)
    for _ in range(MOST_SWEEPS):
        reached = potentials[source] + length
        best = np.maximum.reduceat(reached, first)
        rises = best > potentials[ends]
        if not rises.any():
            return potentials
        at = np.flatnonzero((reached == np.repeat(best, counts)) & np.repeat(rises, counts))[::-1]
        follows[to[at]], steps[to[at]] = source[at], length[at]
        total = path_lengths(follows, steps)
        if total is None:
            return None
        potentials = np.maximum(potentials, total)
    return None
