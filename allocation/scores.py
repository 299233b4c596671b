"""Score matrices as the solvers read them: dense blocks or candidate edges, in their own number type.

Sixteen-bit floats have no vectorised comparison in NumPy. Their bit patterns read as signed integers order positive
numbers exactly as the numbers themselves do, so selections among positive scores run on that view, without a copy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import LARGEST, array_of, count_of, shown
from allocation.errors import InvalidProblemError
from allocation.threads import map_blocks

Array: TypeAlias = NDArray[Any]
Indices: TypeAlias = NDArray[np.int64]
T = TypeVar("T")

# The bit pattern of +inf in the two 16-bit float formats: larger signed patterns are NaN.
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_TYPES = ("float16", "bfloat16", "float32", "float64")
_READABLE = "float16, bfloat16, float32, float64 or integers"
# Beyond this only float64 holds finite scores. However many of them, sums with prices and limits stay finite below it.
LARGEST_SCORE = 1e280
TOO_LARGE = f"beyond {LARGEST_SCORE:g}"


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
        return self.type not in _TYPES

    @cached_property
    def ordered(self) -> Array:
        """The matrix in a type whose positive entries compare as the scores do."""
        return self.array.view(np.int16) if self.type in _INFINITY_BITS else self.array

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
        return self.type not in _TYPES

    def matches(self, edges: Indices) -> tuple[Indices, Indices, Array]:
        """Tokens, features and scores of edges by their number."""
        return self.tokens[edges], self.features[edges], self.array[edges]


Scores: TypeAlias = DenseScores | EdgeScores


def dense_scores(scores: Any, name: str = "scores", workers: int | None = None) -> DenseScores:
    """Validate a matrix and wrap it without a copy where its layout allows. Messages call it `name`."""
    if is_on_device(scores):
        from allocation.cuda.scores import device_scores

        return device_scores(scores, name)
    array, type_name = _as_array(scores, name)
    if array.ndim != 2:
        raise InvalidProblemError(
            f"{name}: expected a matrix of shape (tokens, features), found {array.ndim} dimension(s) {array.shape}"
        )
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    _refuse_bad_entries(array, type_name, name, workers)
    return DenseScores(array, type_name)


def edge_scores(tokens: Any, features: Any, scores: Any, shape: Any) -> EdgeScores:
    """Validate candidate edges and sort them by (token, feature)."""
    size = _shape(shape)
    array, type_name = _as_array(scores, "scores")
    columns = [index_vector(tokens, "tokens", size[0]), index_vector(features, "features", size[1])]
    if array.ndim != 1 or not (array.size == columns[0].size == columns[1].size):
        raise InvalidProblemError(
            "from_edges: tokens, features and scores must be vectors of one length, found shapes "
            f"{columns[0].shape}, {columns[1].shape} and {array.shape}"
        )
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    _refuse_bad_entries(array.reshape(1, -1), type_name, "scores", None)
    array = DenseScores(array.reshape(1, -1), type_name).values_at(np.arange(array.size))
    flat = columns[0] * size[1] + columns[1]
    order = np.argsort(flat, kind="stable")
    flat = flat[order]
    repeated = np.flatnonzero(flat[1:] == flat[:-1])
    if repeated.size:
        token, feature = divmod(int(flat[repeated[0]]), size[1])
        raise InvalidProblemError(f"from_edges: the edge (token {token}, feature {feature}) is given twice")
    kept = order[np.asarray(array[order] != -np.inf)] if array.dtype.kind == "f" else order
    return EdgeScores(columns[0][kept], columns[1][kept], array[kept], size, type_name)


def index_vector(members: Any, name: str, size: int) -> Indices:
    """Indices below `size` from integers or a boolean mask."""
    array = array_of(members, name, "a vector of indices or a boolean mask")
    if array.ndim != 1:
        raise InvalidProblemError(f"{name}: expected a vector of indices or a boolean mask, found shape {array.shape}")
    if array.dtype == bool:
        if array.size != size:
            raise InvalidProblemError(f"{name}: a boolean mask must have length {size}, found {array.size}")
        return np.flatnonzero(array)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidProblemError(f"{name}: expected integer indices or a boolean mask, found {array.dtype}")
    outside = np.flatnonzero((array < 0) | (array >= size))
    if outside.size:
        raise InvalidProblemError(
            f"{name}[{outside[0]}]: expected an index from 0 to {size - 1}, found {array[outside[0]]}"
        )
    return array.astype(np.int64)


def is_on_device(array: Any) -> bool:
    """Whether an array is CuPy's or a CUDA tensor; neither library is imported to find out."""
    library = type(array).__module__.split(".")[0]
    return library == "cupy" or (hasattr(array, "detach") and bool(getattr(array, "is_cuda", False)))


