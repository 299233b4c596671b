"""Numbers that are given: Python's or NumPy's, kept as Python's, since files and messages hold plain ones."""

from __future__ import annotations

import numbers
from typing import Any, TypeVar

from sae_torch.errors import InputError

T = TypeVar("T")


def is_number(value: Any) -> bool:
    """Whether a value is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def plain(value: T) -> T:
    """A number of Python in place of one of NumPy."""
    number: T = value.item() if is_number(value) and hasattr(value, "item") else value
    return number


def whole_sizes(**sizes: Any) -> tuple[int, ...]:
    """Sizes as Python's integers.

    Raises
    ------
    InputError
        If one is no positive integer.
    """
    for name, size in sizes.items():
        if not is_whole(size) or size < 1:
            raise InputError(f"{name}: expected a positive integer, found {size!r}")
    return tuple(map(int, sizes.values()))
