"""A sparse autoencoder with dense matrices and plain autograd: slow, obvious, the reference of the sparse one."""

from __future__ import annotations

import torch
from torch import Tensor

import sae_torch as st


def dense_forward(sae: st.SparseAutoencoder, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and masked activations for a given allocation; a negative match is 0 with gradient 1."""
    z = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    a = (z + (z.clamp_min(0.0) - z).detach()) * mask
    return a @ sae.W_dec + sae.b_dec, a


def dense_auxiliary(sae: st.SparseAutoencoder, x: Tensor, x_hat: Tensor, weights: Tensor, k_aux: int) -> Tensor:
    """The auxiliary loss by a dense top-k, for scores without ties."""
    z = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    value = weights * torch.relu(z)
    ranked = (value * sae.W_dec.norm(dim=1)).detach()
    top = torch.zeros_like(ranked).scatter_(1, ranked.topk(k_aux, dim=1).indices, 1.0)
    return ((x - x_hat).detach() - (value * top) @ sae.W_dec).pow(2).sum(dim=1).mean()
