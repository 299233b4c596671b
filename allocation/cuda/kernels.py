"""The kernels' source for each number type, and what they need where they run: arrays and launches."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol

from allocation.arrays import Array

FILES = ("keys.cu", "rank.cu", "bracket.cu", "survivors.cu", "finish.cu", "positions.cu")
# Width of a score, and the bit pattern of +inf, which integers lack. Every other integer type widens to int64.
TYPES = {
    "float16": (16, "0x7C00"),
    "bfloat16": (16, "0x7F80"),
    "float32": (32, "0x7F800000u"),
    "float64": (64, "0x7FF0000000000000ull"),
    "int64": (64, None),
}
# Bits of a radix digit: a block has as many threads as a digit has values.
DIGIT = 8


@cache
def source() -> str:
    """The one translation unit that all kernels form."""
    return "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in FILES)


def definitions(type_name: str, digit: int = DIGIT) -> tuple[str, ...]:
    """Compiler options that fix the number type."""
    bits, infinity = TYPES[type_name]
    options = (f"-DBITS={bits}", f"-DDIGIT={digit}")
    return options if infinity is None else (*options, f"-DINFINITY_BITS={infinity}")


def key_type(type_name: str) -> str:
    """The type of the integers that stand for scores."""
    return "uint64" if TYPES[type_name][0] == 64 else "uint32"


class Launcher(Protocol):
    """What kernels need where they run: flat arrays of int64, uint32 and uint64, and launches."""

    @property
    def digit(self) -> int:
        """Bits of a radix digit that kernels are compiled with here."""

    def empty(self, size: int, kind: str) -> Any:
        """An array with any content."""

    def filled(self, size: int, kind: str, value: int) -> Any:
        """An array of one value."""

    def ramp(self, size: int, step: int) -> Any:
        """The int64 multiples 0, step, 2 step, ..."""

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""

    def flat(self, array: Any, type_name: str) -> Any:
        """The entries of a matrix side by side, as the type that the kernels read."""

    def reals(self, array: Any) -> Any:
        """64-bit patterns as float64."""

    def launch(self, kernel: str, type_name: str, blocks: int, *arguments: Any) -> None:
        """Run a kernel with arrays and integers as arguments, after all that was launched before."""
