"""Where training starts: a fresh bias is the mean, a fresh transcoder's encoder predicts the decoder's directions."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_torch.sparse_coder import SparseCoder
from sae_torch.training.units import TINY, Units
from sae_torch.transcoder import Transcoder

# Of the mean variance of an input, added to that of each: directions in which inputs hardly vary predict nothing.
RIDGE = 1e-2


@torch.no_grad()
def start(sae: SparseCoder, probe: Tensor, units: Units, untouched: Transcoder | None) -> None:
    """Give a fresh module, in training units, the mean as its bias, and a transcoder its encoder.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
    probe : (tokens, width) tensor
        The first raw activations.
    units : Units
        Those that it is in.
    untouched : Transcoder or None
        The module, if it is a transcoder with the weights that it was made with.
    """
    x, y = sae.sides_of(probe)
    b_dec = sae.world.local(sae.b_dec)
    if untouched is not None:
        point_encoder(untouched, units.read(x), y * units.scale)
    if sae.b_dec.requires_grad and (untouched is not None or not bool(b_dec.any())):
        mean = sae.world.mean
        b_dec.copy_(mean(y * units.scale) if units.scale < TINY else mean(y) * units.scale)


def untouched_transcoder(sae: SparseCoder) -> Transcoder | None:
    """A transcoder with the weights that it was made with, all of which are trained; else None."""
    learns_all = all(weight.requires_grad for weight in sae.parameters())
    return sae if isinstance(sae, Transcoder) and learns_all and sae.is_fresh else None


@torch.no_grad()
def point_encoder(transcoder: Transcoder, x: Tensor, y: Tensor) -> None:
    """Point the encoder of a fresh transcoder to what predicts the decoder's directions, in training units.

    ::

        b_enc = 0,   W_enc_(:, j) = c B^T W_dec_j,   B = argmin (1/N) sum_i ||y_i - mean(y) - B x_i||^2 + ridge

    With y = x that is the decoder's transpose, where an autoencoder starts. Of several processes all take part.
    """
    transcoder.b_enc.zero_()
    world = transcoder.world
    wide, centred = x.double(), y.double() - world.mean(y).double()
    squares, products = world.sum_tokens(wide.T @ wide), world.sum_tokens(centred.T @ wide)
    ridge = RIDGE * squares.diagonal().mean()
    if not bool(ridge > 0):  # inputs that do not vary predict nothing
        return
    squares.diagonal().add_(ridge)
    B = torch.cholesky_solve(products.T, torch.linalg.cholesky(squares)).T
    local = world.local
    encoder = local(transcoder.encoder)
    encoder.copy_(transcoder.encoder_scale * (local(transcoder.W_dec) @ B.to(encoder)))
