"""From gradients to the next weights, with decoder rows kept at norm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_torch.autoencoder import SparseAutoencoder


@torch.no_grad()
def update(sae: SparseAutoencoder, optimizer: torch.optim.Optimizer, rate: float, clip: float) -> None:
    """One step of the optimiser.

    ::

        d W_dec_j <- d W_dec_j - (d W_dec_j . W_dec_j) W_dec_j,   all gradients <- gradients * min(1, clip / norm),
        optimiser,   W_dec_j <- W_dec_j / ||W_dec_j||

    Nothing here waits for a device, and no temporary has the size of a weight matrix.
    """
    gradient = sae.W_dec.grad
    assert gradient is not None
    gradient.addcmul_(_row_dots(gradient, sae.W_dec), sae.W_dec, value=-1.0)
    torch.nn.utils.clip_grad_norm_(sae.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))


def _row_dots(a: Tensor, b: Tensor) -> Tensor:
    """`a_j . b_j` of every row, as a column, in one pass over both."""
    return torch.bmm(a[:, None, :], b[:, :, None])[:, :, 0]
