#!/usr/bin/env bash
# POT 0.9.7.post1: the potentials of entropic transport are logarithms of scalings, not the documented Lagrange multipliers.
#
# Expected: result.potentials are "dual potentials, i.e. Lagrange multipliers for the marginal constraints", so the
# documentation, prices in the unit of the costs, whose sum over the weights is the value (or near it, for a small reg).
# Seen: ot.solve and ot.solve_sample with reg and reg_type "KL" or "entropy" return them divided by reg: with reg = 0.001 they
# add up to 289 where the value is 0.29, u + v exceeds the costs by hundreds, and costs and reg in another unit leave them as
# they are. With the default "KL", log(weight) is in them too. So a price or threshold read from them, a lower bound, or a test
# of dual feasibility is wrong by a factor that changes with reg. Nothing is said.
# Without reg, and with reg_type="L2", they are in the unit of the costs, and add up to the value. reg * potential is right,
# up to a constant, for "entropy", reg * (potential - log(weight)) for "KL".
# Source: run as below with pot 0.9.7.post1, numpy 2.4.6, scipy 1.17.1; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pot==0.9.7.post1 numpy==2.4.6 scipy==1.17.1
"$work/env/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import ot

rng = np.random.default_rng(0)
x, y = rng.random((4, 2)), rng.random((5, 2))
costs = ot.dist(x, y)
a, b = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.05, 0.15, 0.2, 0.25, 0.35])
STEP = 1e-5


def solve(reg, reg_type, weights=a, costs=costs):
    return ot.solve(costs, weights, b, reg=reg, reg_type=reg_type, max_iter=200000, tol=1e-12)


def total(result):
    return float(result.potentials[0] @ a + result.potentials[1] @ b)


def multipliers(reg, reg_type):
    """Those of a, up to a constant, by central differences of the value."""
    moves = np.eye(4) - 1 / 4
    return np.array([
        (solve(reg, reg_type, a + STEP * m).value - solve(reg, reg_type, a - STEP * m).value) / (2 * STEP) for m in moves
    ])


def centred(u):
    return u - u.mean()


exact = ot.solve(costs, a, b)
print(f"no reg: value {exact.value:.4f}, sum of the potentials over the weights {total(exact):.4f}")
assert np.isclose(total(exact), exact.value), "changed: the potentials without reg"
assert (exact.potentials[0][:, None] + exact.potentials[1] <= costs + 1e-9).all(), "changed: exact potentials are feasible"
for reg in (0.1, 0.01, 0.001):
    for reg_type in ("KL", "entropy", "L2"):
        result = solve(reg, reg_type)
        print(f"reg {reg}, {reg_type}: value {result.value:.4f}, sum of the potentials over the weights {total(result):.4f}")
        if reg_type == "L2":
            assert np.isclose(total(result), result.value, atol=0.01), "changed: the potentials with L2"
        elif reg < 0.1:
            assert total(result) > 50 * result.value, "changed: the potentials with an entropic reg"
found = solve(0.001, "KL")
excess = found.potentials[0][:, None] + found.potentials[1] - costs
print(f"reg 0.001, KL: u + v exceeds the costs by up to {excess.max():.0f}, the largest cost is {costs.max():.2f}")
assert excess.max() > 100 * costs.max(), "changed: the size of the potentials"
for reg_type, right in (("entropy", lambda u, w: 0.1 * u), ("KL", lambda u, w: 0.1 * (u - np.log(w)))):
    u = solve(0.1, reg_type).potentials[0]
    true = multipliers(0.1, reg_type)
    print(f"reg 0.1, {reg_type}: multipliers of a {true.round(4).tolist()}, potentials {centred(u).round(4).tolist()}")
    assert np.abs(centred(u) - true).max() > 0.5, "changed: the potentials are the multipliers"
    assert np.allclose(centred(right(u, a)), true, atol=1e-6), "changed: what makes multipliers of them"
other_unit = solve(100, "KL", costs=1000 * costs)
assert np.isclose(other_unit.value, 1000 * solve(0.1, "KL").value), "changed: the value in another unit"
assert np.allclose(centred(other_unit.potentials[0]), centred(solve(0.1, "KL").potentials[0])), "changed: the unit"
lazy = ot.solve_sample(x, y, a, b, reg=0.001, lazy=True, max_iter=200000, tol=1e-12)
print(f"solve_sample, lazy, reg 0.001: sum of the potentials over the weights {total(lazy):.4f}")
assert total(lazy) > 100, "changed: the potentials of solve_sample"
PYTHON
