"""Selections by this package's kernels, on any device that can run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.cuda.kernels import TYPES, Device, key_type
from allocation.cuda.scores import DeviceScores, Top
from allocation.cuda.selection import ITEMS, SAMPLE, DeviceSelection, Matrix, scores_of_keys, select_lines, select_whole
from allocation.scores import Array, Indices


@dataclass(frozen=True, eq=False)
class KernelEngine:
    """Launches, and the few array operations around them."""

    device: Device
    sample: int = SAMPLE

    def selected(
        self, scores: DeviceScores, axis: int | None, caps: Indices, only_positive: bool = True
    ) -> DeviceSelection:
        """The best entries of every group, all of it on the device: nothing here waits for a kernel."""
        with self.device.scope():
            matrix = self.bits(scores)
            if axis is None:
                return select_whole(self.device, matrix, int(caps[0]), self.sample)
            return select_lines(self.device, matrix, axis, caps, only_positive)

    def best(self, scores: DeviceScores, axis: int | None, caps: Indices, only_positive: bool) -> Indices:
        """Flat positions of the best entries of every group, in main memory."""
        with self.device.scope():
            found = self.selected(scores, axis, caps, only_positive)
            return self.device.get(found.positions)[: int(self.device.get(found.count)[0])]

    def top(self, scores: DeviceScores, axis: int | None, caps: Indices) -> Top:
        """The same with the count and the ends in main memory."""
        with self.device.scope():
            found = self.selected(scores, axis, caps)
            flat = found.positions[: int(self.device.get(found.count)[0])]
            last, refused = self.device.get(found.last), self.device.get(found.refused)
        name = self.bits_type(scores)
        return Top(flat, scores_of_keys(last, name, np.inf), scores_of_keys(refused, name, 0.0))

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
        name = self.bits_type(scores)
        array = scores.array if name == scores.type else scores.array.astype(name)
        width = TYPES[name][0]
        bits = array.reshape(-1).view(key_type(name) if width > 16 else "uint16")
        return Matrix(bits, name, scores.shape)

    def bits_type(self, scores: DeviceScores) -> str:
        """The number type that the kernels read: the scores' own, or int64 for narrower integers."""
        return scores.type if scores.type in TYPES else "int64"
