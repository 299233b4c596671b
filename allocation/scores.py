"""Score matrices as the solvers read them: dense blocks or candidate edges, in their own number type.

Sixteen-bit floats have no vectorised comparison in NumPy. Their bit patterns read as signed integers order positive
numbers exactly as the numbers themselves do, so selections among positive scores run on that view, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from allocation.arrays import Array, Indices, Mask, Reals
from allocation.threads import BLOCK_ENTRIES, map_blocks, rows_per_block

T = TypeVar("T")

# The bit pattern of +inf in the two 16-bit float formats: larger signed patterns are NaN.
INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Block:
    """Some edges in float64: a vector each, or a column of tokens, a row of features and a matrix of scores."""

    tokens: Indices
    features: Indices
    scores: Reals

    def raise_best(self, best: Reals, side: int) -> None:
        """Write the largest score of each token (side 0) or feature (side 1) where `best` holds a smaller one."""
        ends = (self.tokens, self.features)[side].reshape(-1)
        if self.scores.ndim == 1:
            np.maximum.at(best, ends, self.scores)
        elif self.scores.size:
            best[ends] = np.maximum(best[ends], self.scores.max(axis=1 - side))


class _Scores:
    """What scores of every form do alike. An edge has an id, by which it is asked for; ids are in edge order."""

    type: str

    @property
    def is_integer(self) -> bool:
        """Whether the scores are integers."""
        return self.type not in FLOAT_TYPES

    @property
    def on_device(self) -> bool:
        """Whether the scores are on a CUDA device; what computes there is inside the `scope`."""
        return False

    @property
    def not_in_parts(self) -> str | None:
        """Why processes cannot hold such scores in parts, or None where they can."""
        return None

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

    def returned(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Matches, wherever they were found, as callers of `allocation.solve` get them."""
        return parts


@dataclass(frozen=True, eq=False)
class DenseScores(_Scores):
    """A `(tokens, features)` matrix. bfloat16 is held as its 16-bit patterns with `type` as the tag.

    The id of an edge is its flat position; forbidden edges have ids too.
    """

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
    def dense(self) -> DenseScores | None:
        """Itself: there is an entry for every pair."""
        return self

    @property
    def size_text(self) -> str:
        """Its extent, as a problem shows it."""
        return f"{self.shape[0]} tokens x {self.shape[1]} features"

    @cached_property
    def ordered(self) -> Array:
        """The matrix in a type whose positive entries compare as the scores do."""
        return self.array.view(np.int16) if self.type in INFINITY_BITS else self.array

    @property
    def entries(self) -> Array:
        """All scores by id, in a type whose positive entries compare as the scores do."""
        return self.ordered.reshape(-1)

    @property
    def numbers(self) -> Array:
        """All scores as numbers NumPy can compute with, exactly."""
        return self.widened(self.array)

    def widened(self, block: Array) -> Array:
        """Entries of `ordered` or `array` as numbers NumPy can compute with, exactly."""
        if self.type == "bfloat16":
            return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if self.type == "float16":
            return block.view(np.float16).astype(np.float32)
        return block

    def encoded(self, values: Reals) -> Array:
        """Positive numbers as entries of `ordered`; what is not positive and finite becomes the largest entry."""
        kind = np.dtype(np.float32) if self.type == "bfloat16" else self.array.dtype
        largest = float(np.finfo(kind).max) if kind.kind == "f" else np.iinfo(str(kind)).max
        entries = np.where((values > 0) & (values < float(largest)), values, 0).astype(kind)
        entries = np.where(entries > 0, entries, kind.type(largest))
        if self.type == "bfloat16":
            return (entries.view(np.uint32) >> 16).astype(np.int16)
        return entries.view(np.int16) if self.type == "float16" else entries

    def ends(self, ids: Any) -> tuple[Any, Any]:
        """Token and feature of edges."""
        columns = max(self.shape[1], 1)
        tokens = ids // columns  # a product costs less than divmod's second division
        before = tokens * columns
        # new memory costs more than the arithmetic
        return tokens, np.subtract(ids, before, out=before) if isinstance(before, np.ndarray) else ids - before

    def find(self, tokens: Indices, features: Indices) -> Indices:
        """Ids of edges by their ends."""
        return tokens * self.shape[1] + features

    def values_at(self, ids: Indices) -> Array:
        """Scores of edges, in their own type (float32 for bfloat16)."""
        values = self.array.reshape(-1)[ids]
        return self.widened(values) if self.type == "bfloat16" else values

    def matches(self, ids: Any) -> tuple[Any, Any, Any]:
        """Tokens, features and scores of edges."""
        return (*self.ends(ids), self.values_at(ids))

    def allowed(self) -> Indices:
        """Ids of all edges that are not forbidden."""
        if self.is_integer:
            return np.arange(self.n_edges)
        return np.flatnonzero(self.numbers.reshape(-1) > -np.inf)

    def count_allowed(self, tokens: Mask, features: Mask) -> int:
        """How many allowed edges join these tokens with these features."""
        if self.is_integer:
            return int(np.count_nonzero(tokens)) * int(np.count_nonzero(features))
        total, xp, columns = 0, self.namespace, self.put(np.flatnonzero(features))
        rows = np.flatnonzero(tokens)
        step = rows_per_block(features.size)
        for start in range(0, rows.size, step):
            block = xp.take(self.lines(0, rows[start : start + step]), columns, axis=1)
            total += int(xp.count_nonzero(block > -np.inf))
        return total

    def spread(self, values: Array, absent: float) -> Array:
        """A matrix from one value an edge, `absent` where there is no edge."""
        return values

    def gathered(self, matrix: Array) -> Array:
        """One value an edge from a matrix."""
        return matrix

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

    def blocks(self, without: Indices, entries: int = BLOCK_ENTRIES) -> Iterator[Block]:
        """All edges in blocks of rows, in main memory; those of the ascending ids `without` at -inf."""
        rows, columns = self.shape
        step = rows_per_block(columns, entries)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            scores = self.rows(start, stop).astype(np.float64)
            inside = slice(*np.searchsorted(without, [start * columns, stop * columns]))
            scores.reshape(-1)[without[inside] - start * columns] = -np.inf
            yield Block(np.arange(start, stop)[:, None], np.arange(columns)[None, :], scores)

    def in_blocks(self, work: Callable[[int, int], T], workers: int | None, block_bytes: int) -> list[T]:
        """`[work(start, stop), ...]` over blocks of rows."""
        return map_blocks(work, self.shape[0] if self.shape[1] else 0, self.array.nbytes, workers, block_bytes)


