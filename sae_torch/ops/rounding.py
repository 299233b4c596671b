"""Thresholds in a narrower type that decide as before."""

from __future__ import annotations

import torch
from torch import Tensor


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
    nearest = theta.to(dtype)
    # both in the wider type, or torch may round before it compares
    wide = torch.promote_types(theta.dtype, dtype)
    above = nearest.to(wide) > theta.to(wide)
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    return torch.where(above, below, nearest)
