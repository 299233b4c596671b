"""The device of CuPy arrays: CuPy's memory, its current stream, and its compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from allocation.arrays import Array
from allocation.cuda.kernel_engine import KernelEngine
from allocation.cuda.kernels import DIGIT, definitions, key_type, source


@dataclass(frozen=True)
class CupyDevice(KernelEngine):
    """One CUDA device; all work goes to CuPy's current stream there."""

    device_index: int
    digit: int = DIGIT

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Makes the device current."""
        import cupy

        with cupy.cuda.Device(self.device_index):
            yield

    def wait(self) -> None:
        """Nothing to wait for: CuPy reads its arrays on the stream they were made on."""

    @property
    def namespace(self) -> Any:
        """CuPy."""
        import cupy

        return cupy

    def empty(self, size: int, kind: str) -> Any:
        """An array with any content."""
        import cupy

        return cupy.empty(size, kind)

    def filled(self, size: int, kind: str, value: int) -> Any:
        """An array of one value, written by the device."""
        import cupy

        # as the signed integer of the same bits, which every version fills in
        signed = kind.removeprefix("u")
        return cupy.full(size, int(np.array(value, kind).view(signed)), signed).view(kind)

    def ramp(self, size: int, step: int) -> Any:
        """The int64 multiples 0, step, 2 step, ..."""
        import cupy

        return cupy.arange(size, dtype="int64") * step

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""
        import cupy

        return cupy.asarray(array)

    def get(self, array: Any) -> Array:
        """A device array in NumPy; waits for the stream."""
        return np.asarray(array.get())

    def flat(self, array: Any, type_name: str) -> Any:
        """The entries side by side, as bits of the type that the kernels read."""
        if type_name == "int64":
            return array.reshape(-1).astype(type_name, copy=False)
        return array.reshape(-1).view("uint16" if array.dtype.itemsize == 2 else key_type(type_name))

    def reals(self, array: Any) -> Any:
        """64-bit patterns as float64."""
        return array.view("float64")

    def returned(self, array: Any) -> Any:
        """What callers of `allocation.solve` get."""
        return array

    def launch(self, kernel: str, type_name: str, blocks: int, *arguments: Any) -> None:
        """Run a kernel on the current stream."""
        launched(kernel, type_name, blocks, 1 << self.digit, *arguments)


def launched(kernel: str, type_name: str, blocks: int, threads: int, *arguments: Any) -> None:
    """Run a kernel on CuPy's current stream, integers and addresses as 64 bits each."""
    words = tuple(_word(a) if isinstance(a, int) else a for a in arguments)
    _function(kernel, type_name)((blocks,), (threads,), words)


def _word(number: int) -> np.int64:
    """The 64 bits of an integer, keys beyond 2^63 included."""
    return np.int64(number - 2**64 if number >= 2**63 else number)


@cache
def _function(kernel: str, type_name: str) -> Any:
    """A kernel that CuPy loads on every device it is called for."""
    return _module(type_name).get_function(kernel)


@cache
def _module(type_name: str) -> Any:
    """All kernels of a number type; CuPy compiles them on first use and keeps them on disk."""
    import cupy

    return cupy.RawModule(code=source(), options=("-std=c++17", *definitions(type_name)))
