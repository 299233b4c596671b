"""An allocation problem as a minimum-cost flow for OR-tools: an independent solver for what is too large for HiGHS."""

from __future__ import annotations

from typing import Any

import numpy as np
from ortools.graph.python import min_cost_flow

import allocation as al


def flow_network(problem: al.Problem) -> tuple[Any, int]:
    """The flow of a problem with integer scores, limits of single tokens and features and a budget; and its bonus.

    Source to tokens to features to sink, one unit an edge; what the budget leaves over goes from source to sink. The
    share of an arc below its floor earns a bonus above every score, which only a flow that meets all floors collects
    in full.
    """
    tokens, features = problem.shape
    scores = problem.scores.astype(np.int64)
    bonus = int(np.abs(scores).max(initial=0)) * 2 * min(tokens, features) + 1
    source, sink = tokens + features, tokens + features + 1
    flow = min_cost_flow.SimpleMinCostFlow()
    row, column = np.divmod(np.arange(scores.size), features)
    flow.add_arcs_with_capacity_and_unit_cost(row, tokens + column, np.ones(scores.size, np.int64), -scores.reshape(-1))
    for size, floors, caps, ends in (
        (tokens, problem.token_floors, problem.token_caps, lambda i: (np.full(tokens, source), i)),
        (features, problem.feature_floors, problem.feature_caps, lambda j: (tokens + j, np.full(features, sink))),
    ):
        other = scores.size // max(size, 1)
        low = np.zeros(size, np.int64) if floors is None else floors
        high = np.full(size, other) if caps is None else np.minimum(caps, other)
        tails, heads = ends(np.arange(size))
        flow.add_arcs_with_capacity_and_unit_cost(tails, heads, low, np.full(size, -bonus))
        flow.add_arcs_with_capacity_and_unit_cost(tails, heads, high - low, np.zeros(size, np.int64))
    total = scores.size if problem.budget is None else min(problem.budget, scores.size)
    flow.add_arc_with_capacity_and_unit_cost(source, sink, total, 0)
    flow.set_node_supply(source, total)
    flow.set_node_supply(sink, -total)
    return flow, bonus


def best_value(problem: al.Problem) -> int:
    """The optimal objective; the floors must be feasible."""
    flow, bonus = flow_network(problem)
    status = flow.solve()
    assert status == flow.OPTIMAL, status
    floors = [0 if limits is None else int(limits.sum()) for limits in (problem.token_floors, problem.feature_floors)]
    tokens, features = problem.shape
    first = problem.scores.size  # arcs of the edges, then of the tokens' floors, of their caps, of the features' floors
    floored = np.concatenate([first + np.arange(tokens), first + 2 * tokens + np.arange(features)])
    assert flow.flows(floored).sum() == sum(floors), "the floors were not met"
    return int(-flow.optimal_cost() - bonus * sum(floors))
