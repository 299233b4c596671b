"""The last step of every one-sided selection: exactly the best few of each group, among the survivors of a bracket.

Ties go to the smaller position. A number that holds both the entry and its rank by position settles them, so that one
sort of a short row per group is all it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices, Reals, stable_order

Keys: TypeAlias = NDArray[np.uint32]

# Places beyond the survivors themselves that rows of equal width may take before groups are ranked by size.
SPARE = 1 << 16
LARGEST = np.uint64(2**64 - 1)


@dataclass(frozen=True, eq=False)
class Ends:
    """Per group the last score taken, +inf where none is, and the best one refused, 0 where none is positive."""

    last: Reals
    refused: Reals


@dataclass(frozen=True, eq=False)
class Selection:
    """Flat positions of the selected entries, ascending; per group the last selected and the first refused entry.

    `last` and `refused` are flat positions, -1 where a group selects nothing or refuses nothing positive. `reaching` is
    how many entries of each group reached the hint that a search over columns started from.
    """

    flat: Indices
    last: Indices
    refused: Indices
    passes: int
    reaching: Indices | None = None


def finish(values: Array, flat: Indices, groups: Indices | None, caps: Indices, passes: int = 1) -> Selection:
    """Choose among survivors, exactly: positive `values` at ascending positions `flat`, each of one group.

    Here it is decided which of them are taken: the largest `caps[g]` of each group, the first of equals; without
    `groups` all are one.
    """
    if values.size == 0:
        return Selection(flat, np.full(caps.size, -1), np.full(caps.size, -1), passes)
    keys = _descending_keys(values)
    if groups is None:
        return _best_of_all(keys, flat, int(caps[0]), passes)
    return _best_of_groups(keys, flat, groups, caps, passes)


def _best_of_all(keys: Keys, flat: Indices, cap: int, passes: int) -> Selection:
    taken = min(cap, keys.size)
    # a partition at one rank runs in vector units, one at two ranks does not
    ranked = np.partition(keys, min(taken, keys.size - 1))
    keep, last, refused = np.zeros(keys.size, bool), np.array([-1]), np.array([-1])
    if taken:
        price = ranked[:taken].max()
        keep = keys <= price
        tied = np.flatnonzero(keys == price)
        surplus = int(np.count_nonzero(keep)) - taken
        keep[tied[tied.size - surplus :]] = False
        last = flat[tied[tied.size - surplus - 1 :][:1]]
    if keys.size > taken:
        refused = flat[np.flatnonzero((keys == ranked[taken]) & ~keep)[:1]]
    return Selection(flat.compress(keep), last, refused, passes)  # quicker than flat[keep]


def _best_of_groups(keys: Keys, flat: Indices, groups: Indices, caps: Indices, passes: int) -> Selection:
    last, refused = np.full(caps.size, -1), np.full(caps.size, -1)
    sizes = np.bincount(groups, minlength=caps.size)
    starts = np.cumsum(sizes) - sizes
    taken = np.minimum(caps, sizes)
    order = None
    if (groups[1:] < groups[:-1]).any():
        order = stable_order(groups, caps.size)
        keys, flat = keys[order], flat[order]
    keep = np.zeros(keys.size, bool)
    for some in _of_like_size(sizes):
        start, size, wanted = starts[some], sizes[some], taken[some]
        rank = np.arange(int(size.max()))
        by_entry = keys.take(start[:, None] + rank, mode="clip").astype(np.uint64)  # past a group's end: any
        by_entry <<= np.uint64(32)
        by_entry |= rank.astype(np.uint64)
        by_entry[rank >= size[:, None]] = LARGEST
        by_entry.sort(axis=1)
        best = by_entry[:, : int(wanted.max())].astype(np.uint32) + start[:, None]  # the low half: the rank by position
        keep[best[rank[: best.shape[1]] < wanted[:, None]]] = True
        has_last, has_more = np.flatnonzero(wanted > 0), np.flatnonzero(size > wanted)
        last[some[has_last]] = flat[best[has_last, wanted[has_last] - 1]]
        next_best = by_entry[has_more, wanted[has_more]].astype(np.uint32)
        refused[some[has_more]] = flat[start[has_more] + next_best]
    chosen = flat.compress(keep)
    return Selection(chosen if order is None else np.sort(chosen), last, refused, passes)


def _of_like_size(sizes: Indices) -> Iterator[Indices]:
    """Groups that fit in rows of one width without much waste: all of them, or those of one power of two at a time."""
    if sizes.size * int(sizes.max()) <= 4 * int(sizes.sum()) + SPARE:
        yield np.arange(sizes.size)
        return
    powers = np.frexp(sizes.astype(np.float64))[1]
    for power in np.unique(powers[sizes > 0]):
        yield np.flatnonzero(powers == power)


def _descending_keys(values: Array) -> Keys:
    """32-bit integers that sort positive values downwards. Wider types are replaced by their ranks."""
    if values.dtype.itemsize == 8:
        ranks = np.unique(values, return_inverse=True)[1].astype(np.uint32)
    elif values.dtype.kind == "f":  # bit patterns of positive floats are in order
        ranks = values.view(f"u{values.dtype.itemsize}").astype(np.uint32)
    else:
        ranks = values.astype(np.uint32)
    return ~ranks
