"""Scores of the tests here: of every type, of kinds that suit a bracket or mislead it; and what counts as the same."""

from __future__ import annotations

import numpy as np

import allocation as al
from allocation.arguments import in_memory
from allocation.cuda.kernels import TYPES as KERNEL_TYPES

TYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")
KINDS = ("generic", "tied", "equal", "one row", "sparse")
SHAPES = ((3, 1100), (40, 57), (1, 2000), (300, 9), (64, 64), (70, 600))


def drawn(shape: tuple[int, int], kind: str, seed: int) -> np.ndarray:
    """Scores that suit a bracket, or mislead it."""
    rng = np.random.default_rng(seed)
    if kind == "generic":
        return rng.standard_normal(shape)
    if kind == "tied":
        return rng.integers(-2, 4, shape).astype(float)
    if kind == "equal":
        return np.full(shape, 1.5)
    if kind == "one row":  # the sample sees few of the entries that matter
        return np.where(np.arange(shape[0])[:, None] == shape[0] // 2, rng.random(shape) + 5, -1.0)
    return np.where(rng.random(shape) < 0.02, rng.random(shape), -0.0)


def typed(scores: np.ndarray, type_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores as a device holds them and, of the same values, as NumPy computes with them."""
    if type_name != "bfloat16":
        converted = scores.astype(type_name)
        return converted, converted
    bits = (scores.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits.view(np.int16), (bits.astype(np.uint32) << 16).view(np.float32)


def scores_of_keys(keys: np.ndarray, type_name: str, absent: float) -> np.ndarray:
    """Keys of the kernels back to scores in float64, by NumPy."""
    bits, infinity = KERNEL_TYPES[type_name]
    sign = 1 << (bits - 1)
    patterns = np.asarray(keys, np.uint64)
    if infinity is None:
        return np.where(keys > 0, (patterns ^ np.uint64(sign)).view(np.int64).astype(np.float64), absent)
    patterns = np.where(patterns >= sign, patterns ^ np.uint64(sign), ~patterns & np.uint64(2 * sign - 1))
    if type_name == "bfloat16":
        scores = (patterns.astype(np.uint32) << 16).view(np.float32)
    else:
        scores = patterns.astype(f"u{bits // 8}").view(type_name)
    return np.where(keys > 0, scores.astype(np.float64), absent)


def assert_same(found: al.Solution, expected: al.Solution) -> None:
    """Matches, values and prices, to the last bit."""
    for name in ("tokens", "features", "values"):
        ours, theirs = in_memory(getattr(found, name)), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for name, price in vars(expected.prices).items():
        for part in ("value", "lower", "upper"):
            ours, theirs = getattr(getattr(found.prices, name), part), getattr(price, part)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}.{part}")
