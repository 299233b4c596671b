"""Matches as one bit for every pair: what an answer is held as where a large share of all pairs are matches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices, Mask
from allocation.threads import map_blocks

# Pairs whose positions are found at once.
BLOCK = 1 << 17


@dataclass(frozen=True, eq=False)
class MaskedMatches:
    """Matches of a matrix of `shape`: bits in the order of its entries, eight to a byte, and the scores of the matches.

    A pair costs a bit, where a match as two numbers of 64 bits costs 128. Tokens and features are found when first
    asked for.
    """

    bits: NDArray[np.uint8]
    values: Array
    shape: tuple[int, int]

    @property
    def mask(self) -> Mask:
        """The dense matrix."""
        return self._entries(0, self.shape[0] * self.shape[1]).reshape(self.shape)

    @cached_property
    def ends(self) -> tuple[Indices, Indices]:
        """Token and feature of each match."""
        tokens, features = np.empty(self.values.size, np.int64), np.empty(self.values.size, np.int64)
        n_bytes, columns = self.bits.size, max(self.shape[1], 1)
        step = BLOCK // 8
        counts = [
            int(np.bitwise_count(self.bits[at : at + step]).sum(dtype=np.int64)) for at in range(0, n_bytes, step)
        ]
        offsets = [0, *accumulate(counts)]

        def find(start: int, stop: int) -> None:
            for block in range(start, stop):
                at, inside = block * BLOCK, slice(offsets[block], offsets[block + 1])
                flat = np.flatnonzero(self._entries(at, at + BLOCK)) + at
                np.floor_divide(flat, columns, out=tokens[inside])
                np.subtract(flat, tokens[inside] * columns, out=features[inside])

        map_blocks(find, len(counts), tokens.nbytes)
        return tokens, features

    def counts(self, side: int) -> Indices:
        """Matches of every token (side 0) or feature (side 1)."""
        rows, columns = self.shape
        step = 8 * max(1, BLOCK // max(8 * columns, 1))
        counts = np.zeros(self.shape[side], np.int64)
        for start in range(0, rows if columns else 0, step):
            stop = min(start + step, rows)
            block = self._entries(start * columns, stop * columns).reshape(-1, columns)
            if side == 1:
                counts += block.sum(axis=0)
            else:
                counts[start:stop] = block.sum(axis=1)
        return counts

    def _entries(self, start: int, stop: int) -> Mask:
        """Entries of the dense matrix by position; `start` is a multiple of 8."""
        stop = min(stop, self.shape[0] * self.shape[1])
        return np.unpackbits(self.bits[start // 8 : -(-stop // 8)], count=stop - start).view(np.bool_)
