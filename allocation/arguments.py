"""What callers pass in, as arrays and numbers; or the one sentence that says what is wrong with it."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
