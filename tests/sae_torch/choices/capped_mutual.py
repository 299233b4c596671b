"""A choice of one's own, as the guide has them: nothing in the packages knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import allocation as al
import sae_torch as st


class CappedMutual(st.Choice):
    """Mutual choice with a cap per token that grows by what earlier batches left unused.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= k * tokens + unused,   sum_j A_ij <= cap
    """

    def __init__(self, k: float, cap: int = 8) -> None:
        super().__init__(k)
        self.cap = cap
        self.unused = 0  # matches, carried from batch to batch
        self.register_buffer("theta", torch.tensor(torch.nan))

    def problem(self, scores: Tensor, advance: bool = False) -> al.Problem:
        return al.Problem(scores, budget=self.total(len(scores)) + self.unused, token_caps=self.cap)

    def observe(self, scores: Tensor, solution: al.Solution) -> None:
        self.unused = min(self.unused + self.total(len(scores)) - len(solution.values), len(scores))
        price = torch.tensor(float(solution.prices.budget.value))
        self.theta.copy_(torch.where(self.theta.isnan(), price, self.theta.lerp(price, 0.1)))

    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "cap": self.cap}

    def carried_state(self) -> dict[str, Any]:
        return super().carried_state() | {"unused": self.unused}

    def load_carried_state(self, state: Mapping[str, Any]) -> None:
        super().load_carried_state(state)
        self.unused = state["unused"]

    def batch_free(self) -> st.Threshold:
        return st.Threshold(self.theta)

    def set_thresholds(self, theta: Tensor) -> None:
        self.theta.copy_(theta[0])

    def rescale(self, factor: float) -> None:
        self.theta.mul_(factor)

    def calibrate(self, chunks: Any, tokens: int) -> None:
        pooled = al.select_stream(chunks, budget=self.total(tokens))  # a threshold knows no cap
        self.theta.fill_(float(pooled.prices.budget.value))
