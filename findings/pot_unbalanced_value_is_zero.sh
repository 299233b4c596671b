#!/usr/bin/env bash
# POT 0.9.7.post1: the value of unbalanced entropic transport is 0, whatever the two measures are.
#
# Expected: `value` is the "optimal value of the optimization problem", so its documentation, and grows as
# the two move apart. Seen: ot.solve and ot.solve_sample with reg, unbalanced and the default reg_type and unbalanced_type
# ("KL") give 0, up to the tolerance, for every problem; so does sinkhorn_unbalanced2(returnCost="total"), and debias=True gives
# a divergence of 0. Where only one marginal is relaxed and the masses differ, the value is negative. The three KL terms are counted
# without the difference of masses; so counted they cancel the linear part at the optimum, always. The documentation does not
# define KL for unequal masses, but the plan is the minimiser of the full formula, and not of the one without masses.
# Plan and value_linear are right; so are the values of mm_unbalanced2 and lbfgsb_unbalanced2 for the same problem, and of
# ot.solve with reg=0, reg_type="entropy" or unbalanced_type="L2". Who trains on or compares by the value has a constant.
# Source: run as below with pot 0.9.7.post1, numpy 2.4.6, scipy 1.17.1; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pot==0.9.7.post1 numpy==2.4.6 scipy==1.17.1
"$work/env/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import ot

REG, RELAX = 0.1, 1.0
rng = np.random.default_rng(0)
x, y = rng.random((8, 2)), rng.random((10, 2))
a, b = np.full(8, 1 / 8), np.full(10, 1 / 10)


def kl(p, q, masses=True):
    p = np.maximum(p, 1e-300)  # 0 log 0 = 0
    return float((p * np.log(p / q)).sum() + masses * (q - p).sum())


def objective(plan, costs, masses=True):
    return (
        float((plan * costs).sum()) + REG * kl(plan, np.outer(a, b), masses)
        + RELAX * kl(plan.sum(1), a, masses) + RELAX * kl(plan.sum(0), b, masses)
    )


for shift in (0.0, 0.5, 1.0, 2.0):
    costs = ot.dist(x, y + shift)
    found = ot.solve(costs, a, b, reg=REG, unbalanced=RELAX)
    best = objective(found.plan, costs)
    total = float(ot.unbalanced.sinkhorn_unbalanced2(a, b, costs, REG, RELAX, returnCost="total", stopThr=1e-9))
    samples = ot.solve_sample(x, y + shift, reg=REG, unbalanced=RELAX)
    divergence = ot.solve_sample(x, y + shift, reg=REG, unbalanced=RELAX, debias=True)
    print(
        f"shifted by {shift}: value {found.value:.1e}, sinkhorn_unbalanced2 {total:.1e}, debiased {divergence.value:.1e}; "
        f"objective of the plan {best:.4f}, its linear part {found.value_linear:.4f}"
    )
    for value in (found.value, total, samples.value, divergence.value):
        assert abs(value) < 1e-5, "changed: the value is not 0"
    assert best > 0.15 and np.isclose(found.value_linear, (found.plan * costs).sum()), "changed: the plan"
    # controls: the same problem by two other solvers, and ot.solve with other options
    by_mm = ot.unbalanced.mm_unbalanced2(a, b, costs, RELAX, reg=REG, div="kl", returnCost="total", numItermax=20000)
    by_lbfgsb = ot.unbalanced.lbfgsb_unbalanced2(a, b, costs, REG, RELAX, reg_div="kl", regm_div="kl", returnCost="total")
    print(f"    mm_unbalanced2 {by_mm:.4f}, lbfgsb_unbalanced2 {by_lbfgsb:.4f}")
    assert np.isclose(by_mm, best, atol=1e-3) and np.isclose(by_lbfgsb, best, atol=1e-3), "changed: the other solvers"
    plain = ot.solve(costs, a, b, unbalanced=RELAX)
    plan = plain.plan
    own = float((plan * costs).sum()) + RELAX * kl(plan.sum(1), a) + RELAX * kl(plan.sum(0), b)
    assert np.isclose(plain.value, own), "changed: the value without regularisation"
    entropic = ot.solve(costs, a, b, reg=REG, reg_type="entropy", unbalanced=RELAX)
    plan = np.maximum(entropic.plan, 1e-300)
    own = float((plan * costs).sum() + REG * (plan * (np.log(plan) - 1)).sum())
    own += RELAX * kl(plan.sum(1), a) + RELAX * kl(plan.sum(0), b)
    assert np.isclose(entropic.value, own), "changed: the value with reg_type entropy"
    squares = ot.solve(costs, a, b, reg=REG, unbalanced=RELAX, unbalanced_type="L2")
    assert squares.value > 0.01, "changed: the value with unbalanced_type L2"
    # without the masses, another multiple of the same plan is better than 0
    assert objective(found.plan / np.e, costs, masses=False) < -0.01, "changed: the plan minimises the other formula"

heavier = ot.solve(ot.dist(x, y), a, 3 * b, reg=REG, unbalanced=(float("inf"), RELAX))
print(f"a fixed, b three times as heavy and relaxed: value {heavier.value:.4f}")
assert heavier.value < -0.5, "changed: the value where one marginal is relaxed"
PYTHON
