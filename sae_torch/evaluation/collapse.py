"""Collapse: decoder rows that point the same way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024
# Rows closer than this are counted as copies.
ALIKE = 0.9


@dataclass(frozen=True)
class DecoderCosines:
    """How close the rows of a decoder lie to each other.

    Parameters
    ----------
    nearest : (features,) int64
        Index of the closest other row.
    cosine : (features,) float32
        Cosine with it.
    mean_absolute : float
        Mean of the absolute cosine over all pairs; random rows have about ``sqrt(2 / (pi d_model))``.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.evaluation import DecoderCosines
    >>> DecoderCosines(torch.tensor([1, 0]), torch.tensor([0.95, 0.95]), 0.95).alike
    1.0
    """

    nearest: Tensor
    cosine: Tensor
    mean_absolute: float

    @property
    def alike(self) -> float:
        """Share of the rows with another one at a cosine above 0.9."""
        return float((self.cosine > ALIKE).double().mean())

    def quantile(self, share: float) -> float:
        """Quantile of the cosine with the closest row, `share` from 0 to 1."""
        # a sort, since torch.quantile takes 2^24 entries at most
        return float(torch.sort(self.cosine).values[round(share * (len(self.cosine) - 1))])


def decoder_cosines(W_dec: Tensor) -> DecoderCosines:
    """Closest row of every decoder row, and the mean absolute cosine.

    ``cos_jl = <W_j, W_l> / (||W_j|| ||W_l||)``; the closest row of j is the l other than j with the largest ``cos_jl``.

    Rows of norm 0 have cosine 0 with all others.

    Parameters
    ----------
    W_dec : (features, d_model) float tensor
        At least two rows, on any device.

    Returns
    -------
    DecoderCosines
        In main memory.

    Examples
    --------
    >>> import torch
    >>> cosines = decoder_cosines(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]))
    >>> cosines.nearest.tolist(), round(cosines.alike, 3)
    ([1, 2, 1], 0.667)
    """
    rows = torch.nn.functional.normalize(W_dec.detach().float(), dim=1)
    count = len(rows)
    nearest, cosine, total = [], [], 0.0
    for start in range(0, count, ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE] @ rows.T
        own = torch.arange(len(block), device=block.device)
        block[own, own + start] = 0.0
        total += float(block.abs().double().sum())
        block[own, own + start] = -torch.inf
        best = block.max(dim=1)
        nearest.append(best.indices.cpu())
        cosine.append(best.values.cpu())
    return DecoderCosines(torch.cat(nearest), torch.cat(cosine), total / max(count * (count - 1), 1))