def plain_tensor(tensor: Any, name: str) -> Any:
    """A tensor whose entries lie in memory as they are, and which asks for no gradient: that is the layer's work."""
    if tensor.requires_grad:
        raise InvalidProblemError(
            f"{name}: the tensor requires grad; pass {name}.detach(), or use the layer choice(scores) for gradients"
        )
    if str(tensor.layout) != "torch.strided":
        raise InvalidProblemError(
            f"{name}: sparse tensors are not read; pass {name}.to_dense(), or their entries to Problem.from_edges"
        )
    return tensor.resolve_neg()


def _shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise InvalidProblemError(f"shape: expected (tokens, features), found {shown(shape)}")
    tokens, features = (count_of(size, f"shape[{axis}]") for axis, size in enumerate(shape))
    if tokens * features > LARGEST:
        raise InvalidProblemError(f"shape: expected fewer than 2^63 pairs, found {tokens} x {features}")
    return tokens, features


def _as_array(scores: Any, name: str) -> tuple[Array, str]:
    """The scores as a NumPy array and the name of their number type; torch is met only if the caller brought it."""
    origin = type(scores).__module__.split(".")[0]
    if hasattr(scores, "detach") and "torch" in sys.modules:
        return _from_tensor(scores, name)
    if origin == "cupy":
        raise InvalidProblemError(f"{name}: candidate edges are read in main memory; pass {name}.get()")
    if origin == "scipy" and hasattr(scores, "tocoo"):
        raise InvalidProblemError(f"{name}: sparse matrices are not read; pass their entries to Problem.from_edges")
    array = array_of(scores, name, "a numeric matrix")
    type_name = array.dtype.name
    if type_name == "bfloat16":  # the NumPy extension type of ml_dtypes
        return array.view(np.int16), type_name
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise InvalidProblemError(f"{name}: expected {_READABLE}, found dtype {array.dtype}")
    return array, type_name


def _from_tensor(tensor: Any, name: str) -> tuple[Array, str]:
    tensor = plain_tensor(tensor, name)
    if tensor.device.type != "cpu":
        raise InvalidProblemError(
            f"{name}: tensors on {tensor.device} are not supported by this version; pass {name}.cpu()"
        )
    type_name = str(tensor.dtype).removeprefix("torch.")
    if type_name not in _TYPES and not type_name.startswith(("int", "uint")):
        raise InvalidProblemError(f"{name}: expected {_READABLE}, found dtype {tensor.dtype}")
    if type_name == "bfloat16":
        return tensor.view(sys.modules["torch"].int16).numpy(), type_name
    return array_of(tensor, name, "a numeric matrix"), type_name


def beyond_range(block: Any) -> Any:
    """Which float64 scores, in whatever library's array, are finite and too large to be summed."""
    return ((block > LARGEST_SCORE) & (block < math.inf)) | ((block < -LARGEST_SCORE) & (block > -math.inf))


def refusal_of_entries(name: str, count: int, kind: str, place: tuple[int, int]) -> InvalidProblemError:
    """The sentence about entries that are NaN, +inf or too large."""
    wanted = f"scores must lie within +-{LARGEST_SCORE:g}, so that their sums stay finite, or be -inf to forbid a match"
    if kind in ("NaN", "+inf"):
        wanted = "scores must be finite, or -inf to forbid a match"
    return InvalidProblemError(
        f"{name}: {count} entries are {kind}, the first at token {place[0]}, feature {place[1]}; {wanted}"
    )


def _refuse_bad_entries(array: Array, type_name: str, name: str, workers: int | None) -> None:
    """One read: the extremes of a block show NaN, +inf and too large; only a bad matrix is read again to say where."""
    if array.size == 0 or type_name not in _TYPES:
        return
    infinity = _INFINITY_BITS.get(type_name)

    def is_bad(start: int, stop: int) -> bool:
        block = array[start:stop]
        if type_name == "float64":
            # a minimum of -inf may hide others
            return not block.max() <= LARGEST_SCORE or bool(block.min() < -LARGEST_SCORE and beyond_range(block).any())
        if infinity is None:
            return not block.max() < np.inf
        bits = block.view(np.int16)
        # signed patterns from +inf upwards, or unsigned ones beyond that of -inf, are not finite or -inf
        return bool(bits.max() >= infinity or bits.view(np.uint16).max() > infinity + 0x8000)

    if not any(map_blocks(is_bad, array.shape[0], array.nbytes, workers)):
        return
    block = DenseScores(array, type_name).widened(array)
    tests: dict[str, Callable[[Any], Any]] = {"NaN": np.isnan, "+inf": np.isposinf, TOO_LARGE: beyond_range}
    for kind, test in tests.items():
        found = test(block)
        if found.any():
            token, feature = divmod(int(found.argmax()), array.shape[1])
            raise refusal_of_entries(name, int(found.sum()), kind, (token, feature))
