"""Matrices of scores by name: the structures that are easy for one solver and hard for another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Shape = tuple[int, int]
Family = Callable[[np.random.Generator, Shape], np.ndarray]


def uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.random(shape)


def normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.standard_normal(shape)


def integers_to(largest: int) -> Family:
    return lambda rng, shape: rng.integers(1, largest + 1, shape)


def geometric(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Distances of points in the plane, negative: the nearest match best."""
    points, others = rng.random((shape[0], 1, 2)), rng.random((1, shape[1], 2))
    return -np.sqrt(((points - others) ** 2).sum(-1))


def two_cost(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Two values only, far apart (Dell'Amico and Toth 2000)."""
    return np.where(rng.random(shape) < 0.5, 1_000_000, 1)


def high_low(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Of each entry the low or the high of two ranges (Dell'Amico and Toth 2000)."""
    low, high = rng.integers(0, 1000, shape), rng.integers(990_000, 1_000_001, shape)
    return np.where(rng.random(shape) < 0.5, low, high)


def positive_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.abs(rng.standard_normal(shape))


def products(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """`a_i b_j` of floats: the scores are monotone in both, and so is every dual."""
    return np.outer(rng.random(shape[0]), rng.random(shape[1]))


def ranks(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """`i j` (Machol and Wien 1976)."""
    return np.outer(np.arange(1, shape[0] + 1), np.arange(1, shape[1] + 1))


def sums_of_integers(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """`a_i + b_j`: every complete matching is as good."""
    return rng.integers(0, 1000, shape[0])[:, None] + rng.integers(0, 1000, shape[1])


def sums_of_floats(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """The same, ties broken by rounding alone."""
    return rng.random(shape[0])[:, None] + rng.random(shape[1])


def rank_one(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Products of either sign."""
    return np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1]))


def noisy_rank_one(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """The same with noise of 1e-3."""
    return rank_one(rng, shape) + 1e-3 * rng.standard_normal(shape)


def twelve_orders(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal scores; scales of tokens and of features six orders apart each."""
    rows, columns = (10.0 ** rng.uniform(-6, 6, size) for size in shape)
    return rng.standard_normal(shape) * rows[:, None] * columns


ASSIGNMENT: dict[str, Family] = {
    "uniform": uniform,
    "integers 1..100": integers_to(100),
    "integers 1..10^6": integers_to(1_000_000),
    "geometric": geometric,
    "two-cost": two_cost,
    "high-low": high_low,
    "positive normal": positive_normal,
}
STRUCTURED: dict[str, Family] = {
    "a_i b_j": products,
    "i j": ranks,
    "a_i + b_j, integers": sums_of_integers,
    "a_i + b_j, floats": sums_of_floats,
}
RANK_ONE: dict[str, Family] = {"rank one": rank_one, "rank one, noise 1e-3": noisy_rank_one}
