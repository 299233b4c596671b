"""Scores as callers pass them in, checked once and wrapped without a copy where their layout allows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from allocation.arguments import (
    LARGEST,
    LARGEST_SCORE,
    TOO_LARGE,
    array_of,
    beyond_range,
    count_of,
    index_vector,
    is_on_device,
    plain_tensor,
    refusal_of_entries,
    shown,
)
from allocation.arrays import Array
from allocation.errors import InvalidProblemError
from allocation.scores import FLOAT_TYPES, INFINITY_BITS, DenseScores, EdgeScores
from allocation.threads import map_blocks

_READABLE = "float16, bfloat16, float32, float64 or integers"


def dense_scores(scores: Any, name: str = "scores", workers: int | None = None) -> DenseScores:
    """Validate a matrix and wrap it without a copy where its layout allows. Messages call it `name`."""
    if is_on_device(scores):
        from allocation.cuda.validation import device_scores

        return device_scores(scores, name)
    array, type_name = _as_array(scores, name)
    if array.ndim != 2:
        raise InvalidProblemError(
            f"{name}: expected a matrix of shape (tokens, features), found {array.ndim} dimension(s) {array.shape}"
        )
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    columns = array.shape[1]
    _refuse_bad_entries(array, type_name, name, workers, lambda at: divmod(at, columns))
    return DenseScores(array, type_name)


def edge_scores(tokens: Any, features: Any, scores: Any, shape: Any) -> EdgeScores:
    """Validate candidate edges and sort them by (token, feature)."""
    size = _shape(shape)
    array, type_name = _as_array(scores, "scores")
    columns = [
        index_vector(ends, name, size[axis], f"shape[{axis}]")
        for axis, (ends, name) in enumerate(((tokens, "tokens"), (features, "features")))
    ]
    if array.ndim != 1 or not (array.size == columns[0].size == columns[1].size):
        raise InvalidProblemError(
            "tokens, features, scores: expected vectors of one length, found shapes "
            f"{columns[0].shape}, {columns[1].shape} and {array.shape}"
        )
    flat = columns[0] * size[1] + columns[1]
    order = np.argsort(flat, kind="stable")
    flat = flat[order]
    repeated = np.flatnonzero(flat[1:] == flat[:-1])
    if repeated.size:
        token, feature = divmod(int(flat[repeated[0]]), size[1])
        raise InvalidProblemError(
            f"tokens, features: expected each edge once, found (token {token}, feature {feature}) twice"
        )
    array = np.ascontiguousarray(array[order], dtype=array.dtype.newbyteorder("=")).reshape(1, -1)
    _refuse_bad_entries(array, type_name, "scores", None, lambda at: divmod(int(flat[at]), size[1]))
    array = DenseScores(array, type_name).values_at(np.arange(array.size))
    if array.dtype.kind == "f":
        allowed = array != -np.inf
        order, array = order[allowed], array[allowed]
    return EdgeScores(columns[0][order], columns[1][order], array, size, type_name)


def score_vector(scores: Any, name: str, size: int) -> tuple[Array, str]:
    """So many scores as numbers NumPy computes with, and the name of their type."""
    array, type_name = _as_array(scores, name)
    if array.shape != (size,):
        raise InvalidProblemError(f"{name}: expected {size} scores in a vector, found shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return DenseScores(array.reshape(1, -1), type_name).values_at(np.arange(size)), type_name


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
        raise InvalidProblemError(
            f"{name}: expected main memory, where candidate edges are read, found a CuPy array; pass {name}.get()"
        )
    if origin == "scipy" and hasattr(scores, "tocoo"):
        raise InvalidProblemError(
            f"{name}: expected a dense matrix, found a sparse one; pass its entries to Problem.from_edges"
        )
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
            f"{name}: expected a tensor on the CPU or on a CUDA device, found one on {tensor.device}; pass {name}.cpu()"
        )
    type_name = str(tensor.dtype).removeprefix("torch.")
    if type_name not in FLOAT_TYPES and not type_name.startswith(("int", "uint")):
        raise InvalidProblemError(f"{name}: expected {_READABLE}, found dtype {tensor.dtype}")
    if type_name == "bfloat16":
        return tensor.view(sys.modules["torch"].int16).numpy(), type_name
    return array_of(tensor, name, "a numeric matrix"), type_name


def _refuse_bad_entries(
    array: Array, type_name: str, name: str, workers: int | None, edge_at: Callable[[int], tuple[int, int]]
) -> None:
    """One read: the extremes of a block show NaN, +inf and too large; only a bad matrix is read again to say where."""
    if array.size == 0 or type_name not in FLOAT_TYPES:
        return
    infinity = INFINITY_BITS.get(type_name)

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
            raise refusal_of_entries(name, int(found.sum()), kind, edge_at(int(found.argmax())))
