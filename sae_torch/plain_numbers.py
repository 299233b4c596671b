"""Numbers that are given: Python's or NumPy's, kept as Python's, since files and messages hold plain ones."""

from __future__ import annotations

import math
import numbers
from typing import Any, TypeVar, cast

from sae_torch.errors import InputError

T = TypeVar("T")


def is_number(value: Any) -> bool:
    """Whether a value is a real number that a float can hold; True and False are none."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def plain(value: T) -> T:
    """Python's int or float in place of any other number; what is no number stays."""
    if is_whole(value):
        return cast(T, int(cast(int, value)))
    return cast(T, float(cast(float, value))) if is_number(value) else value


def positive(name: str, value: Any, what: str = "a positive number") -> float:
    """A positive finite number as Python's.

    Raises
    ------
    InputError
        If it is none.
    """
    if not (is_number(value) and math.isfinite(value) and value > 0):
        raise InputError(f"{name}: expected {what}, found {value!r}")
    return cast(float, plain(value))


def whole(name: str, value: Any, least: int = 1, what: str | None = None) -> int:
    """An integer of at least `least` as Python's.

    Raises
    ------
    InputError
        If it is none.
    """
    if not is_whole(value) or value < least:
        raise InputError(f"{name}: expected {what or f'at least {least}'}, found {value!r}")
    return int(value)


def seed_of(seed: Any) -> int:
    """A seed as Python's integer.

    Raises
    ------
    InputError
        If it is none that torch takes.
    """
    if not is_whole(seed) or not -(2**63) <= seed < 2**64:
        raise InputError(f"seed: expected an integer of 64 bits, found {seed!r}")
    return int(seed)


def whole_sizes(**sizes: Any) -> tuple[int, ...]:
    """Sizes as Python's integers.

    Raises
    ------
    InputError
        If one is no positive integer.
    """
    return tuple(whole(name, size, what="a positive integer") for name, size in sizes.items())
