"""Score matrices on a CUDA device, and the engines that select there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from allocation.cuda.kernels import TYPES
from allocation.errors import InvalidProblemError
from allocation.scores import (
    TOO_LARGE,
    Array,
    DenseScores,
    Indices,
    beyond_range,
    plain_tensor,
    refusal_of_entries,
)

Reals = NDArray[np.float64]
T = TypeVar("T")
# Entries of a block in a pass on a device: a few arrays of this size in float64 exist at once.
DEVICE_ENTRIES = 1 << 25


@dataclass(frozen=True, eq=False)
class FixedTop:
    """The best entries of every group, all of it on the device and of sizes that the host knows beforehand.

    `positions` are flat and ascending, with room for the most that the caps allow: `count`, of one number, says how
    many there are, and those past it are 0. `last` is per group the last score taken in float64, +inf where none is;
    `refused` the best one refused, 0 where none is positive.
    """

    positions: Any
    count: Any
    last: Any
    refused: Any


@dataclass(frozen=True, eq=False)
class Top:
    """The same once the host has read the count: exactly the selected positions, and the ends in NumPy."""

    flat: Any
    last: Reals
    refused: Reals


class Engine(Protocol):
    """What computes on the device, inside its scope."""

    @property
    def namespace(self) -> Any:
        """The library whose functions compute on these arrays."""

    def scope(self) -> AbstractContextManager[None]:
        """Makes the device and its stream current."""

    def wait(self) -> None:
        """Until what was computed can be read on any stream."""

    def fixed(self, scores: DeviceScores, axis: int | None, caps: Indices, only_positive: bool = True) -> FixedTop:
        """The best entries, positive or merely allowed, of the whole matrix (None), every row (0) or column (1)."""

    def inspect(self, scores: DeviceScores) -> Indices:
        """Number of NaN entries and position of the first, number of +inf entries and position of the first."""

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""

    def get(self, array: Any) -> Array:
        """A device array in NumPy."""

    def returned(self, array: Any) -> Any:
        """An array as callers of `allocation.solve` get it."""


@dataclass(frozen=True, eq=False)
class DeviceScores(DenseScores):
    """A `(tokens, features)` matrix on a CUDA device: a CuPy array or a tensor. What computes is inside the scope."""

    engine: Engine

    @property
    def n_edges(self) -> int:
        """Entries of the matrix, forbidden ones included."""
        return self.shape[0] * self.shape[1]

    @property
    def namespace(self) -> Any:
        """The library whose functions compute where the scores are."""
        return self.engine.namespace

    def put(self, array: Array) -> Any:
        """A NumPy array where the scores are."""
        return self.engine.put(array)

    def get(self, array: Any) -> Array:
        """What was computed where the scores are, in NumPy."""
        return self.engine.get(array)

    def scope(self) -> AbstractContextManager[None]:
        """Makes current where the scores are."""
        return self.engine.scope()

    def widened(self, block: Any) -> Any:
        """16-bit floats as float32, unsigned integers of tensors as int64: what every library compares."""
        if hasattr(block, "detach"):
            return block.float() if self.type in ("float16", "bfloat16") else _signed(block)
        return super().widened(block)

    def values_at(self, flat: Any) -> Any:
        """Scores at flat positions, in the scores' own type (float32 for bfloat16)."""
        xp = self.namespace
        values = xp.take(xp.reshape(self.array, (-1,)), flat, axis=0)
        return self.widened(values) if self.type == "bfloat16" else values

    def matches(self, flat: Any) -> tuple[Any, Any, Any]:
        """Tokens, features and scores at flat positions, on the device."""
        width = max(self.shape[1], 1)
        return flat // width, flat % width, self.values_at(flat)

    def at(self, flat: Any) -> DeviceScores:
        """The entries at flat positions, as a matrix of one row."""
        xp = self.namespace
        return DeviceScores(xp.take(xp.reshape(self.array, (-1,)), flat, axis=0)[None, :], self.type, self.engine)

    def lines(self, side: int, lines: Indices) -> Any:
        """Some tokens (side 0) or features (side 1) as the rows of a block of numbers."""
        block = self.namespace.take(self.array, self.put(lines), axis=side)
        return self.widened(block if side == 0 else block.T)

    def part(self, tokens: Indices) -> DenseScores:
        """The scores of some tokens, in main memory."""
        return DenseScores(self.get(self.namespace.take(self.array, self.put(tokens), axis=0)), self.type)

    def in_blocks(self, work: Callable[[int, int], T], workers: int | None, block_bytes: int) -> list[T]:
        """`[work(start, stop), ...]` over blocks of rows as large as a device likes them, whatever a core does."""
        rows, columns = self.shape
        step = max(1, DEVICE_ENTRIES // max(columns, 1))
        return [work(start, min(start + step, rows)) for start in range(0, rows if columns else 0, step)]

    def top(self, axis: int | None, caps: Indices, only_positive: bool = True) -> Top:
        """The best entries of the whole matrix (None), of every row (0) or column (1); the host waits for the count."""
        found = self.engine.fixed(self, axis, caps, only_positive)
        flat = found.positions[: int(self.get(found.count)[0])]
        return Top(flat, self.get(found.last), self.get(found.refused))

    def on_host(self) -> DenseScores:
        """A copy in main memory."""
        with self.scope():
            return DenseScores(self.get(self.array), self.type)


def _signed(block: Any) -> Any:
    """Torch compares and ranks no unsigned integers but bytes."""
    import torch

    return block.to(torch.int64) if block.dtype in (torch.uint16, torch.uint32) else block


def device_scores(scores: Any, name: str = "scores", looked_at: bool = True) -> DeviceScores:
    """Validate a CuPy array or a CUDA tensor and wrap it without a copy where its layout allows.

    NaN and +inf are found by a read for which the host waits; without it nothing waits, and they count as large scores.
    """
    matrix = _of_tensor(scores, name) if hasattr(scores, "detach") else _of_cupy(scores, name)
    if matrix.array.ndim != 2:
        raise InvalidProblemError(
            f"{name}: expected a matrix of shape (tokens, features), found {matrix.array.ndim} dimension(s) "
            f"{tuple(matrix.array.shape)}"
        )
    if looked_at and not matrix.is_integer and matrix.n_edges:
        _refuse(matrix, name)
    return matrix


def _of_cupy(scores: Any, label: str) -> DeviceScores:
    import cupy

    from allocation.cuda.cupy_device import CupyDevice
    from allocation.cuda.kernel_engine import KernelEngine

    name = scores.dtype.name
    _require_supported(name, label)
    device = CupyDevice(scores.device.id)
    with device.scope():
        array = cupy.ascontiguousarray(scores)
    return DeviceScores(array.view("int16") if name == "bfloat16" else array, name, KernelEngine(device))


def _of_tensor(scores: Any, label: str) -> DeviceScores:
    scores = plain_tensor(scores, label)
    name = str(scores.dtype).removeprefix("torch.")
    _require_supported(name, label)
    tensor = scores.contiguous()
    try:
        import cupy  # noqa: F401

        from allocation.cuda.kernel_engine import KernelEngine
        from allocation.cuda.torch_device import TorchDevice
    except ImportError:
        warnings.warn(
            "CuPy is not installed: CUDA tensors are selected by torch alone, which is slower; "
            "pip install 'sae-allocation[cuda12]' or 'sae-allocation[cuda13]'",
            RuntimeWarning,
            stacklevel=5,
        )
        from allocation.cuda.torch_engine import TorchEngine

        return DeviceScores(tensor, name, TorchEngine(str(tensor.device)))
    return DeviceScores(tensor, name, KernelEngine(TorchDevice(tensor.device.index)))


def _require_supported(name: str, label: str) -> None:
    if name not in TYPES and name not in ("int8", "int16", "int32", "uint8", "uint16", "uint32"):
        raise InvalidProblemError(
            f"{label}: on CUDA expected float16, bfloat16, float32, float64 or integers up to int64, found {name}"
        )


def _refuse(matrix: DeviceScores, label: str) -> None:
    """One read on the device, and one look at four numbers; a second read of float64, which alone may be too large."""
    with matrix.scope():
        found = [int(number) for number in matrix.engine.inspect(matrix)]
        if matrix.type == "float64":
            xp = matrix.namespace
            beyond = xp.nonzero(xp.reshape(beyond_range(matrix.array), (-1,)))[0]
            found += [len(beyond), int(beyond[0]) if len(beyond) else 0]
    for kind, count, first in zip(("NaN", "+inf", TOO_LARGE), found[::2], found[1::2], strict=False):
        if count:
            raise refusal_of_entries(label, count, kind, divmod(first, matrix.shape[1]))
