"""Limits on both sides on the CPU: against OR-tools' minimum-cost flow, against `linprog`, and warm against cold."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy.optimize import linprog

import allocation as al
from benchmarks.harness import alternating, arguments, report
from tests.allocation.min_cost_flow import flow_network

SHAPE = (1024, 4096)
# what the linear programme of all edges still ends on
SMALL_SHAPE = (256, 1024)
K, M = 32, 8
SEED = 0
# OR-tools takes integers: floats in units of this; what rounding loses is checked.
GRID = 2.0**-20
DRIFTS = (0.01, 0.05)
Limits = dict[str, Any]


def inputs(shape: tuple[int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Scores by family."""
    rng = np.random.default_rng(SEED)
    normal = rng.standard_normal(shape, dtype=np.float32)
    scales = (np.arange(1, shape[1] + 1) + 20.0) ** -0.5
    rank = 96
    directions = rng.standard_normal((rank, shape[1]), dtype=np.float32) / np.float32(np.sqrt(rank))
    return {
        "normal": normal,
        "Zipf-scaled columns": normal * (scales / scales.mean()).astype(np.float32),
        "rank 96": rng.standard_normal((shape[0], rank), dtype=np.float32) @ directions,
        "integers 0..3": rng.integers(0, 4, shape, dtype=np.int32),
        "all equal": np.ones(shape, np.float32),
    }


def limits(shape: tuple[int, int] = SHAPE) -> dict[str, Limits]:
    """Limits by family: a mean of K matches per token and M per feature."""
    budget = K * shape[0]
    quotas = al.zipf_quotas(budget, shape[1], alpha=1.0, beta=100.0, tokens=shape[0])
    return {
        "budget, caps, floors": {"budget": budget, "token_caps": 48, "token_floors": 8, "feature_caps": 2 * M,
                                 "feature_floors": 1},
        "caps of equal sum": {"token_caps": K, "feature_caps": M},
        "Zipf quotas, token caps": {"token_caps": 2 * K, "feature_caps": quotas},
    }  # fmt: skip


def against_flow(repeats: int) -> None:
    """Every input under the first limits; normal and equal scores under others."""
    scores, kinds = inputs(), limits()
    first, *others = kinds
    cases = [(name, first) for name in scores] + [("normal", kind) for kind in others] + [("all equal", others[0])]
    rows = []
    for name, kind in cases:
        problem = al.Problem(scores[name], **kinds[kind])
        exact_in = 1.0 if np.all(scores[name] == np.rint(scores[name])) else GRID
        whole = np.rint(scores[name].astype(np.float64) / exact_in).astype(np.int64)
        flow, bonus = flow_network(al.Problem(whole, **kinds[kind]))
        times = alternating({"ortools": flow.solve, "ours": lambda p=problem: al.solve(p)}, repeats)
        solution = certified(problem)
        floors = sum(int(f.sum()) for f in (problem.token_floors, problem.feature_floors) if f is not None)
        theirs = (-flow.optimal_cost() - bonus * floors) * exact_in
        lost = 0.0 if exact_in == 1.0 else exact_in * solution.values.size
        assert abs(theirs - solution.objective) <= lost + 1e-9 * abs(theirs), (theirs, solution.objective)
        rows.append([name, kind, 1e3 * times["ortools"], 1e3 * times["ours"], times["ortools"] / times["ours"]])
    notes = f"{size(SHAPE)}, mean {K} per token and {M} per feature, seed {SEED}; float32 but the integers. "
    notes += "OR-tools: solve() alone, its network of all edges built before, floats rounded to multiples of 2^-20. "
    notes += "Every answer certified and of equal value."
    report("two_sided", ["scores", "limits", "OR-tools ms", "solve ms", "OR-tools / solve"], rows, notes)


def against_linear_programme(repeats: int) -> None:
    """One problem: the programme takes a minute."""
    name, kind = "normal", "budget, caps, floors"
    problem = al.Problem(inputs(SMALL_SHAPE)[name], **limits(SMALL_SHAPE)[kind])
    arrays = al.to_linear_program(problem)
    started = time.perf_counter()
    found = linprog(arrays.c, A_ub=arrays.A_ub, b_ub=arrays.b_ub, bounds=arrays.bounds, method="highs")
    theirs = time.perf_counter() - started
    ours = alternating({"ours": lambda: al.solve(problem)}, repeats)["ours"]
    objective = certified(problem).objective
    assert abs(-found.fun - objective) <= 1e-7 * objective, (found.fun, objective)
    notes = f"{size(SMALL_SHAPE)}, seed {SEED}, float32. `scipy.optimize.linprog`, method highs, once, its arrays "
    notes += "built before; solve: a median. Equal value, ours certified."
    headings = ["scores", "limits", "linprog ms", "solve ms", "linprog / solve"]
    report("two_sided_linprog", headings, [[name, kind, 1e3 * theirs, 1e3 * ours, theirs / ours]], notes)


def warm_against_cold(repeats: int) -> None:
    """Every input under every limits."""
    rows = []
    for name, scores in inputs().items():
        for kind, given in limits().items():
            problem = al.Problem(scores, **given)
            starts = [certified(al.Problem(drifted(scores, by), **given)).prices.without_intervals() for by in DRIFTS]
            sides = {"cold": lambda p=problem: al.solve(p)}
            for by, prices in zip(DRIFTS, starts, strict=True):
                sides[f"{by}"] = lambda p=problem, prices=prices: al.solve(p, warm_start=prices)
            times = list(alternating(sides, repeats).values())
            answers = [certified(problem, start) for start in (None, *starts)]
            assert np.ptp([answer.objective for answer in answers]) <= 1e-9 * abs(answers[0].objective)
            passes = [answer.stats["passes"] for answer in answers]
            ratios = [times[0] / warm for warm in times[1:]]
            rows.append([name, kind, *(1e3 * seconds for seconds in times), *ratios, *passes])
    names = [f"warm {by:.0%}" for by in DRIFTS]
    headings = ["scores", "limits", *(f"{of} ms" for of in ("cold", *names)), *(f"cold / {of}" for of in names)]
    headings += [f"passes {of}" for of in ("cold", *names)]
    shares = " or ".join(f"{by:.0%}" for by in DRIFTS)
    notes = (
        f"{size(SHAPE)}, seed {SEED}. Warm: from the prices of scores that differ by a factor each, normal around 1 "
    )
    notes += (
        f"with a deviation of {shares}; of integers that share is drawn anew. So equal scores start from prices of "
    )
    notes += (
        "scores without ties, which do not fit. Passes over the scores, those over a sample of the tokens included. "
    )
    notes += "Every answer certified."
    report("two_sided_warm", headings, rows, notes)


def drifted(scores: np.ndarray, by: float) -> np.ndarray:
    """Similar scores."""
    rng = np.random.default_rng(1)
    if scores.dtype.kind == "i":
        return np.where(rng.random(scores.shape) < by, rng.permuted(scores), scores)
    return scores * (1 + np.float32(by) * rng.standard_normal(scores.shape, dtype=np.float32))


def certified(problem: al.Problem, warm_start: al.Prices | None = None) -> al.Solution:
    solution = al.solve(problem, warm_start=warm_start)
    assert solution.stats["solver"] == "TwoSided"
    assert al.verify(problem, solution).optimal
    return solution


def size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def main() -> None:
    """The three tables."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(repeats=3)
    repeats = parser.parse_args().repeats
    against_flow(repeats)
    warm_against_cold(repeats)
    against_linear_programme(repeats)


if __name__ == "__main__":
    main()
