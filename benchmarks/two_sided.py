"""Limits on both sides on the CPU: cold and warm, against OR-tools' minimum-cost flow on all edges."""

from __future__ import annotations

from typing import Any

import numpy as np

import allocation as al
from benchmarks.harness import alternating, arguments, report
from tests.allocation.min_cost_flow import flow_network

SHAPE = (1024, 4096)
K, M = 32, 8
BUDGET = K * SHAPE[0]
SEED = 0
# OR-tools takes integers: floats in units of this; what rounding loses is checked.
GRID = 2.0**-20
DRIFT = 0.02


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(SEED)
    normal = rng.standard_normal(SHAPE, dtype=np.float32)
    scales = (np.arange(1, SHAPE[1] + 1) + 20.0) ** -0.5
    rank = 96
    directions = rng.standard_normal((rank, SHAPE[1]), dtype=np.float32) / np.float32(np.sqrt(rank))
    return {
        "normal": normal,
        "Zipf-scaled columns": normal * (scales / scales.mean()).astype(np.float32),
        "rank 96": rng.standard_normal((SHAPE[0], rank), dtype=np.float32) @ directions,
        "integers 0..3": rng.integers(0, 4, SHAPE, dtype=np.int32),
        "all equal": np.ones(SHAPE, np.float32),
    }


def limits() -> dict[str, dict[str, Any]]:
    quotas = al.zipf_quotas(BUDGET, SHAPE[1], alpha=1.0, beta=100.0, tokens=SHAPE[0])
    return {
        "budget, caps, floors": {"budget": BUDGET, "token_caps": 48, "token_floors": 8, "feature_caps": 2 * M,
                                 "feature_floors": 1},
        "caps of equal sum": {"token_caps": K, "feature_caps": M},
        "Zipf quotas, token caps": {"token_caps": 2 * K, "feature_caps": quotas},
    }  # fmt: skip


def main() -> None:
    """Every input under the first limits; normal scores under the others."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    scores, kinds = inputs(), limits()
    first, *others = kinds
    cases = [(name, first) for name in scores] + [("normal", kind) for kind in others] + [("all equal", others[0])]
    rows = []
    for name, kind in cases:
        problem = al.Problem(scores[name], **kinds[kind])
        noise = DRIFT * np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)
        before = al.Problem(scores[name] * (1 + noise), **kinds[kind])
        warm = al.solve(before).prices
        exact_in = 1.0 if np.all(scores[name] == np.rint(scores[name])) else GRID
        whole = np.rint(scores[name].astype(np.float64) / exact_in).astype(np.int64)
        flow, bonus = flow_network(al.Problem(whole, **kinds[kind]))
        times = alternating(
            {
                "ortools": flow.solve,
                "cold": lambda p=problem: al.solve(p),
                "warm": lambda p=problem, prices=warm: al.solve(p, warm_start=prices),
            },
            options.repeats,
        )
        cold, again = al.solve(problem), al.solve(problem, warm_start=warm)
        assert cold.stats["solver"] == "TwoSided"
        for solution in (cold, again):
            assert al.verify(problem, solution).optimal
        floors = sum(int(f.sum()) for f in (problem.token_floors, problem.feature_floors) if f is not None)
        theirs = (-flow.optimal_cost() - bonus * floors) * exact_in
        lost = 0.0 if exact_in == 1.0 else exact_in * cold.values.size
        assert abs(theirs - cold.objective) <= lost + 1e-9 * abs(theirs), (theirs, cold.objective)
        ratios = [times["ortools"] / times["cold"], times["ortools"] / times["warm"]]
        passes = [cold.stats["passes"], again.stats["passes"]]
        rows.append([name, kind, *(1e3 * times[side] for side in ("ortools", "cold", "warm")), *ratios, *passes])
    headings = ["scores", "limits", "OR-tools ms", "solve ms", "warm ms", "OR-tools / solve", "OR-tools / warm"]
    headings += ["passes", "warm passes"]
    notes = f"{SHAPE[0]} x {SHAPE[1]}, mean {K} per token and {M} per feature, seed {SEED}; float32 but the integers; "
    notes += "OR-tools: solve() alone, its network of all edges built before, floats rounded to multiples of 2^-20; "
    notes += f"warm: from the prices of scores that differ by a factor of 1 +- {DRIFT} (of normal noise) each; passes "
    notes += "over the scores, those over a sample of the tokens included. Every answer certified and of equal value."
    report("two_sided", headings, rows, notes)


if __name__ == "__main__":
    main()
