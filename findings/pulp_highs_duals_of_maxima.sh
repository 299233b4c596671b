#!/usr/bin/env bash
# PuLP 3.3.2: the duals of a maximisation have the other sign by HiGHS than by CBC.
#
# Expected: constraint.pi and variable.dj mean the same whichever solver is asked, so that one line of code reads the price
# of a token or feature from either. Seen: for LpMaximize and solver PULP_CBC_CMD, pi is what the objective gains by a unit
# more of the right-hand side, for HiGHS it is minus that, and dj likewise; for LpMinimize the two agree. Status, objective
# and choice are the same, nothing is said. So prices turn negative with the solver alone, the sum of right-hand sides times
# prices is minus the optimum, and "which features are worth more capacity" is answered upside down.
# HiGHS itself, asked to maximise, gives CBC's signs: PuLP hands it the negated objective and does not turn the duals back.
# Source: run as below with pulp 3.3.2, highspy 1.16.0, numpy 2.4.6; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pulp==3.3.2 highspy==1.16.0 numpy==2.4.6
"$work/env/bin/python" -W ignore - <<'PYTHON'
import highspy
import numpy as np
import pulp

TOKENS, FEATURES, CAPACITY, STEP = 4, 2, 1.5, 0.01
scores = np.random.default_rng(0).random((TOKENS, FEATURES)).round(2)
SOLVERS = {"CBC": pulp.PULP_CBC_CMD(msg=False), "HiGHS": pulp.HiGHS(msg=False)}


def solved(solver, sense, capacity=CAPACITY):
    """Each token to one feature at most; the first feature has `capacity` places, the other one."""
    model = pulp.LpProblem("allocation", sense)
    choice = pulp.LpVariable.dicts("x", (range(TOKENS), range(FEATURES)), lowBound=0)
    total = pulp.lpSum(float(scores[t, f]) * choice[t][f] for t in range(TOKENS) for f in range(FEATURES))
    model += total if sense == pulp.LpMaximize else -total
    for t in range(TOKENS):
        model += pulp.lpSum(choice[t].values()) <= 1, f"token {t}"
    for f, places in enumerate((capacity, 1)):
        model += pulp.lpSum(choice[t][f] for t in range(TOKENS)) <= places, f"feature {f}"
    model.solve(SOLVERS[solver])
    assert pulp.LpStatus[model.status] == "Optimal", "changed: the status"
    return model


def optimum(*arguments):
    return pulp.value(solved(*arguments).objective)


for sense, name in ((pulp.LpMaximize, "maximise"), (pulp.LpMinimize, "minimise the negative")):
    for solver in SOLVERS:
        model = solved(solver, sense)
        prices = [constraint.pi for constraint in model.constraints.values()]
        limits = [-constraint.constant for constraint in model.constraints.values()]
        value = pulp.value(model.objective)
        paid = float(np.dot(prices, limits))
        lowest, highest = min(v.dj for v in model.variables()), max(v.dj for v in model.variables())
        print(
            f"{name}, {solver}: optimum {value:.2f}, prices {np.round(prices, 2).tolist()}, "
            f"limits times prices {paid:.2f}, dj from {lowest:.2f} to {highest:.2f}"
        )
        turned = solver == "HiGHS" and sense == pulp.LpMaximize
        assert np.isclose(paid, -value if turned else value), f"changed: the prices by {solver}"
        positive = (sense == pulp.LpMaximize) != turned
        assert (min(prices) >= 0) == positive and (max(prices) <= 0) != positive, f"changed: the signs by {solver}"
        assert (highest <= 1e-9 < -lowest) == positive, f"changed: the reduced costs by {solver}"

for solver in SOLVERS:
    more, less = (optimum(solver, pulp.LpMaximize, CAPACITY + step) for step in (STEP, -STEP))
    gain = (more - less) / (2 * STEP)
    named = solved(solver, pulp.LpMaximize).constraints["feature_0"].pi
    print(f"maximise, {solver}: a place more at feature 0 gains {gain:.2f}, its pi is {named:.2f}")
    assert gain > 0.1 and np.isclose(named, gain if solver == "CBC" else -gain), f"changed: what pi by {solver} says"

model = highspy.Highs()
model.setOptionValue("output_flag", False)
choice = [[model.addVariable(lb=0) for _ in range(FEATURES)] for _ in range(TOKENS)]
for t in range(TOKENS):
    model.addConstr(sum(choice[t]) <= 1)
for f, places in enumerate((CAPACITY, 1)):
    model.addConstr(sum(choice[t][f] for t in range(TOKENS)) <= places)
model.maximize(sum(float(scores[t, f]) * choice[t][f] for t in range(TOKENS) for f in range(FEATURES)))
prices = list(model.getSolution().row_dual)
print("maximise, highspy itself: prices", np.round(prices, 2).tolist())
assert min(prices) >= 0 and max(prices) > 0, "changed: HiGHS's own signs"
PYTHON
