#!/usr/bin/env bash
# OR-tools 9.15.6755: the dual values of a linear programme solved by HiGHS are the left-hand sides of its constraints.
#
# Expected: dual_value of a constraint is its price, as with GLOP, CLP and PDLP, or the call is refused. Seen: pywraplp with
# "HIGHS_LP" and model_builder with "highs" solve the programme and return for each constraint what its left-hand side
# amounts to at the solution (2 for a feature whose two places are taken), and 0 for every reduced cost. The numbers are
# non-negative and look like prices, and status and optimum are right. Scores times ten leave them as they are.
# MathOpt with SolverType.HIGHS gives true duals of the same programme.
# Source: run as below with ortools 9.15.6755, numpy 2.4.6; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet ortools==9.15.6755 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import numpy as np
from ortools.linear_solver import pywraplp
from ortools.linear_solver.python import model_builder
from ortools.math_opt.python import mathopt

TOKENS, FEATURES = 5, 3
LIMITS = [1] * TOKENS + [2] * FEATURES
scores = np.random.default_rng(0).random((TOKENS, FEATURES)).round(2)


def sums(choice):
    """What each token and each feature takes."""
    return [sum(row) for row in choice] + [sum(column) for column in zip(*choice)]


def total(choice, scale):
    return sum(float(scale * scores[t, f]) * choice[t][f] for t in range(TOKENS) for f in range(FEATURES))


def by_pywraplp(name, scale):
    solver = pywraplp.Solver.CreateSolver(name)
    choice = [[solver.NumVar(0, solver.infinity(), "") for _ in range(FEATURES)] for _ in range(TOKENS)]
    rows = [solver.Add(taken <= limit) for taken, limit in zip(sums(choice), LIMITS)]
    solver.Maximize(total(choice, scale))
    assert solver.Solve() == solver.OPTIMAL, "changed: the status"
    reduced = [v.reduced_cost() for row in choice for v in row]
    held = [[v.solution_value() for v in row] for row in choice]
    return solver.Objective().Value(), [row.dual_value() for row in rows], reduced, sums(held)


def by_model_builder(name, scale):
    model, solver = model_builder.Model(), model_builder.Solver(name)
    choice = [[model.new_num_var(0, np.inf, "") for _ in range(FEATURES)] for _ in range(TOKENS)]
    rows = [model.add(taken <= limit) for taken, limit in zip(sums(choice), LIMITS)]
    model.maximize(total(choice, scale))
    assert solver.solve(model) == model_builder.SolveStatus.OPTIMAL, "changed: the status"
    reduced = [solver.reduced_cost(v) for row in choice for v in row]
    held = [[solver.value(v) for v in row] for row in choice]
    return solver.objective_value, [solver.dual_value(row) for row in rows], reduced, sums(held)


def by_mathopt(name, scale):
    model = mathopt.Model()
    choice = [[model.add_variable(lb=0) for _ in range(FEATURES)] for _ in range(TOKENS)]
    rows = [model.add_linear_constraint(taken <= limit) for taken, limit in zip(sums(choice), LIMITS)]
    model.maximize(total(choice, scale))
    found = mathopt.solve(model, mathopt.SolverType[name])
    reduced = found.reduced_costs([v for row in choice for v in row])
    held = [found.variable_values(row) for row in choice]
    return found.objective_value(), list(found.dual_values(rows)), list(reduced), sums(held)


WAYS = {
    "pywraplp GLOP": (by_pywraplp, "GLOP"), "pywraplp CLP": (by_pywraplp, "CLP"),
    "model_builder glop": (by_model_builder, "glop"), "MathOpt HIGHS": (by_mathopt, "HIGHS"),
    "pywraplp HIGHS_LP": (by_pywraplp, "HIGHS_LP"), "model_builder highs": (by_model_builder, "highs"),
}
for scale in (1, 10):
    for name, (way, solver) in WAYS.items():
        value, duals, reduced, taken = way(solver, scale)
        paid = float(np.dot(duals, LIMITS))
        print(f"scores times {scale}, {name}: optimum {value:.2f}, duals {np.round(duals, 2)}, times limits {paid:.2f}")
        if name.endswith(("HIGHS_LP", "highs")):
            assert np.allclose(duals, taken), f"changed: the duals by {name}"
            assert not any(reduced), f"changed: the reduced costs by {name}"
            assert abs(paid - value) > 1, f"changed: the duals by {name} price the optimum"
        else:
            assert np.isclose(paid, value) and any(reduced), f"changed: the duals by {name}"
PYTHON
