#!/usr/bin/env bash
# SciPy 1.17.1 (HiGHS): of an assignment whose scores are all below 1e-7 nothing is chosen, and the status is "optimal".
#
# Expected: the choice does not depend on the unit of the scores; or a warning. Seen: the same 6 x 8 scores times 1e-6 give
# the best total, times 1e-7 the empty choice with status 0 and objective -0.0, by linprog (simplex, interior point) and by
# milp: HiGHS takes a price below 1e-7 as none, and does not rescale costs. Times 1e10 or 1e15 the total is right.
# Gradient times activation, a usual score of a feature at a token, is often that small. linear_sum_assignment, in the
# case that it covers, finds the best at every scale; scores divided by their maximum do in linprog.
# Source: run as below with scipy 1.17.1, numpy 2.4.6; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, linprog, milp

TOKENS, FEATURES = 6, 8
scores = np.random.default_rng(0).random((TOKENS, FEATURES))
per_token = sp.kron(sp.eye(TOKENS), np.ones((1, FEATURES)))
per_feature = sp.kron(np.ones((1, TOKENS)), sp.eye(FEATURES))
limits, most = sp.vstack([per_token, per_feature]).tocsr(), np.ones(TOKENS + FEATURES)
rows, columns = linear_sum_assignment(scores, maximize=True)
best = scores[rows, columns].sum()


def answers(scale):
    """Status, number of matches and total, in units of the unscaled scores, by each of the three."""
    costs = -scale * scores.ravel()
    found = {}
    for method in ("highs-ds", "highs-ipm"):
        found[method] = linprog(costs, A_ub=limits, b_ub=most, bounds=(0, 1), method=method)
    found["milp"] = milp(
        costs, constraints=LinearConstraint(limits, -np.inf, most), bounds=Bounds(0, 1), integrality=np.ones(costs.size)
    )
    return {name: (x.status, round(x.x.sum()), float((x.x * scores.ravel()).sum())) for name, x in found.items()}


for scale in (1.0, 1e15, 1e10, 1e-6, 1e-7, 1e-9):
    found = answers(scale)
    print(f"scores times {scale:g}:", *(f"{name}: status {s}, {n} matches, total {t:.4f};" for name, (s, n, t) in found.items()))
    for name, (status, matches, total) in found.items():
        assert status == 0, f"changed: {name} says so at {scale}"
        if scale >= 1e-6:
            assert matches == TOKENS and abs(total - best) < 1e-6, f"changed: {name} at {scale}"
        else:
            assert matches == 0 and total == 0.0, f"changed: {name} at {scale} chooses something"
rows, columns = linear_sum_assignment(1e-9 * scores, maximize=True)
assert np.isclose(scores[rows, columns].sum(), best), "changed: linear_sum_assignment"
tiny = 1e-9 * scores
rescaled = linprog(-(tiny / tiny.max()).ravel(), A_ub=limits, b_ub=most, bounds=(0, 1), method="highs")
assert np.isclose((rescaled.x * scores.ravel()).sum(), best), "changed: the rescaled programme"
print(f"best total {best:.4f}, by linear_sum_assignment at 1 and at 1e-9")
PYTHON
