"""Matches as tensors, where the scores are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


def padded_matches(
    scores: Tensor,
    budget: int | None = None,
    token_caps: int | None = None,
    feature_caps: NDArray[np.int64] | None = None,
) -> PaddedMatches:
    """The best of a batch under a budget, of every token, or of every feature, without reading any number."""
    selected = al.select_fixed(scores, budget, token_caps, feature_caps)
    positions, count, prices = (_tensor(part) for part in (selected.positions, selected.count, selected.refused))
    width = max(scores.shape[1], 1)
    return PaddedMatches(positions // width, positions % width, count.reshape(()), prices)
