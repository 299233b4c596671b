"""Densities as they are given: shares of the tokens on which features are active."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_torch.errors import InputError


def densities_of(name: str, given: Any) -> Tensor:
    """One density for all features or one for each, in float64.

    Raises
    ------
    InputError
        If they are none.
    """
    expected = f"{name}: expected densities between 0 and 1, one or one per feature, found {given!r}"
    try:
        densities = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # a text, or a list of them or of lists
        raise InputError(expected) from None
    if isinstance(given, bool) or densities.ndim > 1 or not bool(((densities >= 0) & (densities <= 1)).all()):
        raise InputError(expected)
    return densities
