"""From gradients to the next weights, with decoder rows kept at norm 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sae_torch.sparse_coder import SparseCoder

BLOCK_ENTRIES = 1 << 18
# A transcoder's inputs come without their mean in training, so that the encoder cannot shift a feature's scores as a
# whole; the bias alone, which does, would take too many steps. Measured by `benchmarks/transcoders.py --start`.
BIAS_RATE = 20.0
FACTOR = "factor of the rate"


@torch.no_grad()
def update(sae: SparseCoder, optimizer: torch.optim.Optimizer, clip: float) -> None:
    """One step of the optimiser.

    ::

        d W_dec_j <- d W_dec_j - (d W_dec_j . W_dec_j) W_dec_j,   all gradients <- gradients * min(1, clip / norm),
        optimiser,   W_dec_j <- W_dec_j / ||W_dec_j||

    Weights that are frozen stay as they are; beside a frozen encoder, which could not take up their norms, decoder rows
    have any norm. Gradients are first added up over all processes. Nothing here waits for a device, and no temporary
    has the size of a weight matrix.
    """
    sae.world.sum_gradients(sae.parameters())
    decoder, unit_rows = sae.world.local(sae.W_dec), has_unit_rows(sae)
    if sae.W_dec.grad is not None and unit_rows:
        gradient = sae.world.local(sae.W_dec.grad)
        for rows in _blocks(decoder):
            g, w = gradient[rows], decoder[rows]
            g.addcmul_((g * w).sum(dim=1, keepdim=True), w, value=-1.0)
    torch.nn.utils.clip_grad_norm_(sae.parameters(), clip)
    optimizer.step()
    for rows in _blocks(decoder) if unit_rows else ():
        w = decoder[rows]
        w.div_(w.norm(dim=1, keepdim=True))


def has_unit_rows(sae: SparseCoder) -> bool:
    """Whether training keeps decoder rows at norm 1: decoder and encoder must both be free to change."""
    return all(weight.requires_grad for weight in (sae.W_dec, sae.encoder, sae.b_enc))


def parameter_groups(sae: SparseCoder) -> list[dict[str, Any]]:
    """What the optimiser moves; the encoder's bias of a transcoder in steps of its own size."""
    if not sae.takes_pairs:
        return [{"params": list(sae.parameters())}]
    others = [weight for weight in sae.parameters() if weight is not sae.b_enc]
    return [{"params": others}, {"params": [sae.b_enc], FACTOR: BIAS_RATE}]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; where it is a tensor, which a graph reads, in place."""
    for group in optimizer.param_groups:
        own = rate * group.get(FACTOR, 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def _blocks(matrix: Tensor) -> Iterator[slice]:
    """Rows that stay in a CPU's cache between two passes over them; all at once on a GPU."""
    count = len(matrix)
    step = count if matrix.device.type != "cpu" else max(1, BLOCK_ENTRIES // matrix.shape[1])
    return (slice(start, start + step) for start in range(0, count, step))