@dataclass(frozen=True, eq=False)
class EdgeScores(_Scores):
    """Candidate edges, sorted by (token, feature) without repetition; every other pair is forbidden.

    The id of an edge is its number in that order.
    """

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
    def dense(self) -> DenseScores | None:
        """None: there is no matrix."""
        return None

    @property
    def size_text(self) -> str:
        """Its extent, as a problem shows it."""
        return f"{self.shape[0]} tokens x {self.shape[1]} features, {self.n_edges} edges"

    @property
    def entries(self) -> Array:
        """All scores by id."""
        return self.array

    @property
    def numbers(self) -> Array:
        """All scores by id."""
        return self.array

    def ends(self, ids: Indices) -> tuple[Indices, Indices]:
        """Token and feature of edges."""
        return self.tokens[ids], self.features[ids]

    def find(self, tokens: Indices, features: Indices) -> Indices:
        """Ids of edges by their ends, -1 where none joins them."""
        if self.n_edges == 0:
            return np.full(tokens.shape, -1)
        wanted = tokens * self.shape[1] + features
        flat = self.tokens * self.shape[1] + self.features
        at = np.minimum(np.searchsorted(flat, wanted), flat.size - 1)
        return np.where(flat[at] == wanted, at, -1)

    def values_at(self, ids: Indices) -> Array:
        """Scores of edges."""
        return self.array[ids]

    def matches(self, ids: Indices) -> tuple[Indices, Indices, Array]:
        """Tokens, features and scores of edges."""
        return self.tokens[ids], self.features[ids], self.array[ids]

    def allowed(self) -> Indices:
        """All ids: no candidate is forbidden."""
        return np.arange(self.n_edges)

    def count_allowed(self, tokens: Mask, features: Mask) -> int:
        """How many edges join these tokens with these features."""
        return int(np.count_nonzero(tokens[self.tokens] & features[self.features]))

    def spread(self, values: Array, absent: float) -> Array:
        """A matrix from one value an edge, `absent` where there is no edge."""
        matrix = np.full(self.shape, absent)
        matrix[self.tokens, self.features] = values
        return matrix

    def gathered(self, matrix: Array) -> Array:
        """One value an edge from a matrix."""
        return np.asarray(matrix[self.tokens, self.features])

    def on_host(self) -> EdgeScores:
        """As they are: candidate edges are in main memory."""
        return self

    def blocks(self, without: Indices, entries: int = BLOCK_ENTRIES) -> Iterator[Block]:
        """All edges at once; those of the ids `without` at -inf."""
        scores = self.array.astype(np.float64)
        scores[without] = -np.inf
        yield Block(self.tokens, self.features, scores)


Scores: TypeAlias = DenseScores | EdgeScores
ScoresLike: TypeAlias = ArrayLike | Scores
"""What scores may be: a nested list, an array of NumPy or CuPy, a detached tensor on any device, or `Rough`."""


def reals_at(scores: Scores, ids: Indices, absent: float) -> Reals:
    """Scores of edges in float64, `absent` where the id is -1."""
    if scores.n_edges == 0:
        return np.full(ids.shape, absent)
    return np.where(ids >= 0, scores.values_at(np.maximum(ids, 0)).astype(np.float64), absent)
