"""Gated autoencoders, whose gate and magnitude share one encoder, as thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_torch.interop.inference_form import InferenceForm


def gated(
    W_enc: Tensor,
    b_gate: Tensor,
    b_mag: Tensor,
    r_mag: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    dtype: torch.dtype | None = None,
) -> InferenceForm:
    """The form of a gated autoencoder.

    ::

        y = (x - b_dec) W_enc,   a = relu(e^r_mag y + b_mag) where y + b_gate > 0
                               = relu(pre) where pre > b_mag - e^r_mag b_gate,   pre = e^r_mag y + b_mag

    The two lines are equal but for rounding, since e^r_mag is positive. The encoder's factor is rounded once with it;
    where that type is narrower than float32, the weights become float32, so that the gate stays as sharp as it was.

    Parameters
    ----------
    W_enc : (d_model, features)
    W_dec : (features, d_model)
    b_dec : (d_model,)
    b_gate, b_mag, r_mag : (features,)
    dtype : torch.dtype, optional
        Type that the weights get, by default that of `W_dec`.

    Returns
    -------
    InferenceForm

    Source: Rajamanoharan et al. 2024, arXiv 2404.16014, section 3.2.
    """
    factor = r_mag.double().exp()
    theta = b_mag.double() - factor * b_gate.double()
    wide = torch.promote_types(dtype or W_dec.dtype, torch.float32)
    return InferenceForm(
        W_enc, b_mag.to(wide), W_dec, b_dec.to(wide), theta.to(wide), encoder_scale=factor.to(wide), as_type=wide
    )
