#!/usr/bin/env bash
# OR-tools 9.15.6755: arrays of float costs, capacities and supplies lose their fractions, without a word.
#
# Its flow and assignment solvers are for integers. Expected: floats are refused, as they are one at a time (TypeError).
# Seen: add_arcs_with_capacity_and_unit_cost, add_arcs_with_cost and set_nodes_supplies take float arrays and cut off what
# stands after the point. Scores between 0 and 1 all cost 0, any assignment is "optimal", and the one returned is far
# from the best; a capacity of 0.9 closes its arc; a supply of 1.9 is 1. Scores times a million, as integers, are right.
# Source: run as below with ortools 9.15.6755, scipy 1.17.1, numpy 2.4.6; SciPy only says what the best total is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet ortools==9.15.6755 scipy==1.17.1 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import numpy as np
from ortools.graph.python.linear_sum_assignment import SimpleLinearSumAssignment
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow
from scipy.optimize import linear_sum_assignment

N = 6
scores = np.random.default_rng(0).random((N, N))
best = scores[linear_sum_assignment(scores, maximize=True)].sum()
tokens, features = np.repeat(np.arange(N), N), np.tile(np.arange(N), N)
ones, supplies = np.ones(N * N, dtype=np.int64), np.repeat([1, -1], N)


def by_flow(costs):
    """Total score of the flow of least cost, and the costs that the solver holds."""
    flow = SimpleMinCostFlow()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(tokens, N + features, ones, costs)
    flow.set_nodes_supplies(np.arange(2 * N), supplies)
    assert flow.solve() == flow.OPTIMAL, "changed: the status"
    return float(scores.ravel()[flow.flows(arcs) > 0].sum()), {flow.unit_cost(arc) for arc in arcs}


def by_assignment(costs):
    solver = SimpleLinearSumAssignment()
    solver.add_arcs_with_cost(tokens, features, costs)
    assert solver.solve() == solver.OPTIMAL, "changed: the status"
    return float(sum(scores[i, solver.right_mate(i)] for i in range(N)))


whole = np.round(-1e6 * scores.ravel()).astype(np.int64)
found, held = by_flow(-scores.ravel())
print(f"best total {best:.3f}; float costs: flow {found:.3f}, assignment {by_assignment(-scores.ravel()):.3f}, held {held}")
assert held == {0}, "changed: float costs keep their fractions"
assert found < best - 0.1 and by_assignment(-scores.ravel()) < best - 0.1, "changed: float costs count"
print(f"costs as integers, a million times as large: flow {by_flow(whole)[0]:.3f}, assignment {by_assignment(whole):.3f}")
assert np.isclose(by_flow(whole)[0], best) and np.isclose(by_assignment(whole), best), "changed: integer costs"

flow = SimpleMinCostFlow()
arc = flow.add_arcs_with_capacity_and_unit_cost([0], [1], np.array([0.9]), np.array([1]))[0]
flow.set_nodes_supplies([0, 1], np.array([1.9, -1.9]))
print(f"a capacity of 0.9 is {flow.capacity(arc)}, a supply of 1.9 is {flow.supply(0)}")
assert (flow.capacity(arc), flow.supply(0)) == (0, 1), "changed: capacities and supplies"
try:
    flow.add_arc_with_capacity_and_unit_cost(0, 1, 1, 0.7)
except TypeError as error:
    print("one float at a time:", str(error).split(":")[0])
else:
    raise AssertionError("changed: a single float cost is taken")
PYTHON
