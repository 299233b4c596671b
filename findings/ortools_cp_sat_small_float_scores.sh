#!/usr/bin/env bash
# OR-tools 9.15.6755 (CP-SAT): with scores around 1e-5 an assignment that misses 29 % of the total is "OPTIMAL".
#
# Expected: OPTIMAL means the best choice of the float objective up to rounding, whatever the unit of the scores, or another
# status. Seen: of one 6 x 8 problem the answer is the best for scores up to 1, a choice with six matches and 71 % of the
# total for the same scores times 1e-5, and none at all for times 1e-6; the status is OPTIMAL each time.
# best_objective_bound tells it: it is 2.2 times the objective at 1e-5, and above 0 where the objective is 0. Times 1e15 the answer is right. It goes wrong at scores ten times
# those at which HiGHS does. Gradient times activation, a usual score of a feature at a token, is often that small.
# Scores divided by their maximum give the best choice.
# Source: run as below with ortools 9.15.6755, scipy 1.17.1, numpy 2.4.6; SciPy only says what the best total is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet ortools==9.15.6755 scipy==1.17.1 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import linear_sum_assignment

SHAPE = (6, 8)
scores = np.random.default_rng(0).random(SHAPE)
best = float(scores[linear_sum_assignment(scores, maximize=True)].sum())


def assigned(weights):
    """Matches and total in units of the unscaled scores, and objective and bound as the solver tells them."""
    model = cp_model.CpModel()
    chosen = np.array([[model.new_bool_var("") for _ in range(SHAPE[1])] for _ in range(SHAPE[0])])
    for line in (*chosen, *chosen.T):
        model.add_at_most_one(line.tolist())
    model.maximize(cp_model.LinearExpr.weighted_sum(chosen.ravel().tolist(), weights.ravel().tolist()))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL, "changed: the status"
    taken = np.array([solver.value(one) for one in chosen.ravel()]).reshape(SHAPE)
    return int(taken.sum()), float((taken * scores).sum()), solver.objective_value, solver.best_objective_bound


for scale in (1e15, 1.0, 1e-2, 1e-5, 1e-6, 1e-9):
    matches, total, objective, bound = assigned(scale * scores)
    print(f"scores times {scale:g}: OPTIMAL, {matches} matches, total {total:.4f} of {best:.4f}; "
          f"objective {objective:.4g}, bound {bound:.4g}")
    if scale >= 1e-2:
        assert np.isclose(total, best), f"changed: the choice at {scale}"
    elif scale == 1e-5:
        assert matches == 6 and total < 0.8 * best and bound > 2 * objective, "changed: the choice at 1e-5"
    else:
        assert matches == 0 and objective == 0 < bound, f"changed: the choice at {scale}"
tiny = 1e-9 * scores
total = assigned(tiny / tiny.max())[1]
print(f"divided by the maximum: total {total:.4f}")
assert np.isclose(total, best), "changed: the rescaled problem"
PYTHON
