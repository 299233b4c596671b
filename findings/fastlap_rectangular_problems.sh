#!/usr/bin/env bash
# fastlap 0.4.0: bottleneck, k-best and dual answers for matrices that are not square are those of another problem.
#
# Expected: its documentation lists rectangular matrices as supported, solve_lbap as the assignment with the smallest largest
# cost, solve_lap_kbest as the k best assignments, and duals with u[i] + v[j] <= cost and sum(u) + sum(v) == total.
# Seen, for one token with costs 6, 3 and 0 for three features: solve_lbap answers 6, not 0; the three best are 0, 0 and 3, the
# same assignment twice, so that a margin between best and second best is 0; the duals add up to 6, not to the total of 0.
# Of 100 random 3 x 4 matrices most bottlenecks, all duals of "sinkhorn" and most of "lapjv" and "dantzig" are wrong, also as
# bounds; so are 2 x 4 and 4 x 3. Nothing is said. (What looks like padding to a square is counted as part of the problem.)
# solve_lap itself is right for all of these, and for square matrices all four functions are.
# Source: run as below with fastlap 0.4.0, numpy 2.4.6; all assignments are listed to say what is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet fastlap==0.4.0 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import itertools

import fastlap
import numpy as np

DUALS = ("lapjv", "dantzig", "sinkhorn", "subgradient")


def listed(costs):
    """The costs of the pairs of every full assignment."""
    costs = costs if costs.shape[0] <= costs.shape[1] else costs.T
    rows, columns = costs.shape
    return [costs[range(rows), picked] for picked in itertools.permutations(range(columns), rows)]


def wrong(costs):
    """Which of the answers for `costs` are not right."""
    every, found = listed(costs), set()
    totals = sorted(float(pairs.sum()) for pairs in every)
    best = fastlap.solve_lap(costs)[0]
    assert np.isclose(best, totals[0]), "changed: solve_lap"
    assert np.isclose(fastlap.solve_lap(costs, maximize=True)[0], totals[-1]), "changed: solve_lap, maximize"
    if not np.isclose(fastlap.solve_lbap(costs)[0], min(pairs.max() for pairs in every)):
        found.add("bottleneck")
    solutions = fastlap.solve_lap_kbest(costs, k=3)
    if not np.allclose([solution[0] for solution in solutions], totals[:3]):
        found.add("k best")
    for algorithm in DUALS:
        total, _, _, u, v = fastlap.solve_lap_duals(costs, algorithm=algorithm)
        feasible = (np.array(u)[:, None] + np.array(v) <= costs + 1e-6).all()
        if not (feasible and np.isclose(total, sum(u) + sum(v), atol=1e-6)):
            found.add(f"duals, {algorithm}")
    return found


row = np.array([[6.0, 3.0, 0.0]])
bottleneck = fastlap.solve_lbap(row)[0]
solutions = fastlap.solve_lap_kbest(row, k=3)
total, _, _, u, v = fastlap.solve_lap_duals(row)
print(f"costs {row.tolist()}: bottleneck {bottleneck}, three best {solutions}, total {total}, duals {u} and {v}")
assert bottleneck == 6.0, "changed: the bottleneck of one row"
assert [solution[0] for solution in solutions] == [0.0, 0.0, 3.0], "changed: the three best of one row"
assert solutions[0][1] == solutions[1][1] == [2], "changed: the second best assignment of one row"
assert total == 0.0 and sum(u) + sum(v) == 6.0, "changed: the duals of one row"
for shape in ((3, 3), (4, 4), (2, 4), (3, 4), (4, 3)):
    counts = dict.fromkeys(("bottleneck", "k best", *(f"duals, {algorithm}" for algorithm in DUALS)), 0)
    for seed in range(100):
        for name in wrong(np.random.default_rng(seed).random(shape)):
            counts[name] += 1
    print(f"{shape[0]} x {shape[1]}, wrong of 100:", *(f"{name}: {count};" for name, count in counts.items()))
    if shape[0] == shape[1]:
        assert not any(counts.values()), "changed: square matrices"
    else:
        assert counts["bottleneck"] > 50 and counts["duals, sinkhorn"] > 90, "changed: rectangular matrices"
    if shape == (2, 4):
        assert counts["k best"] == 100, "changed: the three best of 2 x 4"
    if shape[0] < shape[1]:
        assert counts["duals, lapjv"] > 50 and counts["duals, dantzig"] > 50, "changed: the duals of wide matrices"
PYTHON
