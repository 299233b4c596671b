"""Which float64 sums are exact, and of what power of two numbers are multiples: for the certificate alone."""

from __future__ import annotations

import math

import numpy as np

from allocation.arrays import Mask, Reals


def lost(a: Reals, b: Reals, total: Reals) -> Mask:
    """Whether `total`, the float64 sum of `a` and `b`, is not the sum (Knuth)."""
    with np.errstate(invalid="ignore", over="ignore"):
        part = total - a
        return np.asarray((a - (total - part)) + (b - part) != 0)


def unit_of(numbers: Reals) -> float:
    """The largest power of two that all are multiples of; infinite where all are 0."""
    sizes = np.abs(numbers[(numbers != 0) & np.isfinite(numbers)])
    if not sizes.size:
        return math.inf
    fractions, exponents = np.frexp(sizes)
    whole = np.ldexp(fractions, 53).astype(np.int64)
    return float(np.ldexp((whole & -whole).astype(np.float64), exponents - 53).min())
