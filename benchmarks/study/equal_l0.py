"""Autoencoders at exactly the same number of features per token: what makes reconstruction errors comparable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import allocation as al
import sae_torch as st
from sae_torch.activations import Activations
from sae_torch.choices.thresholds import Threshold
from sae_torch.evaluation import batch_free

BATCH = 2048


class AtThresholds(st.Choice):
    """Given thresholds in eval mode."""

    def __init__(self, k: float, theta: Tensor) -> None:
        super().__init__(k)
        self.threshold = Threshold(theta)

    def batch_free(self) -> Threshold:
        """The thresholds."""
        return self.threshold


@dataclass(frozen=True)
class _Margins:
    """Blocks of ``S - theta + offset``, forbidden where a score is not positive."""

    sae: st.SparseAutoencoder
    theta: Tensor
    offset: float
    activations: Activations

    def __iter__(self) -> Iterator[Tensor]:
        n = len(self.activations)
        for start in range(0, n, BATCH):
            x = self.activations.gather(torch.arange(start, min(start + BATCH, n)), self.sae.W_enc.dtype)
            scores = self.sae.scores(x)
            yield torch.where(scores > 0, scores - self.theta + self.offset, -torch.inf)


def at_equal_l0(sae: st.SparseAutoencoder, activations: Activations) -> tuple[st.SparseAutoencoder, float]:
    """The same weights with one number added to every threshold, so that k per token fire on these activations.

    ::

        maximise sum_ij (S_ij - theta_j) A_ij   subject to   sum_ij A_ij <= k N;   its price is the number

    Token choice has k features per token as it is.

    Parameters
    ----------
    sae
        Trained.
    activations
        Those it is judged on.

    Returns
    -------
    The autoencoder at equal L0, which shares the weights, and the number that was added.
    """
    form = sae.choice.batch_free()
    if not isinstance(form, Threshold):
        return sae, 0.0
    theta = form.theta.expand(sae.n_features)
    # an offset keeps margins positive far below the thresholds, where the price may lie
    offset = float(theta.max())
    with batch_free(sae):
        blocks = _Margins(sae, theta, offset, activations)
        pooled = al.select_stream(blocks, budget=round(sae.choice.k * len(activations)))
    added = float(pooled.prices.budget.value) - offset
    return with_choice(sae, AtThresholds(sae.choice.k, (theta + added).clamp_min(0.0))), added


def at_one_price(sae: st.SparseAutoencoder, activations: Activations) -> st.SparseAutoencoder:
    """The same weights under mutual choice: the one threshold for all features at which k per token fire."""
    return at_equal_l0(with_choice(sae, AtThresholds(sae.choice.k, torch.zeros(()))), activations)[0]


def with_choice(sae: st.SparseAutoencoder, choice: st.Choice) -> st.SparseAutoencoder:
    """The same weights, which are shared, under another choice; in eval mode."""
    other = st.SparseAutoencoder(sae.d_model, sae.n_features, choice, dtype=sae.W_dec.dtype)
    for name in ("encoder", "b_enc", "W_dec", "b_dec"):
        setattr(other, name, getattr(sae, name))
    other.input_transform = sae.input_transform
    return other.eval()
