"""The device of CUDA tensors: torch's memory and current stream; CuPy only compiles and launches the kernels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from allocation.arrays import Array
from allocation.cuda.cupy_device import launched
from allocation.cuda.kernel_engine import KernelEngine
from allocation.cuda.kernels import DIGIT
from allocation.cuda.torch_namespace import torch_namespace

# Kernels read bits: what torch calls signed holds their unsigned integers as well.
_KINDS = {"uint32": "int32", "uint64": "int64", "int64": "int64"}


@dataclass(frozen=True)
class TorchDevice(KernelEngine):
    """One CUDA device. Memory comes from torch's allocator alone, so that nothing is held twice or freed too early."""

    device_index: int
    digit: int = DIGIT

    @property
    def device(self) -> str:
        """The device as torch names it."""
        return f"cuda:{self.device_index}"

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Makes the device current, and torch's current stream CuPy's as well."""
        import cupy
        import torch

        with torch.cuda.device(self.device_index), cupy.cuda.Device(self.device_index):
            stream = torch.cuda.current_stream(self.device_index)
            with _external_stream(stream.cuda_stream, self.device_index):
                yield

    def wait(self) -> None:
        """Until what was launched can be read on any stream. What runs on the default stream is read in its turn."""
        import torch

        stream = torch.cuda.current_stream(self.device_index)
        if stream.cuda_stream:
            stream.synchronize()

    @property
    def namespace(self) -> Any:
        """Torch, as the passes call it."""
        return torch_namespace(self.device)

    def empty(self, size: int, kind: str) -> Any:
        """A tensor with any content."""
        import torch

        return torch.empty(size, dtype=getattr(torch, _KINDS[kind]), device=self.device)

    def filled(self, size: int, kind: str, value: int) -> Any:
        """A tensor of one value, written by the device."""
        import torch

        bits = int(np.array(value, kind).view(_KINDS[kind]))
        return torch.full((size,), bits, dtype=getattr(torch, _KINDS[kind]), device=self.device)

    def ramp(self, size: int, step: int) -> Any:
        """The int64 multiples 0, step, 2 step, ..."""
        import torch

        return torch.arange(size, dtype=torch.int64, device=self.device) * step

    def put(self, array: Array) -> Any:
        """A NumPy array on the device, by way of memory from which it is copied without waiting."""
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if torch.cuda.is_available():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def get(self, array: Any) -> Array:
        """A tensor in NumPy; bfloat16 as its bit patterns. Waits for the stream."""
        import torch

        return np.asarray((array.view(torch.int16) if array.dtype == torch.bfloat16 else array).cpu().numpy())

    def flat(self, array: Any, type_name: str) -> Any:
        """The entries side by side, as the type that the kernels read."""
        import torch

        flat = array.reshape(-1)
        return flat.to(torch.int64) if type_name == "int64" else flat

    def reals(self, array: Any) -> Any:
        """64-bit patterns as float64."""
        import torch

        return array.view(torch.float64)

    def returned(self, array: Any) -> Any:
        """The same memory as a CuPy array: what callers of `allocation.solve` get."""
        import cupy

        return cupy.from_dlpack(array)

    def launch(self, kernel: str, type_name: str, blocks: int, *arguments: Any) -> None:
        """Run a kernel on the current stream."""
        pointers = (a if isinstance(a, int) else a.data_ptr() for a in arguments)
        launched(kernel, type_name, blocks, 1 << self.digit, *pointers)


@cache
def _external_stream(pointer: int, device_index: int) -> Any:
    """A stream of torch's as CuPy knows it, made once.

    `ExternalStream` never destroys the stream. What replaces it from CuPy 14 on may do so when it is collected, which
    this cache prevents.
    """
    import cupy

    if not hasattr(cupy.cuda, "ExternalStream"):
        import torch

        theirs: Any = torch.cuda.ExternalStream
        return cupy.cuda.Stream.from_external(theirs(pointer, device=device_index))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return cupy.cuda.ExternalStream(pointer, device_index)
