"""A device of the tests: the kernels' own source, compiled for the processor, with NumPy arrays."""

from __future__ import annotations

import ctypes
import subprocess
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from allocation.cuda.kernel_engine import KernelEngine
from allocation.cuda.kernels import definitions, source
from allocation.cuda.selection import SAMPLE

HEADER = Path(__file__).with_name("cuda_on_host.h")
# Bytes around every array that no kernel may change, and what an array holds before anything is written to it.
GUARD, UNTOUCHED, GARBAGE = 64, 0xA5, 0xCD


@cache
def library(type_name: str, digit: int) -> ctypes.CDLL:
    """All kernels of a number type."""
    folder = Path(mkdtemp(prefix="kernels_"))
    (folder / "kernels.cpp").write_text(f'#include "{HEADER}"\n{source()}', encoding="utf-8")
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-U_FORTIFY_SOURCE", *definitions(type_name, digit)]
    subprocess.run(["g++", *options, "-o", folder / "kernels.so", folder / "kernels.cpp"], check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


@dataclass(eq=False)
class HostDevice(KernelEngine):
    """Runs kernels one thread at a time, in an order drawn from `seed`."""

    digit: int = 5
    seed: int = 0
    sample: int = SAMPLE
    launched: list[str] = field(default_factory=list)
    _kept: list[np.ndarray] = field(default_factory=list)

    def empty(self, size: int, kind: str) -> Any:
        """An array of garbage between two guards."""
        held = np.full(size * np.dtype(kind).itemsize + 2 * GUARD, GARBAGE, np.uint8)
        held[:GUARD] = held[held.size - GUARD :] = UNTOUCHED
        self._kept.append(held)
        return held[GUARD : held.size - GUARD].view(kind)

    def filled(self, size: int, kind: str, value: int) -> Any:
        """An array of one value."""
        array = self.empty(size, kind)
        array[:] = value
        return array

    def ramp(self, size: int, step: int) -> Any:
        """Multiples."""
        return self.put(step * np.arange(size))

    def put(self, array: np.ndarray) -> Any:
        """A copy between guards."""
        copy = self.empty(array.size, array.dtype.name).reshape(array.shape)
        copy[...] = array
        return copy

    def get(self, array: Any) -> np.ndarray:
        """A copy that no kernel changes."""
        return array.copy()

    def scope(self) -> AbstractContextManager[None]:
        """There is but one processor."""
        return nullcontext()

    def wait(self) -> None:
        """Everything has ended already."""

    @property
    def namespace(self) -> Any:
        """NumPy."""
        return np

    def flat(self, array: np.ndarray, type_name: str) -> np.ndarray:
        """The entries side by side; patterns of 16 bits unsigned."""
        flat = array.reshape(-1)
        return flat.astype(type_name) if type_name == "int64" else flat.view(f"u{array.dtype.itemsize}")

    def reals(self, array: np.ndarray) -> np.ndarray:
        """64-bit patterns as float64."""
        return array.view(np.float64)

    def returned(self, array: Any) -> Any:
        """As it is."""
        return array

    def launch(self, kernel: str, type_name: str, blocks: int, *arguments: Any, first: int = 0) -> None:
        """Run all blocks, or those from `first` on, then look at the guards."""
        compiled = library(type_name, self.digit)
        numbers = [a.ctypes.data if isinstance(a, np.ndarray) else int(a) for a in arguments]
        assert len(numbers) <= 16
        assert blocks > 0
        vector = (ctypes.c_longlong * 16)(*numbers)
        self.seed += 1
        run = compiled.run_kernel
        run.restype = ctypes.c_bool
        function = ctypes.cast(getattr(compiled, kernel), ctypes.c_void_p)
        assert run(function, ctypes.c_uint(first), ctypes.c_uint(blocks), vector, ctypes.c_ulonglong(self.seed)), (
            f"{kernel}: barriers differ"
        )
        for held in self._kept:
            assert np.all(held[:GUARD] == UNTOUCHED), f"{kernel}: wrote before an array"
            assert np.all(held[held.size - GUARD :] == UNTOUCHED), f"{kernel}: wrote beyond an array"
        self.launched.append(kernel)
