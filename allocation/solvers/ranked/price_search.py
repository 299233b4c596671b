"""The price of a budget over all ranks: which entry is the last that it takes, and which of its equals.

Positive entries become integers that order as they do. Each round counts those of the bracket in 4096 bins, adds up the
counts of all ranks, and goes on in the bin where the budget ends: at most six rounds for 64 bits, three for 32,
whatever the number of tokens, features and ranks. No entry leaves its rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices, Mask
from allocation.scores import Scores
from allocation.solvers.ranked.layout import Layout

Keys: TypeAlias = NDArray[np.uint64]

# Bits of the bin's number: 32 KiB of counts.
BIN_BITS = 12


@dataclass(frozen=True, eq=False)
class Cut:
    """Where a budget ends.

    Attributes
    ----------
    taken : (candidates,) bool
        Which of this rank's candidates are within the budget.
    total : int
        How many are, of all ranks.
    last, refused : key
        The last entry taken and the best refused, by their keys; 0 where there is none.
    """

    taken: Mask
    total: int
    last: int
    refused: int


def keys_of(entries: Array) -> Keys:
    """Integers that order positive entries as they are ordered."""
    if entries.dtype.kind == "f":  # bit patterns of positive floats are in order
        entries = entries.view(f"u{entries.dtype.itemsize}")
    return entries.astype(np.uint64)


def real_of(key: int, scores: Scores) -> float:
    """The score of a key; 0 of key 0."""
    kind = scores.entries.dtype
    if kind.kind == "f":
        return float(np.array([key], f"u{kind.itemsize}").view(kind)[0])
    if scores.dense is not None and scores.type in ("float16", "bfloat16"):  # the patterns of 16-bit floats
        return float(scores.dense.widened(np.array([key], np.int16))[0])
    return float(key)


def cut_at(layout: Layout, keys: Keys, tokens: Indices, budget: int, complete: bool) -> Cut | None:
    """Where a budget ends among the candidates of all ranks, or None if there may be entries beyond these that matter.

    `keys` and `tokens` (of this rank's block) are those of its candidates, in edge order; `complete` says that there
    are no other positive entries.
    """
    own = np.array([keys.size, *_ends(keys)], np.uint64).view(np.int64)
    every = np.stack(layout.ranks.gather(own)).view(np.uint64)
    total, filled = int(every[:, 0].sum()), every[:, 0] > 0
    if total <= budget:
        if not complete:
            return None
        last = int(every[filled, 1].min()) if filled.any() else 0
        return Cut(np.ones(keys.size, bool), total, last, 0)
    low, high = int(every[filled, 1].min()), int(every[filled, 2].max())
    if budget == 0:
        return Cut(np.zeros(keys.size, bool), 0, 0, high)
    price, above = _price(layout, keys, low, high, budget)
    equal = keys == np.uint64(price)
    _, best_below = _ends(keys[keys < np.uint64(price)])
    rest = np.stack(layout.ranks.gather(np.array([np.count_nonzero(equal), best_below], np.uint64).view(np.int64)))
    ties = rest[:, 0]
    below = int(rest[:, 1].view(np.uint64).max())
    share = budget - above
    taken = keys > np.uint64(price)
    if share == ties.sum():
        taken |= equal
        return Cut(taken, budget, price, below)
    taken[np.flatnonzero(equal)[: _share_of_ties(layout, tokens[equal], ties, share)]] = True
    return Cut(taken, budget, price, price)


def _ends(keys: Keys) -> tuple[int, int]:
    return (int(keys.min()), int(keys.max())) if keys.size else (0, 0)


def _price(layout: Layout, keys: Keys, low: int, high: int, rank: int) -> tuple[int, int]:
    """The key of this rank among all, the largest first, and how many lie above it; it is within the bracket."""
    above = 0
    while low < high:
        shift = max((high - low).bit_length() - BIN_BITS, 0)
        keys = keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))]
        bins = ((keys - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
        counts = layout.ranks.sum(np.bincount(bins, minlength=1 << BIN_BITS))
        from_above = above + np.cumsum(counts[::-1])
        at = int(np.searchsorted(from_above, rank))
        above = int(from_above[at - 1]) if at else above
        low += (counts.size - 1 - at) << shift
        high = min(high, low + (1 << shift) - 1)
    return low, above


def _share_of_ties(layout: Layout, tokens: Indices, ties: Indices, share: int) -> int:
    """How many of this rank's equals are among the first `share` of all: by token, then by feature.

    `tokens` are those of this rank's equals, `ties` their number on every rank.
    """
    row_of = np.where(layout.filled, layout.places[:, 0], -1)
    rows = np.bincount(row_of[row_of >= 0], weights=ties[row_of >= 0]).astype(np.int64)
    ends = np.cumsum(rows)
    row = int(np.searchsorted(ends, share))  # the row of blocks in which the share ends
    before = share - (int(ends[row - 1]) if row else 0)
    own = layout.ranks.index
    inside = np.flatnonzero(row_of == row)
    # only ranks that hold the same tokens need each other's counts
    n_tokens = int(layout.sizes[inside[0], 0])
    in_row = row_of[own] == row and inside.size > 1
    counts = np.bincount(tokens, minlength=n_tokens) if in_row else np.empty(0, np.int64)
    parts = layout.ranks.gather(counts) if inside.size > 1 else []
    if row_of[own] != row:
        return int(ties[own]) if 0 <= row_of[own] < row else 0
    if inside.size == 1:
        return before
    inside = inside[np.argsort(layout.places[inside, 1])]
    by_token = np.stack([parts[int(rank)] for rank in inside])
    # taken in the order of (token, column of blocks)
    upto = np.cumsum(by_token.T.reshape(-1)).reshape(by_token.T.shape)
    left = np.clip(before - (upto - by_token.T), 0, by_token.T)
    return int(left[:, int(np.flatnonzero(inside == own)[0])].sum())
