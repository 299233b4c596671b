"""What others offer for the same problems, each as a function without arguments that returns the best total score."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

import allocation as al
from allocation.solvers.two_sided import compiled_flow
from tests.allocation.min_cost_flow import flow_network

# Floats become multiples of their largest over this: what flows in integers can take without overflow.
LEVELS = 1 << 24
INFEASIBLE = "infeasible"
# A total score, or that there is none.
Answer = float | str
Rival = Callable[[], Answer]


def plain_install(problem: al.Problem) -> Rival:
    """Ourselves where no extra is installed; in a process of its own, since nothing is put back."""

    def run() -> Answer:
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "ortools" else find(name, *rest)  # type: ignore
        compiled_flow.is_installed.cache_clear()
        return al.solve(problem).objective

    return run


def assignment(scores: np.ndarray) -> Rival:
    """SciPy's shortest augmenting paths on a matrix."""

    def run() -> Answer:
        rows, columns = linear_sum_assignment(scores, maximize=True)
        return float(scores[rows, columns].sum())

    return run


def lapjv(scores: np.ndarray) -> Rival | None:
    """The algorithm of Jonker and Volgenant, package `lap`; None where it is not installed."""
    if importlib.util.find_spec("lap") is None:
        return None
    import lap

    costs = -scores.astype(np.float64)

    def run() -> Answer:
        _, columns, _ = lap.lapjv(costs)
        return float(scores[np.arange(columns.size), columns].sum())

    return run


def sparse_assignment(problem: al.Problem) -> Rival:
    """SciPy's sparse form of the same; scores of 0 would be no edges, so all are shifted."""
    matrix = problem.matrix
    shift = 1.0 + float(np.abs(matrix.array).max())
    costs = csr_array((shift - matrix.array, (matrix.tokens, matrix.features)), shape=problem.shape)

    def run() -> Answer:
        rows, columns = min_weight_full_bipartite_matching(costs)
        return float((shift - costs[rows, columns]).sum())

    return run


def unit_of(scores: np.ndarray) -> float:
    """The grid that OR-tools gets scores on; integers are exact."""
    return 1.0 if scores.dtype.kind == "i" else float(np.abs(scores).max()) / LEVELS


def min_cost_flow(scores: np.ndarray, limits: dict[str, Any]) -> Rival:
    """OR-tools on all edges, its network built before: `solve()` alone is timed."""
    allowed = np.where(scores == -np.inf, 0, scores)
    unit = unit_of(allowed if scores.dtype.kind == "f" else scores)
    problem = al.Problem(np.rint(allowed / unit).astype(np.int64), **limits)
    flow, bonus = flow_network(problem)
    for arc in np.flatnonzero(scores == -np.inf):
        flow.set_arc_capacity(int(arc), 0)
    floors = sum(int(f.sum()) for f in (problem.token_floors, problem.feature_floors) if f is not None)
    first = problem.scores.size
    tokens, features = problem.shape
    floored = np.concatenate([first + np.arange(tokens), first + 2 * tokens + np.arange(features)])

    def run() -> Answer:
        status = flow.solve()
        if status != flow.OPTIMAL or flow.flows(floored).sum() < floors:
            return INFEASIBLE
        return float((-flow.optimal_cost() - bonus * floors) * unit)

    return run


def sparse_flow(problem: al.Problem) -> Rival:
    """OR-tools on candidate edges, one unit from every token and into every feature."""
    from ortools.graph.python import min_cost_flow

    matrix, (tokens, features) = problem.matrix, problem.shape
    unit = unit_of(matrix.array)
    flow = min_cost_flow.SimpleMinCostFlow()
    costs = -np.rint(matrix.array / unit).astype(np.int64)
    ones = np.ones(costs.size, np.int64)
    flow.add_arcs_with_capacity_and_unit_cost(matrix.tokens, tokens + matrix.features, ones, costs)
    nodes = np.arange(tokens + features)
    flow.set_nodes_supplies(nodes, np.where(nodes < tokens, 1, -1))

    def run() -> Answer:
        return float(-flow.optimal_cost() * unit) if flow.solve() == flow.OPTIMAL else INFEASIBLE

    return run


def prove_soft(problem: al.Problem, soft: al.SoftSolution) -> None:
    """Shares that follow from the prices, counts within their caps, a price only where its cap is met: optimal."""
    prices, counts = soft.prices, np.zeros(problem.shape[1])
    assert problem.token_caps is not None
    assert problem.feature_caps is not None
    assert problem.budget is not None
    limits = []
    for token, (row, price, cap) in enumerate(
        zip(problem.scores, prices.tokens.value, problem.token_caps, strict=True)  # type: ignore[arg-type]
    ):
        x = (row.astype(np.float64) - prices.budget.value - price - prices.features.value) / soft.temperature
        tail = np.exp(-np.abs(x))
        shares = np.where(x >= 0, 1.0, tail) / (1.0 + tail) if soft.form == "entropy" else np.clip(x + 0.5, 0.0, 1.0)
        assert np.abs(shares - soft.allocation[token]).max() < 1e-9
        counts += shares
        limits.append((float(shares.sum()), float(cap), float(price)))
    limits += zip(counts, problem.feature_caps, np.asarray(prices.features.value), strict=True)
    limits.append((float(counts.sum()), float(problem.budget), float(prices.budget.value)))
    for count, cap, price in limits:
        assert price >= 0
        assert count <= cap * (1 + 1e-9)
        assert price == 0 or count >= cap * (1 - 1e-9)
