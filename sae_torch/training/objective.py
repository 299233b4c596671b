"""What a step minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_torch.losses import matryoshka_loss, reconstruction
from sae_torch.sparse_coder import SparseCoder
from sae_torch.training.config import TrainConfig
from sae_torch.training.usage import FeatureUsage


class Objective:
    """Error of reconstruction and the auxiliary loss of features that lack use.

    ::

        (1/N) sum_i ||y_i - y_hat_i||^2 + c * auxiliary

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
    config : TrainConfig
    usage : FeatureUsage
        Counts every batch, and says what the auxiliary loss is.
    """

    def __init__(self, sae: SparseCoder, config: TrainConfig, usage: FeatureUsage) -> None:
        self.sae, self.config, self.usage = sae, config, usage
        self._memory: Tensor | None = None

    def __call__(self, rows: Tensor, tokens: int) -> tuple[Tensor, tuple[Any, ...]]:
        """The loss, and what is measured: it and its parts, the matches, the error of reconstructing nothing.

        Parameters
        ----------
        rows : (N, width) tensor
            A batch in training units, of several processes the part of this one.
        tokens : int
            Tokens of all.
        """
        sae, config, usage, world = self.sae, self.config, self.usage, self.sae.world
        wants_auxiliary = usage.auxiliary != "none"
        x, y = sae.sides_of(rows)
        out = sae(x, return_pre=wants_auxiliary, memory=self._scores_memory(x))
        usage.observe(out, tokens)
        error = reconstruction(out, y) if config.prefixes is None else matryoshka_loss(out, x, sae, config.prefixes, y)
        loss = error
        auxiliary = x.new_zeros(())
        if wants_auxiliary:
            auxiliary = usage.auxiliary_loss(out, x, sae, y)
            loss = error + config.auxiliary_coefficient * auxiliary
        matches = world.sum(len(out.codes) if out.codes.count is None else out.codes.count)
        measured = (loss, error, auxiliary, matches, world.sum_tokens(y.square().sum()) / tokens)
        return loss, tuple(part.detach() if isinstance(part, Tensor) else part for part in measured)

    def _scores_memory(self, x: Tensor) -> Tensor | None:
        """Where this step writes its scores: over the last step's. A GPU's allocator keeps freed memory by itself."""
        shape, dtype = (x.shape[0], self.sae.width), self.sae.product_dtype(x.shape[0])
        if x.device.type != "cpu" or self.sae.feature_chunk is not None:
            return None
        if self._memory is None or self._memory.shape != shape:
            self._memory = torch.empty(shape, dtype=dtype)
        return self._memory
