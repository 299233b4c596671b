"""What callers pass in, as arrays and numbers; or the one sentence that says what is wrong with it."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Indices
from allocation.errors import InvalidProblemError

# Longest literal that a message repeats.
_SHOWN = 60
LARGEST = np.iinfo(np.int64).max


def shown(value: Any) -> str:
    """A value as a message names it: short literals as they are, all else by type and shape."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if isinstance(value, np.generic):
        return repr(value.item())
    try:
        shape = tuple(int(size) for size in value.shape)
    except Exception:  # anything may call itself an array
        shape = ()
    return f"{type(value).__name__} of shape {shape}" if shape else type(value).__name__


def matches_in_words(count: Any) -> str:
    """So many matches, or one match."""
    return f"{count} match" if count == 1 else f"{count} matches"


def in_memory(array: Any) -> Any:
    """A tensor or CuPy array as a NumPy array; anything else as it is."""
    if type(array).__module__.split(".")[0] == "cupy":
        return array.get()
    return array.detach().cpu().numpy() if hasattr(array, "detach") else array


def array_of(value: Any, name: str, expected: str) -> NDArray[Any]:
    """An array from anything that NumPy reads, from tensors on any device and from CuPy arrays."""
    try:
        array = np.asarray(in_memory(value))
    except Exception as error:  # the conversion of a foreign type may raise anything
        reason = str(error).split("\n")[0]
        raise InvalidProblemError(f"{name}: expected {expected}, found {shown(value)}: {reason}") from error
    if array.dtype == object and array.ndim == 0:
        raise InvalidProblemError(f"{name}: expected {expected}, found {shown(value)}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InvalidProblemError(f"{name}: expected {expected}, found masked entries, which would be read; fill them")
    return array


def count_of(value: Any, name: str) -> int:
    """A whole number of 0 or more; beyond the 64-bit integers, the largest of them."""
    try:
        count = operator.index(value)
    except Exception:  # tensors raise errors of their own
        raise InvalidProblemError(f"{name}: expected an integer, found {shown(value)}") from None
    if isinstance(value, (bool, np.bool_)) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise InvalidProblemError(f"{name}: expected an integer, found {count == 1}")
    if count < 0:
        raise InvalidProblemError(f"{name}: expected 0 or more, found {shown(count)}")
    return min(count, LARGEST)


def number_of(value: Any, name: str, expected: str = "a finite number") -> float:
    """A real number that float64 holds: no NaN, no infinity."""
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except OverflowError:
            number = np.inf
        if np.isfinite(number):
            return number
    raise InvalidProblemError(f"{name}: expected {expected}, found {shown(value)}")


# Beyond this only float64 holds finite scores. However many of them, sums with prices and limits stay finite below it.
LARGEST_SCORE = 1e280


# Integers within this are scores whose sums with prices float64 holds exactly, in all but contrived problems.
LARGEST_INTEGER = 1 << 50


TOO_LARGE = f"beyond {LARGEST_SCORE:g}"


def index_vector(members: Any, name: str, size: int, size_name: str = "") -> Indices:
    """Indices below `size`, which has a name or none, from integers or a boolean mask."""
    array = array_of(members, name, "a vector of indices or a boolean mask")
    if array.ndim != 1:
        raise InvalidProblemError(f"{name}: expected a vector of indices or a boolean mask, found shape {array.shape}")
    if array.dtype == bool:
        if array.size != size:
            length = f"{size_name} = {size}" if size_name else size
            raise InvalidProblemError(f"{name}: expected a boolean mask of length {length}, found length {array.size}")
        return np.flatnonzero(array)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidProblemError(f"{name}: expected integer indices or a boolean mask, found {array.dtype}")
    outside = np.flatnonzero((array < 0) | (array >= size))
    if outside.size:
        wanted = f"an index below {size_name} = {size}" if size_name else f"an index from 0 to {size - 1}"
        wanted = wanted if size or size_name else "no index, since there is nothing to index"
        raise InvalidProblemError(f"{name}[{outside[0]}]: expected {wanted}, found {array[outside[0]]}")
    return array.astype(np.int64)


def is_on_device(array: Any) -> bool:
    """Whether an array is CuPy's or a CUDA tensor; neither library is imported to find out.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> al.is_on_device(np.zeros((2, 3)))
    False
    """
    library = type(array).__module__.split(".")[0]
    return library == "cupy" or (hasattr(array, "detach") and bool(getattr(array, "is_cuda", False)))


def plain_tensor(tensor: Any, name: str) -> Any:
    """A tensor whose entries lie in memory as they are, and which asks for no gradient: that is the layer's work."""
    if tensor.requires_grad:
        raise InvalidProblemError(
            f"{name}: expected a tensor without gradient, found one that requires grad; pass {name}.detach(), or use "
            "the layer choice(scores) for gradients"
        )
    if str(tensor.layout) != "torch.strided":
        raise InvalidProblemError(
            f"{name}: expected a dense tensor, found a sparse one; pass {name}.to_dense(), or its entries to "
            "Problem.from_edges"
        )
    return tensor.resolve_neg()


def beyond_range(block: Any) -> Any:
    """Which float64 scores, in whatever library's array, are finite and too large to be summed."""
    return ((block > LARGEST_SCORE) & (block < math.inf)) | ((block < -LARGEST_SCORE) & (block > -math.inf))


# Integers that are too large where sums decide.
WIDE = "wide"


def refusal_of_entries(name: str, count: int, kind: str, edge: tuple[int, int]) -> InvalidProblemError:
    """The sentence about entries that are NaN, +inf or too large."""
    place = f"token {edge[0]}, feature {edge[1]}"
    if kind == WIDE:
        error = InvalidProblemError(
            f"{name}: expected integers within +-2^50 beside floors, groups or caps on both sides, where sums of "
            f"scores decide, found that {count} entries are beyond, the first at {place}; pass them as float64, which "
            "rounds them"
        )
    else:
        wanted = f"scores within +-{LARGEST_SCORE:g}, so that their sums stay finite"
        if kind in ("NaN", "+inf"):
            wanted = "finite scores"
        error = InvalidProblemError(
            f"{name}: expected {wanted}, or -inf to forbid a match, found that {count} entries are {kind}, the first "
            f"at {place}"
        )
    error.entries = kind, count, edge
    return error
