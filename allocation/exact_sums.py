"""Sums without rounding: of many numbers, which of two are exact, and of what power of two numbers are multiples."""

from __future__ import annotations

import math

import numpy as np

from allocation.arrays import Array, Mask, Reals
from allocation.threads import map_runs

# Numbers of a block: its sum has so many bits more than they have.
BLOCK_BITS = 15
# Where this leaves too few bits, sums of so many numbers may do.
ROW_BITS = 8
# Fewer numbers are summed one by one; of larger ones a sum of blocks could overflow.
FEW, LARGEST = 1000, 1e290


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


def exact_terms(values: Array) -> list[float]:
    """A few float64 numbers with the same sum as these finite ones."""
    if values.dtype.kind in "iub":
        total, terms = _integer_sum(values), []
        while total:
            terms.append(float(total))
            total -= int(terms[-1])
        return terms
    left, terms = _float_terms(values), []
    while term := math.fsum(left):
        terms.append(term)
        left.append(-term)
    return terms


def rounded_sum(values: Array) -> float:
    """The sum of finite numbers, correctly rounded."""
    if values.dtype.kind in "iub":
        return float(_integer_sum(values))
    return math.fsum(_float_terms(values))


def _integer_sum(values: Array) -> int:
    if values.size < FEW:
        return sum(values.tolist())
    block, total = 1 << BLOCK_BITS, 0
    for start in range(0, values.size, block):
        part = values[start : start + block]
        part = part if part.dtype == np.uint64 else part.astype(np.int64)
        # each half has 32 bits, so that the sums of 2^15 of them have less than 64
        total += (int((part >> 32).sum(dtype=np.int64)) << 32) + int((part & 0xFFFFFFFF).sum(dtype=np.int64))
    return total


def _float_terms(values: Array) -> list[float]:
    """Numbers with the same sum, fewer where there are many."""
    if values.size < FEW or (values.itemsize == 8 and np.abs(values).max() > LARGEST):
        few: list[float] = values.tolist()
        return few
    parts = map_runs(
        lambda run: _exact_parts(values[run[0][0] : run[-1][1]]),
        values.size,
        8 * values.size,
        None,
        8 << BLOCK_BITS,
    )
    return [term for part in parts for term in part]


def _exact_parts(values: Array) -> list[float]:
    """A few numbers with the same sum.

    Of each block the leading bits are split off, as many as float64 sums hold, until nothing is left (Rump, Ogita and
    Oishi 2008). Positive numbers of few bits that are near each other need no splitting.
    """
    parts: list[float] = []
    digits = 53 if values.itemsize == 8 else 24
    size = 1 << BLOCK_BITS
    rest_of_block, leading_of_block = np.empty(size), np.empty(size)
    for start in range(0, values.size, size):
        block = values[start : start + size]
        rest, leading = rest_of_block[: block.size], leading_of_block[: block.size]
        np.copyto(rest, block)
        least, most = float(rest.min()), float(rest.max())
        # all are multiples of the last bit of the least, and float64 holds 2^53 of these
        if least > 0 and block.size == size and most / least < 2.0 ** (53 - digits - ROW_BITS):
            parts += rest.reshape(-1, 1 << ROW_BITS).sum(axis=1).tolist()
            continue
        while largest := max(float(rest.max()), -float(rest.min())):
            # added to this and taken from it again, a number keeps the bits above one unit of this
            shift = math.ldexp(1.5, math.frexp(largest)[1] + BLOCK_BITS + 1)
            np.add(rest, shift, out=leading)
            leading -= shift
            parts.append(float(leading.sum()))
            rest -= leading
            left = np.flatnonzero(rest != 0)
            if not left.size:
                break
            rest, leading = rest[left], leading[: left.size]
    return parts
