"""Thresholds measured on frozen weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.errors import InputError


def calibrate(sae: SparseAutoencoder, batches: Iterable[Tensor]) -> None:
    """Set the thresholds of the choice to the prices of one pooled problem over all batches.

    ::

        lam (or nu_j) = price of the budget k N (or of the quota p_j N) over the N tokens of all batches together

    The pooled scores are selected as a stream, block by block, and never held together. Choices without thresholds stay
    as they are. The module's mode is left as found.

    Parameters
    ----------
    sae : SparseAutoencoder
    batches : iterable of (tokens, d_model) tensors
        Training activations, not the ones to be judged on. Encoded two times, so the batches are kept.

    Raises
    ------
    InputError
        If there is no batch.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(8, 32, choice=st.MutualChoice(k=4))
    >>> x = torch.randn(1000, 8)
    >>> st.calibrate(sae, [x])
    >>> round(sae.eval()(x).codes.l0, 1)
    4.0
    """
    kept = list(batches)
    tokens = sum(x.shape[0] for x in kept)
    if tokens == 0:
        raise InputError("batches: calibration needs at least one token of activations, found none")
    sae.choice.calibrate(_ScoreBlocks(sae, kept), tokens)


@dataclass(frozen=True)
class _ScoreBlocks:
    """Scores of every batch, encoded anew on each pass."""

    sae: SparseAutoencoder
    batches: list[Tensor]

    def __iter__(self) -> Iterator[Any]:
        chunk, n_features = self.sae.feature_chunk, self.sae.n_features
        for x in self.batches:
            # where no memory holds the scores of a batch, as many tokens as fill one of its blocks
            rows = len(x) if chunk is None else max(1, len(x) * chunk // n_features)
            for part in torch.split(x, max(1, rows)):
                with torch.no_grad():
                    yield self.sae.scores(part.to(self.sae.W_enc))
