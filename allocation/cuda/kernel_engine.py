"""Selections by this package's kernels, on any device that can run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.cuda.kernels import TYPES, Device, key_type
from allocation.cuda.scores import DeviceScores, Top
from allocation.cuda.selection import ITEMS, SAMPLE, Matrix, scores_of_keys, select_lines, select_whole
from allocation.scores import Array, Indices


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """Launches, and the few array operations around them."""

    device: Device
    sample: int = SAMPLE

    def top(self, scores: DeviceScores, axis: int | None, caps: Indices) -> Top:
        """The best positive entries of every group; the count alone returns to the host while kernels may run."""
        with self.device.scope():
            matrix = self.bits(scores)
            if axis is None:
                found = select_whole(self.device, matrix, int(caps[0]), self.sample)
            else:
                found = select_lines(self.device, matrix, axis, caps)
            flat = found.positions[: int(self.device.get(found.count)[0])]
            last, refused = self.device.get(found.last), self.device.get(found.refused)
        return Top(flat, scores_of_keys(last, matrix.type, np.inf), scores_of_keys(refused, matrix.type, 0.0))

    def inspect(self, scores: DeviceScores) -> Indices:
        """NaN entries, the first, +inf entries, the first."""
        with self.device.scope():
            matrix = self.bits(scores)
            found = self.device.put(np.array([0, matrix.size, 0, matrix.size]))
            blocks = -(-matrix.size // (ITEMS << self.device.digit))
            self.device.launch("inspect", matrix.type, blocks, matrix.bits, matrix.size, found)
            return self.device.get(found)

    def at(self, scores: DeviceScores, flat: Any) -> DeviceScores:
        """The entries at flat positions, as a matrix of one row."""
        with self.device.scope():
            return DeviceScores(scores.array.reshape(-1)[flat][None], scores.type, self)

    def matches(self, scores: DeviceScores, flat: Any) -> tuple[Any, Any, Any]:
        """Tokens, features and scores at flat positions."""
        with self.device.scope():
            width = max(scores.shape[1], 1)
            return flat // width, flat % width, scores.values_at(flat)

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""
        with self.device.scope():
            return self.device.put(array)

    def get(self, array: Any) -> Array:
        """A device array in NumPy."""
        with self.device.scope():
            return self.device.get(array)

    def bits(self, scores: DeviceScores) -> Matrix:
        """The scores as bit patterns of a type that the kernels know."""
        if scores.type in TYPES:
            name, array = scores.type, scores.array
        else:
            name, array = "int64", scores.array.astype("int64")
        width = TYPES[name][0]
        bits = array.reshape(-1).view(key_type(name) if width > 16 else "uint16")
        return Matrix(bits, name, scores.shape)
