"""Thresholds in a narrower type that decide as before."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def rounded_down(theta: Tensor, dtype: torch.dtype) -> Tensor:
    """Thresholds as the largest values of `dtype` that do not exceed them.

    ::

        s > rounded_down(theta)   iff   s > theta,   for every finite s of the type

    To nearest, a threshold may rise to a score that exceeded it. torch itself rounds so where it compares a matrix
    with a tensor of no axes.

    Parameters
    ----------
    theta : (...) floating-point tensor
    dtype : torch.dtype
        Floating-point.

    Returns
    -------
    (...) tensor of type `dtype`

    Examples
    --------
    >>> import torch
    >>> from sae_torch.ops import rounded_down
    >>> rounded_down(torch.tensor([0.999, 1.0]), torch.bfloat16).tolist()
    [0.99609375, 1.0]
    """
    if theta.dtype == dtype:
        return theta
    nearest = theta.to(dtype)
    # both in the wider type, or torch may round before it compares
    wide = torch.promote_types(theta.dtype, dtype)
    above = nearest.to(wide) > theta.to(wide)
    return torch.where(above, _next_below(nearest), nearest)


def _next_below(values: Tensor) -> Tensor:
    """By bit patterns, which are in order on each side of 0; `torch.nextafter` may not have 16 bits on a device."""
    kind = _BITS[values.dtype.itemsize]
    bits = values.view(kind)
    below_zero = torch.where(values < 0, bits + 1, torch.iinfo(kind).min + 1)
    return torch.where(values > 0, bits - 1, below_zero).view(values.dtype)
