"""One-sided selection on the CPU: whole matrix, rows and columns, against one read of the scores and the peers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import torch

import allocation as al
from benchmarks.harness import alternating, arguments, report

SHAPE = (4096, 16384)
K, M = 32, 8
BUDGET = K * SHAPE[0]
SEED = 0


def generic() -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal(SHAPE, dtype=np.float32)


def hard_inputs() -> dict[str, np.ndarray]:
    """Inputs that mislead samples, groups and partitions."""
    rng = np.random.default_rng(SEED)
    scores = generic()
    tails = np.exp(2.0 * rng.standard_normal(SHAPE[1])).astype(np.float32)
    return {
        "relu, 60 % zeros": np.maximum(scores - np.float32(0.2533), 0),
        "integers 0..3": rng.integers(0, 4, SHAPE, dtype=np.int32),
        "all equal": np.full(SHAPE, 1.5, np.float32),
        "heavy-tailed columns": scores * tails,
        "descending rows": -np.sort(-scores, axis=1),
    }


def problems(scores: np.ndarray) -> dict[str, al.Problem]:
    return {
        "whole": al.mutual_choice(scores, BUDGET),
        "rows": al.token_choice(scores, K),
        "columns": al.feature_choice(scores, M),
    }


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    scores = generic()
    tensor = torch.from_numpy(scores)
    # a training run: the next batch's scores differ a little, and the last batch's prices are at hand
    drifted = scores + np.float32(0.02) * np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)
    cold = problems(scores)
    warm = {name: al.solve(problem).prices for name, problem in problems(drifted).items()}

    peers = {
        "whole": {
            "np.argpartition": lambda: np.argpartition(scores.reshape(-1), -BUDGET)[-BUDGET:],
            "torch.topk": lambda: torch.topk(tensor.flatten(), BUDGET),
        },
        "rows": {
            "np.argpartition": lambda: np.argpartition(scores, -K, axis=1)[:, -K:],
            "torch.topk": lambda: torch.topk(tensor, K, dim=1),
        },
        "columns": {"torch.topk": lambda: torch.topk(tensor, M, dim=0)},
    }
    rows = []
    for kind, problem in cold.items():
        sides = {
            "floor": lambda: scores.max(),
            "cold": lambda problem=problem: al.solve(problem),
            "warm": lambda problem=problem, prices=warm[kind]: al.solve(problem, warm_start=prices),
            **peers[kind],
        }
        times = alternating(sides, options.repeats)
        tracemalloc.start()
        solution = al.solve(problem)
        peak = tracemalloc.get_traced_memory()[1] / scores.nbytes
        tracemalloc.stop()
        assert al.verify(problem, solution).optimal
        milliseconds = [
            1e3 * times.get(name, float("nan")) for name in ("floor", "cold", "warm", "torch.topk", "np.argpartition")
        ]
        topk = times["torch.topk"]
        rows.append(
            [kind, *milliseconds, times["cold"] / times["floor"], topk / times["cold"], topk / times["warm"], peak]
        )
    headings = ["selection", "floor ms", "solve ms", "warm ms", "torch.topk ms", "np.argpartition ms"]
    headings += ["solve / floor", "topk / solve", "topk / warm", "peak / scores"]
    notes = f"float32 {SHAPE[0]} x {SHAPE[1]}, budget {BUDGET}, {K} per row, {M} per column, seed {SEED}; "
    notes += "floor: scores.max(); warm: prices of slightly different scores; peak: memory beyond the input."
    report("selection", headings, rows, notes)

    rows = []
    for name, hard in hard_inputs().items():
        for kind, problem in problems(hard).items():
            times = alternating(
                {"floor": lambda hard=hard: hard.max(), "solve": lambda problem=problem: al.solve(problem)},
                options.repeats,
            )
            tracemalloc.start()
            solution = al.solve(problem)
            peak = tracemalloc.get_traced_memory()[1] / hard.nbytes
            tracemalloc.stop()
            assert al.verify(problem, solution).optimal
            rows.append([name, kind, 1e3 * times["floor"], 1e3 * times["solve"], times["solve"] / times["floor"], peak])
    report(
        "selection_hard", ["input", "selection", "floor ms", "solve ms", "solve / floor", "peak / scores"], rows, notes
    )


if __name__ == "__main__":
    main()
