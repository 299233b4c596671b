"""Score matrices on a CUDA device, and the engines that select there."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from allocation.cuda.kernels import TYPES
from allocation.errors import InvalidProblemError
from allocation.scores import Array, DenseScores, Indices, plain_tensor

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Top:
    """Flat positions of the selected entries, ascending, on the device; per group the scores at its ends, in NumPy.

    `last` is the last score taken, +inf where none is; `refused` the best one refused, 0 where none is positive.
    """

    flat: Any
    last: Reals
    refused: Reals


class Engine(Protocol):
    """What computes on the device."""

    def top(self, scores: DeviceScores, axis: int | None, caps: Indices) -> Top:
        """The best positive entries of the whole matrix (None), of every row (0) or column (1), under the caps."""

    def inspect(self, scores: DeviceScores) -> Indices:
        """Number of NaN entries and position of the first, number of +inf entries and position of the first."""

    def at(self, scores: DeviceScores, flat: Any) -> DeviceScores:
        """The entries at flat positions, as a matrix of one row."""

    def matches(self, scores: DeviceScores, flat: Any) -> tuple[Any, Any, Any]:
        """Tokens, features and scores at flat positions."""

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""

    def get(self, array: Any) -> Array:
        """A device array in NumPy."""


@dataclass(frozen=True, eq=False)
class DeviceScores(DenseScores):
    """A `(tokens, features)` matrix on a CUDA device: a CuPy array, or a tensor where CuPy is not installed."""

    engine: Engine

    @property
    def n_edges(self) -> int:
        """Entries of the matrix, forbidden ones included."""
        return self.shape[0] * self.shape[1]

    def widened(self, block: Any) -> Any:
        """bfloat16 entries as float32."""
        if hasattr(block, "detach"):
            return block.float() if self.type == "bfloat16" else block
        return super().widened(block) if self.type == "bfloat16" else block

    def matches(self, flat: Any) -> tuple[Any, Any, Any]:
        """Tokens, features and scores at flat positions, on the device."""
        return self.engine.matches(self, flat)

    def on_host(self) -> DenseScores:
        """A copy in main memory."""
        return DenseScores(self.engine.get(self.array), self.type)


def device_scores(scores: Any, name: str = "scores") -> DeviceScores:
    """Validate a CuPy array or a CUDA tensor and wrap it without a copy where its layout allows."""
    matrix = _of_tensor(scores, name) if hasattr(scores, "detach") else _of_cupy(scores, name)
    if matrix.array.ndim != 2:
        raise InvalidProblemError(
            f"{name}: expected a matrix of shape (tokens, features), found {matrix.array.ndim} dimension(s) "
            f"{tuple(matrix.array.shape)}"
        )
    if not matrix.is_integer and matrix.n_edges:
        _refuse(matrix, name)
    return matrix


def _of_cupy(scores: Any, label: str) -> DeviceScores:
    import cupy

    from allocation.cuda.cupy_device import CupyDevice
    from allocation.cuda.kernel_engine import KernelEngine

    name = scores.dtype.name
    _require_supported(name, label)
    with scores.device:
        array = cupy.ascontiguousarray(scores)
    return DeviceScores(
        array.view("int16") if name == "bfloat16" else array, name, KernelEngine(CupyDevice(array.device.id))
    )


def _of_tensor(scores: Any, label: str) -> DeviceScores:
    scores = plain_tensor(scores, label)
    name = str(scores.dtype).removeprefix("torch.")
    _require_supported(name, label)
    tensor = scores.contiguous()
    try:
        import cupy

        from allocation.cuda.cupy_device import CupyDevice
        from allocation.cuda.kernel_engine import KernelEngine
    except ImportError:
        warnings.warn(
            "CuPy is not installed: CUDA tensors are selected by torch alone, which is slower; "
            "pip install 'sae-allocation[cuda12]' or 'sae-allocation[cuda13]'",
            RuntimeWarning,
            stacklevel=5,
        )
        from allocation.cuda.torch_engine import TorchEngine

        return DeviceScores(tensor, name, TorchEngine(str(tensor.device)))
    device = CupyDevice(tensor.device.index, follows_torch=True)
    with device.scope():
        array = cupy.from_dlpack(tensor.view(_torch().int16) if name == "bfloat16" else tensor)
    return DeviceScores(array, name, KernelEngine(device))


def _torch() -> Any:
    import torch

    return torch


def _require_supported(name: str, label: str) -> None:
    if name not in TYPES and name not in ("int8", "int16", "int32", "uint8", "uint16", "uint32"):
        raise InvalidProblemError(
            f"{label}: on CUDA expected float16, bfloat16, float32, float64 or integers up to int64, found {name}"
        )


def _refuse(matrix: DeviceScores, label: str) -> None:
    """One read on the device, and one look at four numbers."""
    found = [int(number) for number in matrix.engine.inspect(matrix)]
    for name, count, first in (("NaN", found[0], found[1]), ("+inf", found[2], found[3])):
        if count:
            token, feature = divmod(first, matrix.shape[1])
            raise InvalidProblemError(
                f"{label}: {count} entries are {name}, the first at token {token}, feature {feature}; "
                "scores must be finite, or -inf to forbid a match"
            )
