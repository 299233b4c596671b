"""One price at a time: the move that brings the count of a line to its cap while the other prices stay."""

from __future__ import annotations

import numpy as np

from allocation.arrays import Array, Indices, Reals
from allocation.soft.forms import Form

# A line is done when its count is this close to the cap, or by this share of it; Newton steps do the rest.
CLOSE = 0.01
RELATIVE = 1e-4
BISECTIONS = 90
# Entries evaluated at a time, so that they stay in a core's cache.
ENTRIES = 1 << 16


def line_moves(form: Form, x: Array, caps: Reals) -> Reals:
    """The moves `d` with `sum_j a(x_ij - d_i) = caps_i` for every row; -inf where the cap exceeds the row's edges.

    `x` is used up.

    ::

        x_(k+1) - margin <= d <= x_(k) + margin,      x_(k) the k-th largest of the row, k its cap
    """
    edges = np.isfinite(x).sum(1)
    moves = np.full(len(x), -np.inf)
    rows = np.flatnonzero(caps < edges)
    if rows.size < len(x):
        x = x[rows]
    k = caps[rows].astype(np.int64)
    first, after = np.empty((2, rows.size))
    for row, rank in zip(range(rows.size), (x.shape[1] - k).tolist(), strict=True):  # the order of a row is free
        x[row].partition(min(rank, x.shape[1] - 1))
        first[row] = x[row, rank] if rank < x.shape[1] else np.inf
        after[row] = x[row, :rank].max()
    margin = form.margin(x.shape[1])
    low, high = after - margin, first + margin
    middle = np.where(np.isfinite(high), (low + high) / 2, low)
    unfinished = np.arange(rows.size)
    for turn in range(BISECTIONS):
        count, mass = _sums(form, x, unfinished, middle)
        excess = count - k[unfinished]
        above = excess > 0
        low[unfinished[above]], high[unfinished[~above]] = middle[unfinished[above]], middle[unfinished[~above]]
        left = np.abs(excess) > np.maximum(CLOSE, RELATIVE * k[unfinished])
        unfinished, count, mass = unfinished[left], count[left], mass[left]
        if unfinished.size == 0:
            break
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # counts fall about as exp(-d): a Newton step on their logarithm
            newton = middle[unfinished] + np.log(count / np.maximum(k[unfinished], CLOSE)) * count / mass
        inside = (newton > low[unfinished]) & (newton < high[unfinished]) & (turn % 6 < 5)
        middle[unfinished] = np.where(inside, newton, (low[unfinished] + high[unfinished]) / 2)
    moves[rows] = middle
    return moves


def _sums(form: Form, x: Array, rows: Indices, moves: Reals) -> tuple[Reals, Reals]:
    """Count and mass of some rows after their moves, a part of the entries at a time."""
    count, mass = np.zeros(rows.size), np.zeros(rows.size)
    whole = rows.size == len(x)
    step = max(1, ENTRIES // max(rows.size, 1))
    for start in range(0, x.shape[1], step):
        part = x[:, start : start + step] if whole else x[rows, start : start + step]
        away = part - moves[rows, None].astype(x.dtype)
        shares, slopes = np.empty_like(away), np.empty_like(away)
        form.evaluate(away, shares, slopes)
        count += shares.sum(1, dtype=np.float64)
        mass += slopes.sum(1, dtype=np.float64)
    return count, mass
