"""The best entries of a stream so far, in little more memory than the answer: all work is done in place, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices, Mask
from allocation.solvers.top_selection.ranking import finish

# Survivors worked on at once, which cost up to 60 bytes each while they are ranked.
BATCH = 1 << 18


class Survivors:
    """Flat positions in the stack, ascending, and their entries, which are positive."""

    def __init__(self, columns: int, kind: np.dtype[Any]) -> None:
        self.columns, self.size = max(columns, 1), 0
        self._flat, self._values = np.empty(0, np.int64), np.empty(0, kind)

    def append(self, flat: Indices, values: Array, offset: int) -> None:
        """Add entries that lie behind all others, at positions `flat + offset`."""
        stop = self.size + flat.size
        if stop > self._flat.size:  # grown in place, so that old and new never lie in memory together
            room = stop + BATCH
            self._flat.resize(room, refcheck=False)
            self._values.resize(room, refcheck=False)
        np.add(flat, offset, out=self._flat[self.size : stop])
        self._values[self.size : stop] = values
        self.size = stop

    def keep_best(self, caps: Indices, by_column: bool) -> tuple[Array, Array]:
        """Drop all but the largest `caps[g]` of every group, a column or all; equal ones stay in order of position.

        Of each group that reaches its cap the last entry taken, and of each the best one refused; 0 where there is
        none.
        """
        return self._best_of_columns(caps) if by_column else self._best_of_all(int(caps[0]))

    def matches(self) -> tuple[Indices, Indices, Array]:
        """Tokens, features and entries; nothing is left here."""
        flat, values = self._flat, self._values
        flat.resize(self.size, refcheck=False)
        values.resize(self.size, refcheck=False)
        tokens = flat // self.columns
        np.remainder(flat, self.columns, out=flat)
        self._flat, self._values, self.size = flat[:0], values[:0], 0
        return tokens, flat, values

    def _best_of_all(self, cap: int) -> tuple[Array, Array]:
        values, size = self._values, self.size
        blank = np.zeros(1, values.dtype)
        if size <= cap or cap == 0:
            last = values[:size].min(keepdims=True) if 0 < size == cap else blank
            refused = values[:size].max(keepdims=True) if size > cap else blank
            self.size = min(size, cap)
            return last, refused
        ranked = values[:size].copy()
        ranked.partition(size - cap)  # at one rank, which vector units do
        price, below = ranked[size - cap], ranked[: size - cap].max()
        del ranked
        above = sum(int(np.count_nonzero(values[block] > price)) for block in self._blocks())
        ties = cap - above

        def best_of_block(block: slice) -> Mask:
            nonlocal ties
            keep = values[block] > price
            tied = np.flatnonzero(values[block] == price)[:ties]
            keep[tied] = True
            ties -= tied.size
            return np.asarray(keep)

        self._compress(best_of_block)
        return blank + price, blank + below

    def _best_of_columns(self, caps: Indices) -> tuple[Array, Array]:
        columns = np.empty(self.size, np.uint16 if caps.size < 1 << 16 else np.uint32)
        sizes = np.zeros(caps.size, np.int64)
        for block in self._blocks():
            columns[block] = self._flat[block] % self.columns
            sizes += np.bincount(columns[block], minlength=caps.size)
        last, refused = np.zeros(caps.size, self._values.dtype), np.zeros(caps.size, self._values.dtype)
        keep = np.zeros(self.size, bool)
        for first, stop in _runs(sizes):
            at = self._within(columns, first, stop)
            best = finish(self._values[at], at, columns[at].astype(np.int64) - first, caps[first:stop])
            keep[best.flat] = True
            for ends, found in ((last, best.last), (refused, best.refused)):
                ends[first:stop] = np.where(found >= 0, self._values[found], 0) if at.size else 0
        self._compress(lambda block: keep[block])
        last[sizes < caps] = 0
        return last, refused

    def _within(self, columns: NDArray[Any], first: int, stop: int) -> Indices:
        """Where the survivors of some columns are."""
        width = columns.dtype.type(stop - first)
        parts = [np.flatnonzero(columns[b] - columns.dtype.type(first) < width) + b.start for b in self._blocks()]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _compress(self, marked: Any) -> None:
        """Keep the survivors where `marked(block)` is true, block by block."""
        at = 0
        for block in list(self._blocks()):
            keep = marked(block)
            stop = at + int(np.count_nonzero(keep))
            self._flat[at:stop], self._values[at:stop] = (
                self._flat[block].compress(keep),
                self._values[block].compress(keep),
            )
            at = stop
        self.size = at

    def _blocks(self) -> Iterator[slice]:
        return (slice(start, min(start + BATCH, self.size)) for start in range(0, self.size, BATCH))


def _runs(sizes: Indices) -> Iterator[tuple[int, int]]:
    """Runs of consecutive columns of at most about a batch of survivors together."""
    total = np.cumsum(sizes)
    first = 0
    while first < sizes.size:
        before = total[first] - sizes[first]
        stop = max(first + 1, int(np.searchsorted(total, before + BATCH, side="right")))
        yield first, stop
        first = stop
