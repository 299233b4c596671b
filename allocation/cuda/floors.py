"""A budget with floors on one side on a CUDA device, without a decision on the host.

What floors force is the top of every line, whatever its scores. The rest of the budget goes to the best of what is not
forced. Those are found without another read of the scores: they are among the best of the whole matrix, as many as the
budget has, since no more of these can be forced than floors demand. With caps they are among the tops of the lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arrays import Indices
from allocation.cuda.scores import DeviceScores, FixedTop


def select_floored(
    matrix: DeviceScores, axis: int, budget: int, floors: Indices, caps: Indices | None, expected: Any = None
) -> FixedTop:
    """The best `budget` entries, at least `floors` and at most `caps` of every row (axis 0) or column (axis 1).

    The floors fit the caps and the budget. A line with fewer allowed entries than its floor takes all of them.
    `expected` is where the search among all scores starts, for the budget or, with caps, for every line.
    """
    engine, xp, size = matrix.engine, matrix.namespace, matrix.n_edges
    forced = engine.padded_top(matrix, axis, floors, only_positive=False)
    most = min(budget, size if caps is None else int(np.minimum(caps, matrix.shape[1 - axis]).sum()))
    side, limits = (None, np.array([most])) if caps is None else (axis, caps)
    offered = engine.padded_top(matrix, side, limits, expected=expected)
    places = offered.positions
    # ascending, the places that nothing fills at the end, and one of them always
    demanded = xp.concatenate([xp.where(_is_filled(xp, forced), forced.positions, size), xp.arange(1) + size])
    is_free = _is_filled(xp, offered) & (xp.take(demanded, xp.searchsorted(demanded, places), axis=0) != places)
    rest = engine.padded_top(matrix.at(places, is_free), None, np.array([most - int(floors.sum())]))
    price = rest.refused
    if caps is None:  # an exhausted offer holds all that is forced, so what it left out is free
        price = xp.where(price > 0, price, offered.refused)
    chosen = places if len(rest.positions) == 0 else xp.take(places, rest.positions, axis=0)
    chosen = xp.where(_is_filled(xp, rest), chosen[: len(rest.positions)], size)
    taken = xp.sort(xp.concatenate([demanded[:-1], chosen]))
    needed = price if caps is None else xp.maximum(price, offered.refused)
    return FixedTop(
        xp.where(taken < size, taken, 0),
        forced.count + rest.count,
        rest.last,
        price,
        xp.minimum(needed, forced.last) - price,
        offered.reaching,
        offered.refused,
    )


def _is_filled(xp: Any, top: FixedTop) -> Any:
    """Which places of an answer hold a match."""
    return xp.arange(len(top.positions)) < top.count
