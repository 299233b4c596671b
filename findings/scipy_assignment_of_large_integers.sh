#!/usr/bin/env bash
# scipy 1.17.1: assignments of integer costs beyond 2**52 are not optimal, without a word.
#
# Expected: integer costs are compared as integers, or refused where they cannot be. Seen: linear_sum_assignment and
# min_weight_full_bipartite_matching turn them into float64, where neighbours beyond 2**53 are one number; sums round before.
# 5 x 5 matrices of an offset plus 0 to 99: none wrong with an offset of 2**40; a few with 2**52, a tenth
# with 2**54, nearly all with 2**60 (int64) and 2**63 (uint64), by up to 300 in a total whose entries differ by 99.
# The offset is the same for every assignment, so taking it away first changes nothing but the rounding: then all are right.
# Scores packed with an index into one integer, counts times a large unit, and times in nanoseconds are such costs. The
# documentation of linear_sum_assignment names no limit for integers.
# Source: run as below with scipy 1.17.1 and numpy 2.4.6; all 120 assignments say what the best total is, in Python's integers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/probe.py" <<'PYTHON'
import itertools

import numpy as np
import scipy
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching


def total(costs, columns):
    return sum(int(costs[row, column]) for row, column in enumerate(columns))


SOLVERS = {
    "linear_sum_assignment": lambda costs: linear_sum_assignment(costs)[1],
    "min_weight_full_bipartite_matching": lambda costs: min_weight_full_bipartite_matching(csr_array(costs))[1],
}
print("scipy", scipy.__version__)
for power, kind, expected in ((40, np.int64, (0, 0)), (52, np.int64, (0, 20)), (54, np.int64, (5, 60)), (60, np.int64, (150, 200)), (63, np.uint64, (150, 200))):
    for name, solve in SOLVERS.items():
        wrong = worst = shifted = 0
        for seed in range(200):
            small = np.random.default_rng(seed).integers(0, 100, (5, 5))
            costs = np.array([[2**power + int(value) for value in row] for row in small], kind)
            best = min(total(costs, columns) for columns in itertools.permutations(range(5)))
            miss = total(costs, solve(costs)) - best
            wrong, worst = wrong + (miss > 0), max(worst, miss)
            shifted += total(costs, solve((costs - costs.min()).astype(np.int64) + 1)) > best
        print(f"  {name}, 2**{power} + 0 to 99, {np.dtype(kind)}: {wrong} of 200 not optimal, by up to {worst}; shifted {shifted}")
        assert expected[0] <= wrong <= expected[1], f"changed: {name} at 2**{power}"
        assert shifted == 0, f"changed: {name} at 2**{power}, shifted"
PYTHON
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$work/env/bin/python" "$work/probe.py"
