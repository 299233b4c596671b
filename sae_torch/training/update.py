"""From gradients to the next weights, with decoder rows kept at norm 1."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sae_torch.autoencoder import SparseAutoencoder

BLOCK_ENTRIES = 1 << 18


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
    for rows in _blocks(sae.W_dec):
        g, w = gradient[rows], sae.W_dec[rows]
        g.addcmul_((g * w).sum(dim=1, keepdim=True), w, value=-1.0)
    torch.nn.utils.clip_grad_norm_(sae.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    for rows in _blocks(sae.W_dec):
        w = sae.W_dec[rows]
        w.div_(w.norm(dim=1, keepdim=True))


def _blocks(matrix: Tensor) -> Iterator[slice]:
    """Rows that stay in a processor's cache between two passes over them; all at once on a card."""
    count = len(matrix)
    step = count if matrix.device.type != "cpu" else max(1, BLOCK_ENTRIES // matrix.shape[1])
    return (slice(start, start + step) for start in range(0, count, step))
