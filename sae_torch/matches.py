"""Matches as tensors, where the scores are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import dlpack

import allocation as al


def matches_of(solution: al.Solution) -> tuple[Tensor, Tensor]:
    """Tokens and features of the matches: from NumPy, or on the device by DLPack, without a copy."""
    return _tensor(solution.tokens), _tensor(solution.features)


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else dlpack.from_dlpack(array)


@dataclass(frozen=True, eq=False)
class PaddedMatches:
    """The best matches of a batch on its device, in as much room as the limits allow: nothing waits for their number.

    Attributes
    ----------
    tokens, features : (most,) int64
        Sorted; those from `count` on are no matches.
    count : () int64
    prices : (groups,) float64
        Of every token, of every feature, or of the batch: the best score that is no match; 0 where none is positive.
        With a budget and limits of one side, what a match of each token or feature has to exceed.
    """

    tokens: Tensor
    features: Tensor
    count: Tensor
    prices: Tensor

    @property
    def within(self) -> Tensor:
        """Which entries are matches."""
        return torch.arange(len(self.tokens), device=self.tokens.device) < self.count


def is_on_device(scores: Any) -> bool:
    """Whether scores are a tensor on a GPU."""
    return isinstance(scores, Tensor) and al.is_on_device(scores)


def padded_matches(scores: Tensor, **limits: Any) -> PaddedMatches:
    """The best of a batch under the limits of `allocation.select_fixed`, without reading any number."""
    selected = al.select_fixed(scores, **limits)
    positions, count, prices = (_tensor(part) for part in (selected.positions, selected.count, selected.refused))
    if selected.line_prices is not None:
        prices = prices + _tensor(selected.line_prices)
    width = max(scores.shape[1], 1)
    return PaddedMatches(positions // width, positions % width, count.reshape(()), prices)
