"""One price at a time: the move that brings the count of a line to its cap while the other prices stay."""

from __future__ import annotations

import numpy as np

from allocation.arrays import Reals
from allocation.soft.forms import Form

# A line is done when its count is this close to the cap; Newton steps do the rest.
CLOSE = 0.01
BISECTIONS = 60


def line_moves(form: Form, x: Reals, caps: Reals) -> Reals:
    """The moves `d` with `sum_j a(x_ij - d_i) = caps_i` for every row; -inf where the cap exceeds the row's edges.

    ::

        x_(k+1) - margin <= d <= x_(k) + margin,      x_(k) the k-th largest of the row, k its cap
    """
    edges = np.isfinite(x).sum(1)
    moves = np.full(len(x), -np.inf)
    rows = np.flatnonzero(caps < edges)
    x, k = x[rows], caps[rows].astype(np.int64)
    descending = -np.sort(-x, axis=1)
    each = np.arange(rows.size)
    margin = form.margin(x.shape[1])
    low, high = descending[each, k] - margin, descending[each, k - 1] + margin
    middle = (low + high) / 2
    unfinished = each
    shares, slopes = np.empty_like(x), np.empty_like(x)
    for _ in range(BISECTIONS):
        middle[unfinished] = (low[unfinished] + high[unfinished]) / 2
        row_shares, row_slopes = shares[: unfinished.size], slopes[: unfinished.size]
        form.evaluate(x[unfinished] - middle[unfinished, None], row_shares, row_slopes)
        excess = row_shares.sum(1) - k[unfinished]
        above = excess > 0
        low[unfinished[above]], high[unfinished[~above]] = middle[unfinished[above]], middle[unfinished[~above]]
        unfinished = unfinished[np.abs(excess) > CLOSE]
        if unfinished.size == 0:
            break
    moves[rows] = middle
    return moves
