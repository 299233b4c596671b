"""Selections by this package's kernels, on any device that can run them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Array, Indices
from allocation.cuda.kernels import TYPES, Device
from allocation.cuda.scores import DeviceScores, FixedTop
from allocation.cuda.selection import ITEMS, SAMPLE, Matrix, select_lines, select_whole


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """Launches, and the few array operations around them. All of it happens inside the `scope`."""

    device: Device
    sample: int = SAMPLE

    @property
    def namespace(self) -> Any:
        """The library whose functions compute on these arrays."""
        return self.device.namespace

    def scope(self) -> AbstractContextManager[None]:
        """Makes the device and its stream current."""
        return self.device.scope()

    def wait(self) -> None:
        """Until what was computed can be read on any stream."""
        self.device.wait()

    def fixed(self, scores: DeviceScores, axis: int | None, caps: Indices, only_positive: bool = True) -> FixedTop:
        """The best entries of every group, all of it on the device: nothing here waits for a kernel."""
        matrix = self.bits(scores)
        if axis is None:
            return select_whole(self.device, matrix, int(caps[0]), self.sample)
        return select_lines(self.device, matrix, axis, caps, only_positive)

    def inspect(self, scores: DeviceScores) -> Indices:
        """NaN entries, the first, +inf entries, the first."""
        matrix = self.bits(scores)
        found = self.device.put(np.array([0, matrix.size, 0, matrix.size]))
        blocks = -(-matrix.size // (ITEMS << self.device.digit))
        self.device.launch("inspect", matrix.type, blocks, matrix.bits, matrix.size, found)
        return self.device.get(found)

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""
        return self.device.put(array)

    def get(self, array: Any) -> Array:
        """A device array in NumPy."""
        return self.device.get(array)

    def returned(self, array: Any) -> Any:
        """An array as callers of `allocation.solve` get it."""
        return self.device.returned(array)

    def bits(self, scores: DeviceScores) -> Matrix:
        """The scores as bit patterns of a type that the kernels know; narrower integers widen to int64."""
        name = scores.type if scores.type in TYPES else "int64"
        return Matrix(self.device.flat(scores.array, name), name, scores.shape)
