"""Score matrices as the solvers read them: dense blocks or candidate edges, in their own number type.

Sixteen-bit floats have no vectorised comparison in NumPy. Their bit patterns read as signed integers order positive
numbers exactly as the numbers themselves do, so selections among positive scores run on that view, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices
from allocation.threads import map_blocks

T = TypeVar("T")

# The bit pattern of +inf in the two 16-bit float formats: larger signed patterns are NaN.
INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class DenseScores:
    """A `(tokens, features)` matrix. bfloat16 is held as its 16-bit patterns with `type` as the tag."""

    array: Array
    type: str

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens, number of features."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def n_edges(self) -> int:
        """Entries of the matrix, forbidden ones included."""
        return self.array.size

    @property
    def is_integer(self) -> bool:
        """Whether the scores are integers."""
        return self.type not in FLOAT_TYPES

    @cached_property
    def ordered(self) -> Array:
        """The matrix in a type whose positive entries compare as the scores do."""
        return self.array.view(np.int16) if self.type in INFINITY_BITS else self.array

    def widened(self, block: Array) -> Array:
        """Entries of `ordered` or `array` as numbers NumPy can compute with, exactly."""
        if self.type == "bfloat16":
            return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if self.type == "float16":
            return block.view(np.float16).astype(np.float32)
        return block

    def encoded(self, values: NDArray[np.float64]) -> Array:
        """Positive numbers as entries of `ordered`; what is not positive and finite becomes the largest entry."""
        kind = np.dtype(np.float32) if self.type == "bfloat16" else self.array.dtype
        largest = float(np.finfo(kind).max) if kind.kind == "f" else np.iinfo(str(kind)).max
        entries = np.where((values > 0) & (values < float(largest)), values, 0).astype(kind)
        entries = np.where(entries > 0, entries, kind.type(largest))
        if self.type == "bfloat16":
            return (entries.view(np.uint32) >> 16).astype(np.int16)
        return entries.view(np.int16) if self.type == "float16" else entries

    def values_at(self, flat: Indices) -> Array:
        """Scores at flat positions, in the scores' own type (float32 for bfloat16)."""
        values = self.array.reshape(-1)[flat]
        return self.widened(values) if self.type == "bfloat16" else values

    def matches(self, flat: Indices) -> tuple[Indices, Indices, Array]:
        """Tokens, features and scores at flat positions."""
        columns = max(self.array.shape[1], 1)
        tokens = flat // columns  # a product costs less than divmod's second division
        return tokens, flat - tokens * columns, self.values_at(flat)

    def on_host(self) -> DenseScores:
        """The matrix in main memory."""
        return self

    def rows(self, start: int, stop: int) -> Array:
        """A block of rows as numbers NumPy can compute with."""
        return self.widened(self.array[start:stop, :])

    def lines(self, side: int, lines: Indices) -> Array:
        """Some tokens (side 0) or features (side 1) as the rows of a block of numbers."""
        block = self.array[lines] if side == 0 else np.ascontiguousarray(self.array[:, lines].T)
        return self.widened(block)

    def part(self, tokens: Indices) -> DenseScores:
        """The scores of some tokens, in main memory."""
        return DenseScores(self.array[tokens], self.type)

    @property
    def namespace(self) -> Any:
        """The library whose functions compute where the scores are."""
        return np

    def put(self, array: Array) -> Any:
        """A NumPy array where the scores are."""
        return array

    def get(self, array: Any) -> Array:
        """What was computed where the scores are, in NumPy."""
        return np.asarray(array)

    def scope(self) -> AbstractContextManager[None]:
        """Makes current where the scores are."""
        return nullcontext()

    def in_blocks(self, work: Callable[[int, int], T], workers: int | None, block_bytes: int) -> list[T]:
        """`[work(start, stop), ...]` over blocks of rows."""
        return map_blocks(work, self.shape[0] if self.shape[1] else 0, self.array.nbytes, workers, block_bytes)


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """Candidate edges, sorted by (token, feature) without repetition; every other pair is forbidden."""

    tokens: Indices
    features: Indices
    array: Array
    shape: tuple[int, int]
    type: str

    @property
    def n_edges(self) -> int:
        """Number of candidate edges."""
        return self.array.size

    @property
    def is_integer(self) -> bool:
        """Whether the scores are integers."""
        return self.type not in FLOAT_TYPES

    def matches(self, edges: Indices) -> tuple[Indices, Indices, Array]:
        """Tokens, features and scores of edges by their number."""
        return self.tokens[edges], self.features[edges], self.array[edges]


Scores: TypeAlias = DenseScores | EdgeScores
