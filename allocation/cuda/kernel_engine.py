"""Selections by this package's kernels, on any device that can run them."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arrays import Indices
from allocation.cuda.kernels import TYPES, Launcher
from allocation.cuda.scores import DeviceScores, Engine, FixedTop
from allocation.cuda.selection import ITEMS, SAMPLE, Matrix, select_lines, select_whole
from allocation.errors import InvalidProblemError


class KernelEngine(Engine, Launcher):
    """Selections by launches, all of it inside the `scope`; a subclass holds the arrays of one library."""

    name: str = "KernelEngine"
    sample: int = SAMPLE

    def padded_top(
        self,
        scores: DeviceScores,
        axis: int | None,
        caps: Indices,
        only_positive: bool = True,
        expected: Any = None,
    ) -> FixedTop:
        """The best entries of every group, all of it on the device: nothing here waits for a kernel."""
        if axis is not None:
            _require_countable(scores.shape[axis], scores.shape[1 - axis], ("token", "feature")[axis])
        matrix = self.bits(scores)
        if axis is None:
            return select_whole(self, matrix, int(caps[0]), self.sample, expected)
        return select_lines(self, matrix, axis, caps, only_positive, expected)

    def inspect(self, scores: DeviceScores) -> Indices:
        """NaN entries, the first, +inf entries, the first."""
        matrix = self.bits(scores)
        counts = self.put(np.array([0, matrix.size, 0, matrix.size]))
        self.launch("inspect", matrix.type, -(-matrix.size // (ITEMS << self.digit)), matrix.bits, matrix.size, counts)
        return self.get(counts)

    def bits(self, scores: DeviceScores) -> Matrix:
        """The scores as bit patterns of a type that the kernels know; narrower integers widen to int64."""
        name = scores.type if scores.type in TYPES else "int64"
        return Matrix(self.flat(scores.array, name), name, scores.shape)


def _require_countable(lines: int, length: int, line: str) -> None:
    """A launch has fewer than 2^31 blocks, one to a line, and counters of a line's entries have 32 bits."""
    if lines >= 1 << 31:
        raise InvalidProblemError(f"scores: expected fewer than 2^31 {line}s with limits on CUDA, found {lines}")
    if length >= 1 << 32:
        raise InvalidProblemError(f"scores: expected fewer than 2^32 entries of a {line} on CUDA, found {length}")
