"""How far thresholds learnt from batches miss their frequency: the tables of the page "Without the batch".

`python docs/scripts/threshold_bias.py` writes docs/assets/tables/threshold_bias.md and frequency_tracking.md.

Every batch is an exact problem: its thresholds are the prices that `allocation` returns for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import allocation as al
import numpy as np
import torch
from numpy.typing import NDArray
from sae_torch.choices.thresholds import DAMPING, FrequencyTracker

FOLDER = Path(__file__).parent.parent / "assets" / "tables"
TOKENS, FEATURES, BATCHES, SEED = 4096, 64, 100, 0
QUOTAS = (1, 2, 4, 10, 40)
Reals = NDArray[np.float64]
# One distribution by how to draw from it and by the probability of exceeding a threshold, so that the realised
# frequency is computed and not sampled.
Tail = tuple[
    Callable[[np.random.Generator, tuple[int, int]], Reals],
    Callable[[Reals], Reals],
]
TAILS: dict[str, Tail] = {
    "exponential": (
        lambda rng, shape: rng.exponential(size=shape),
        lambda t: np.exp(-t),
    ),
    "lognormal, sigma 1": (
        lambda rng, shape: rng.lognormal(size=shape),
        lambda t: 0.5 * np.vectorize(math.erfc)(np.log(t) / math.sqrt(2.0)),
    ),
    "Pareto, index 2": (
        lambda rng, shape: 1.0 + rng.pareto(2.0, size=shape),
        lambda t: t**-2.0,
    ),
}


def harmonic(n: int) -> float:
    """The n-th harmonic number."""
    return math.fsum(1.0 / i for i in range(1, n + 1))


def predicted(quota: int, tokens: int = TOKENS) -> float:
    """Realised over target for exponential tails: (N / m) exp(H_(m-1) - H_N)."""
    return tokens / quota * math.exp(harmonic(quota - 1) - harmonic(tokens))


def averaged(tail: str, quota: int, batches: int = BATCHES) -> float:
    """Realised over target when the m-th largest scores of many batches are averaged."""
    draw, exceeds = TAILS[tail]
    rng = np.random.default_rng(SEED)
    total = np.zeros(FEATURES)
    for _ in range(batches):
        problem = al.feature_choice(draw(rng, (TOKENS, FEATURES)), quota)
        total += np.asarray(al.solve(problem).prices.features.upper)
    return float(np.mean(exceeds(total / batches))) * TOKENS / quota


def tracked(divide: bool, target: float = 1e-3, tokens: int = 2048, batches: int = 200) -> tuple[float, float]:
    """Share over target before and after tracking the frequency, from a threshold that fires an e-fold too rarely.

    Scores have exponential tails and spread 1. With `divide` by the layer's own tracker, otherwise with the same steps
    but for the division by the target.
    """
    rng = np.random.default_rng(SEED)
    start = torch.full((FEATURES,), 1.0 - math.log(target))
    tracker = FrequencyTracker(FEATURES)
    tracker.restart(start)
    goal, price, spread = (
        torch.full((FEATURES,), target),
        torch.zeros(FEATURES),
        torch.ones(FEATURES),
    )
    theta = start.clone()
    for step in range(batches):
        scores = torch.from_numpy(rng.exponential(size=(tokens, FEATURES)))
        if divide:
            tracker.observe(scores, goal, price, spread)
            theta = tracker.theta
        else:
            error = (scores > theta).double().mean(dim=0).float() - target
            theta = (theta + error / (step + 1.0 + DAMPING / (target * tokens))).clamp(min=0.0)
    return tuple(float((-t.double()).exp().mean()) / target for t in (start, theta))


def bias_table() -> str:
    """Realised over target for each quota and tail."""
    names = list(TAILS)
    rows = [
        [
            "quota $m$",
            "exponential, predicted",
            *[f"{name}, measured" for name in names],
        ]
    ]
    rows += [
        [
            str(m),
            f"{predicted(m):.3f}",
            *[f"{averaged(name, m):.3f}" for name in names],
        ]
        for m in QUOTAS
    ]
    return markdown(rows)


def tracking_table() -> str:
    """Share over target with and without the division by the target."""
    rows = [["step", "share / target before", "after 200 batches"]]
    for label, divide in (
        (r"$c_t\,s\,(q - p)$", False),
        (r"$c_t\,s\,(q - p) / p$, the layer's", True),
    ):
        before, after = tracked(divide)
        rows.append([label, f"{before:.3f}", f"{after:.3f}"])
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A table, numbers to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "threshold_bias": bias_table,
    "frequency_tracking": tracking_table,
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, table in TABLES.items():
        (FOLDER / f"{name}.md").write_text(table(), encoding="utf-8")
        print(f"{name}\n\n{table()}")
