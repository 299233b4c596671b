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

HERE = Path(__file__).parent
OPTIONS = ("-std=c++17", "-O1", "-fPIC", "-w", "-U_FORTIFY_SOURCE")
# The compiler reports accesses and what arithmetic lacks to `watch.cpp`, instead of a library of its own.
WATCH = ("-fsanitize=thread,undefined", "--param=tsan-distinguish-volatile=1")
# Bytes around every array that no kernel may change, and what an array holds before anything is written to it.
GUARD, UNTOUCHED, GARBAGE = 64, 0xA5, 0xCD


@cache
def hardware() -> tuple[Path, ...]:
    """What stands for the card, compiled once for all number types."""
    folder = Path(mkdtemp(prefix="hardware_"))
    for name in ("host_threads", "watch"):
        subprocess.run(["g++", *OPTIONS, "-O2", "-c", "-o", folder / f"{name}.o", HERE / f"{name}.cpp"], check=True)
    return tuple(folder.iterdir())


@cache
def library(type_name: str, digit: int, watched: bool = False, text: str | None = None) -> ctypes.CDLL:
    """All kernels of a number type; of another source, if there is one."""
    folder = Path(mkdtemp(prefix="kernels_"))
    (folder / "kernels.cpp").write_text(
        f'#include "{HERE}/cuda_on_host.h"\n#line 1\n{text or source()}', encoding="utf-8"
    )
    options = [*OPTIONS, *(WATCH if watched else ()), *definitions(type_name, digit)]
    subprocess.run(["g++", *options, "-c", "-o", folder / "kernels.o", folder / "kernels.cpp"], check=True)
    objects = [folder / "kernels.o", *hardware()]
    subprocess.run(["g++", "-shared", "-o", folder / "kernels.so", *objects], check=True)
    compiled = ctypes.CDLL(str(folder / "kernels.so"))
    compiled.run_kernel.restype = ctypes.c_bool
    compiled.what_was_found.restype = ctypes.c_char_p
    return compiled


def run_kernel(
    compiled: ctypes.CDLL, kernel: str, threads: int, blocks: range, numbers: list[int], seed: int = 1
) -> bool:
    """Run some blocks of a launch; False if threads waited at different barriers."""
    assert len(numbers) <= 16
    assert blocks.stop > 0
    function = ctypes.cast(getattr(compiled, kernel), ctypes.c_void_p)
    counts = (ctypes.c_uint(number) for number in (threads, blocks.start, blocks.stop))
    vector = (ctypes.c_longlong * 16)(*numbers)
    return bool(compiled.run_kernel(function, *counts, vector, ctypes.c_ulonglong(seed)))


@dataclass(eq=False)
class HostDevice(KernelEngine):
    """Runs kernels one thread at a time, in an order drawn from `seed`; watched, it asks what orders their accesses."""

    digit: int = 5
    seed: int = 0
    watched: bool = False
    text: str | None = None
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
        compiled = library(type_name, self.digit, self.watched, self.text)
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        numbers = [a.ctypes.data if isinstance(a, np.ndarray) else int(a) for a in arguments]
        self.seed += 1
        if self.watched:
            starts, sizes = [a.ctypes.data for a in arrays], [a.nbytes for a in arrays]
            kind = ctypes.c_longlong * len(arrays)
            compiled.watch_arrays(kind(*starts), kind(*sizes), ctypes.c_int(len(arrays)))
        assert run_kernel(compiled, kernel, 1 << self.digit, range(first, blocks), numbers, self.seed), (
            f"{kernel}: barriers differ"
        )
        if self.watched:
            found = compiled.what_was_found().decode()
            assert not found, f"{kernel}: {found}"
        for held in self._kept:
            assert np.all(held[:GUARD] == UNTOUCHED), f"{kernel}: wrote before an array"
            assert np.all(held[held.size - GUARD :] == UNTOUCHED), f"{kernel}: wrote beyond an array"
        self.launched.append(kernel)
