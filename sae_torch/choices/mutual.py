"""Mutual choice: the best matches of the whole batch, k per token on average."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
from sae_torch.choices.choice import Choice
from sae_torch.choices.pooled import pooled_price
from sae_torch.choices.thresholds import FrequencyTracker, Threshold, require_settled, require_thresholds
from sae_torch.matches import PaddedMatches


class MutualChoice(Choice):
    """The best matches of the whole batch, k per token on average.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= k * tokens;      in eval mode   S_ij > lam

    Parameters
    ----------
    k : float
        Mean number of features per token.

    Source: Ayonrinde 2024, arXiv 2411.02124; the same operator as BatchTopK (Bussmann et al. 2024, arXiv 2412.06410).

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> st.MutualChoice(k=1.5)(torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 0.5]])).token_counts.tolist()
    [2, 1]
    """

    supports_padded = True
    supports_graph = True
    supports_rough = True
    supports_parts = True

    def __init__(self, k: float) -> None:
        super().__init__(k)
        self.tracker = FrequencyTracker(None)

    def limits(self, tokens: int, advance: bool = False) -> dict[str, Any]:
        """A budget for the batch."""
        return {"budget": self.total(tokens)}

    def observe(self, scores: Tensor, solution: al.Solution) -> None:
        """Follow the budget's price by frequency."""
        price = float(solution.prices.budget.value)
        total = self.world.sum(np.array([solution.values.sum(dtype=np.float64), solution.values.size]))
        excess = float(total[0] / total[1]) - price if total[1] else math.nan
        share = torch.tensor(self.k / max(self.world.width(scores.shape[1]), 1))
        self.tracker.observe(scores, share, torch.tensor(price), torch.tensor(excess))

    def observe_padded(self, scores: Tensor, padded: PaddedMatches) -> None:
        """Follow the budget's price by frequency."""
        price = padded.prices[0]
        values = torch.where(padded.within, scores[padded.tokens, padded.features].double(), 0.0)
        share = torch.full((), self.k / max(scores.shape[1], 1), device=scores.device)
        self.tracker.observe(scores, share, price.float(), (values.sum() / padded.count - price).float())

    def next_start(self, padded: PaddedMatches) -> Tensor:
        """The price of this batch."""
        return padded.warm_start

    def set_thresholds(self, theta: Tensor) -> None:
        """The common threshold, that of the first feature."""
        self.tracker.restart(theta[0])

    def batch_free(self) -> Threshold:
        """Matches above the price."""
        require_thresholds(self.tracker)
        return Threshold(self.tracker.theta)

    def require_settled(self) -> None:
        """As of the last batches."""
        require_settled(self.tracker)

    def rescale(self, factor: float) -> None:
        """Adapt the threshold to scores multiplied by `factor`."""
        self.tracker.rescale(factor)

    def calibrate(self, chunks: Any, tokens: int) -> None:
        """The price of the pooled budget."""
        self.tracker.restart(torch.tensor(pooled_price(self.world, chunks, self.total(tokens))))
