"""The device that CuPy drives: its arrays, its compiler, and torch's stream where the scores are a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from allocation.cuda.kernels import DIGIT, definitions, source
from allocation.scores import Array


@dataclass(frozen=True)
class CupyDevice:
    """One CUDA device; all work goes to CuPy's current stream, or to torch's."""

    number: int
    follows_torch: bool = False
    digit: int = DIGIT

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Makes the device and the stream current."""
        import cupy

        with cupy.cuda.Device(self.number):
            if not self.follows_torch:
                yield
                return
            with _torch_stream(self.number):
                yield

    def empty(self, size: int, kind: str) -> Any:
        """An array with any content."""
        import cupy

        return cupy.empty(size, kind)

    def filled(self, size: int, kind: str, value: int) -> Any:
        """An array of one value."""
        import cupy

        return cupy.asarray(np.full(size, value, kind)) if value else cupy.zeros(size, kind)

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""
        import cupy

        return cupy.asarray(array)

    def get(self, array: Any) -> Array:
        """A device array in NumPy; waits for the stream."""
        return np.asarray(array.get())

    def launch(self, kernel: str, type_name: str, blocks: int, *arguments: Any) -> None:
        """Run a kernel on the current stream."""
        function = _module(type_name).get_function(kernel)
        function((blocks,), (1 << self.digit,), tuple(_word(a) if isinstance(a, int) else a for a in arguments))


def _word(number: int) -> np.int64:
    """The 64 bits of an integer, keys beyond 2^63 included."""
    return np.int64(number - 2**64 if number >= 2**63 else number)


@cache
def _module(type_name: str) -> Any:
    """All kernels of a number type; CuPy compiles them on first use and keeps them on disk."""
    import cupy

    return cupy.RawModule(code=source(), options=("-std=c++17", *definitions(type_name)))


def _torch_stream(number: int) -> Any:
    """The stream that torch works on now."""
    import cupy
    import torch

    stream = torch.cuda.current_stream(number)
    if hasattr(cupy.cuda.Stream, "from_external"):  # CuPy 14
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, number)
