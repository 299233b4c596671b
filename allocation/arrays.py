"""Arrays by their names, and what NumPy lacks for them: true positions of masks, sets of ids, stable grouping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Indices: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Reals: TypeAlias = NDArray[np.float64]

# From so many of its words that are not 0, a mask is read byte by byte.
DENSE = 1 / 8


def true_positions(masks: Iterable[Mask], most: int | None = None) -> Indices | None:
    """Ascending flat positions of the true entries of masks that follow one another.

    Eight entries are looked at as one word, most of which are 0. None as soon as there are more than `most`, where
    true entries that share a word may count as one.
    """
    done: list[Indices] = []
    sparse: list[tuple[Indices, NDArray[np.uint64]]] = []
    starts: list[int] = []
    start = count = 0
    for mask in masks:
        entries = mask.reshape(-1)
        words = _words(entries)
        hit = words != 0
        n_hit = int(np.count_nonzero(hit))
        dense = n_hit > DENSE * hit.size
        count += int(np.count_nonzero(entries)) if dense else n_hit
        if most is not None and count > most:
            return None
        if dense:
            done += [_unpacked(starts, sparse), start + np.flatnonzero(entries)]
            starts, sparse = [], []
        elif n_hit:
            at = np.flatnonzero(hit)
            starts.append(start)
            sparse.append((at, words[at]))
        start += entries.size
    done.append(_unpacked(starts, sparse))
    return np.concatenate(done) if len(done) > 1 else done[0]


def _words(entries: Mask) -> NDArray[np.uint64]:
    """Entries eight by eight, the last word filled up with zeros."""
    if entries.size % 8:
        entries = np.concatenate([entries, np.zeros(-entries.size % 8, np.bool_)])
    return np.asarray(entries.view(np.uint64))


def _unpacked(starts: list[int], sparse: list[tuple[Indices, NDArray[np.uint64]]]) -> Indices:
    """Positions of the true bytes of words; each has its number within a mask, masks have their `starts`."""
    if not sparse:
        return np.empty(0, np.int64)
    first = np.concatenate([at for at, _ in sparse])
    first <<= 3
    first += np.repeat(starts, [at.size for at, _ in sparse])
    true = np.flatnonzero(np.concatenate([words for _, words in sparse]).view(np.bool_))
    return np.asarray(first[true >> 3] + (true & 7))


def union(*parts: Indices) -> Indices:
    """Ids in any of the parts, ascending; the parts need not be."""
    ids = np.sort(np.concatenate(parts), kind="stable")
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if ids.size else ids


def among(ids: Indices, others: Indices) -> Mask:
    """Which of `ids` are in `others`, which ascend."""
    if not others.size:
        return np.zeros(ids.size, bool)
    return np.asarray(others[np.minimum(np.searchsorted(others, ids), others.size - 1)] == ids)


def without(ids: Indices, others: Indices) -> Indices:
    """The `ids` that are not in `others`, which ascend."""
    return ids[~among(ids, others)]


def stable_order(groups: Indices, n_groups: int) -> Indices:
    """The order that brings each of the `n_groups` groups together, and keeps it within each."""
    narrow = np.uint16 if n_groups < 1 << 16 else np.int64  # NumPy's stable sort of 16 bits is a radix sort
    return np.asarray(np.argsort(groups.astype(narrow), kind="stable"))
