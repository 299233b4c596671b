#!/usr/bin/env bash
# lap 0.5.13: with costs above a million lapjv returns assignments that are not optimal, without a word.
#
# Expected: the unit of the costs does not matter, or large costs are refused, as lapmod of the same package refuses them
# ("Cost matrix values must be less than 1000000"). Seen: lapjv starts its minima at the constant lap.LARGE, 1000000, also
# where all costs are larger. Of 200 random 8 x 8 matrices none is wrong with costs up to 1e6, a few are with costs up to 2e6,
# about half with costs up to 1e7, with a total up to twice the best; so with large negative costs, with an offset of 1e6 to
# costs between 0 and 1, and for rectangular matrices. A 1 x 5 problem gets a column that is not the smallest.
# The documentation of lapjv names no limit. Scores times a million, as integer solvers want them, pixel distances
# squared, or a large number in place of "forbidden" are such costs. SciPy finds the best for all of these, and so does
# lapjv of lapx 0.11.1, a later package whose module is named `lap` too. Costs divided by their maximum are right.
# Source: run as below with lap 0.5.13, lapx 0.11.1, scipy 1.17.1, numpy 2.4.6; SciPy says what the best total is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/probe.py" <<'PYTHON'
import sys

import lap
import numpy as np
from scipy.optimize import linear_sum_assignment


def wrong(make):
    """How many of 200 totals are above the best, and the worst ratio of the two."""
    count, worst = 0, 1.0
    for seed in range(200):
        costs = make(np.random.default_rng(seed))
        _, x, _ = lap.lapjv(costs, extend_cost=True)
        rows = np.flatnonzero(x >= 0)
        assert len(rows) == min(costs.shape) and len(set(x[rows])) == len(rows), "changed: not a full assignment"
        best = costs[linear_sum_assignment(costs)].sum()
        found = costs[rows, x[rows]].sum()
        if found > best + 1e-9 * np.abs(costs).max():
            count, worst = count + 1, max(worst, found / best)
    return count, worst


original = sys.argv[1] == "lap"
print(f"{sys.argv[1]} {lap.__version__}, LARGE {lap.LARGE}")
for name, make, expected in (
    ("8 x 8, costs up to 1", lambda rng: rng.random((8, 8)), False),
    ("8 x 8, costs up to 1e6", lambda rng: 1e6 * rng.random((8, 8)), False),
    ("8 x 8, costs up to 2e6", lambda rng: 2e6 * rng.random((8, 8)), True),
    ("8 x 8, costs up to 1e7", lambda rng: 1e7 * rng.random((8, 8)), True),
    ("8 x 8, costs down to -1e7", lambda rng: -1e7 * rng.random((8, 8)), True),
    ("5 x 8, costs up to 1e7", lambda rng: 1e7 * rng.random((5, 8)), True),
    ("1 x 5, costs up to 1e7", lambda rng: 1e7 * rng.random((1, 5)), True),
    ("1 x 5, costs from 1e6 to 1e6 + 1", lambda rng: 1e6 + rng.random((1, 5)), True),
    ("8 x 8, costs up to 1e7, divided by their maximum", lambda rng: (c := rng.random((8, 8))) / c.max(), False),
):
    count, worst = wrong(make)
    print(f"  {name}: {count} of 200 not optimal, the worst total {worst:.2f} times the best")
    assert (count > 0) == (expected and original), f"changed: {name}"
    if original and name in ("8 x 8, costs up to 1e7", "1 x 5, costs up to 1e7"):
        assert count > 50 and worst > 1.5, f"changed: how many of {name}"
costs = 1e7 * np.random.default_rng(0).random((8, 8))
sparse = 8, costs.ravel(), np.arange(0, 65, 8, dtype=np.int32), np.tile(np.arange(8, dtype=np.int32), 8)
try:
    lap.lapmod(*sparse)
except ValueError as error:
    print("  lapmod:", error)
    assert "must be less than 1000000" in str(error), "changed: why lapmod refuses them"
else:
    raise AssertionError("changed: lapmod takes large costs")
PYTHON
for package in lap==0.5.13 lapx==0.11.1; do
    python3 -m venv "$work/${package%==*}"
    "$work/${package%==*}/bin/pip" install --quiet "$package" scipy==1.17.1 numpy==2.4.6
    "$work/${package%==*}/bin/python" "$work/probe.py" "${package%==*}"
done
