"""What a pass over all edges does with one block of scores, wherever the scores are.

Written over the functions that array libraries share (NumPy, CuPy and torch have them, `array_api_strict` has nothing
else): only the positions and scores of the few edges found leave a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# SplitMix64 (Steele, Lea, Flood 2014) on signed integers, which every library multiplies modulo 2^64.
_GOLDEN, _FIRST, _SECOND = (
    int(np.uint64(factor).astype(np.int64)) for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def as_float64(xp: Any, numbers: Any) -> Any:
    """The same numbers in float64."""
    return xp.asarray(numbers, dtype=xp.float64)


def beating(xp: Any, block: Any, rows: Any, columns: Any, strictly: bool) -> tuple[Any, Any]:
    """Flat positions and scores of the entries above (or at) the sum of a row's and a column's threshold."""
    limits = rows[:, None] + columns[None, :]
    beats = block > limits if strictly else block >= limits
    positions = xp.nonzero(xp.reshape(beats, (-1,)))[0]
    return positions, xp.take(xp.reshape(block, (-1,)), positions, axis=0)


def reduced_profit(xp: Any, block: Any, rows: Any, columns: Any) -> Any:
    """What the entries of a block score above the prices of their row and column, in float64."""
    return as_float64(xp, block) - rows[:, None] - columns[None, :]


def total_excess(xp: Any, block: Any, rows: Any, columns: Any) -> Any:
    """Sum of what entries score above the prices of their row and column."""
    excess = reduced_profit(xp, block, rows, columns)
    return xp.sum(xp.where(excess > 0, excess, 0.0))


def best_positions(xp: Any, scores: Any, prices: Any, most: int) -> tuple[Any, Any]:
    """Columns of the `most` entries of every row that score highest above the columns' prices, and their scores."""
    profit = as_float64(xp, scores) - prices[None, :]
    first = profit.shape[1] - most
    if hasattr(xp, "argpartition"):
        positions = xp.argpartition(profit, first, axis=1)[:, first:]
    else:
        positions = xp.argsort(profit, axis=1)[:, first:]
    return positions, xp.take_along_axis(scores, positions, axis=1)


def without_positions(xp: Any, values: Any, positions: Any, absent: float) -> Any:
    """The matrix with `absent` at flat positions, which ascend. NumPy writes into the matrix given."""
    if xp is np:
        values.reshape(-1)[positions] = absent
        return values
    if positions.shape[0] == 0:
        return values
    every = xp.arange(values.shape[0] * values.shape[1])
    at = xp.searchsorted(positions, every)
    last = positions.shape[0] - 1
    absent_here = xp.take(positions, xp.where(at > last, last, at), axis=0) == every
    return xp.where(xp.reshape(absent_here, values.shape), absent, values)


def hash24(xp: Any, ids: Any) -> Any:
    """24 bits that look random, the same for the same int64 id."""
    bits = ids * _GOLDEN
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits = (bits ^ (bits >> shift & (1 << 64 - shift) - 1)) * factor
    return bits >> 40 & (1 << 24) - 1


def best_of_each(xp: Any, profit: Any, order: Any, axis: int) -> tuple[Any, Any]:
    """Where each row's (axis 1) or column's largest entry is, and what it is; of equal ones that of highest `order`."""
    best = xp.max(profit, axis=axis, keepdims=True)
    positions = xp.argmax(xp.where(profit == best, order, -1), axis=axis)
    return positions, xp.squeeze(best, axis=axis)


def shortest_steps(xp: Any, costs: Any, lengths: Any, axis: int) -> tuple[Any, Any]:
    """The least of cost plus length along an axis: where it is, and what it is."""
    total = costs + (lengths[None, :] if axis == 1 else lengths[:, None])
    return xp.argmin(total, axis=axis), xp.min(total, axis=axis)
