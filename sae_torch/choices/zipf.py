"""The Zipf-Mandelbrot curve of densities, as torch computes it."""

from __future__ import annotations

import torch
from torch import Tensor

import allocation as al


def zipf_densities(
    k: float,
    n_features: int,
    alpha: float = al.ZIPF_ALPHA,
    beta: float = al.ZIPF_BETA,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Densities in order of rank, with sum k: `allocation.zipf_weights` times k.

    Torch computes them in its own order, since the bits of trained weights depend on the last digit.

    Parameters
    ----------
    k : float
        Mean number of features per token.
    n_features : int
    alpha, beta : float
        Exponent, and offset of the ranks.
    dtype : torch.dtype
    device : optional

    Returns
    -------
    Tensor
        (n_features,), not yet capped at 1.
    """
    ranks = torch.arange(1, n_features + 1, device=device, dtype=dtype)
    weights = (ranks + beta) ** -alpha
    return k * weights / weights.sum()
