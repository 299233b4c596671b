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
    warm_start : (groups,) float64
        Where the search among similar scores may start.
    reaching : (groups,) int64 or None
        How many scores reached where this search started, where that is known.
    """

    tokens: Tensor
    features: Tensor
    count: Tensor
    prices: Tensor
    warm_start: Tensor
    reaching: Tensor | None

    @property
    def within(self) -> Tensor:
        """Which entries are matches."""
        return torch.arange(len(self.tokens), device=self.tokens.device) < self.count


class PaddedStart:
    """Where the next selection on a GPU starts: one place in memory, so that a CUDA graph finds it.

    No part of the state: it changes the time of a step, never its answer.
    """

    def __init__(self) -> None:
        self._expected: Tensor | None = None

    def of(self, scores: Tensor, groups: int) -> Tensor | None:
        """What was kept, if it lies there and is of so many groups."""
        held = self._expected
        fits = held is not None and held.device == scores.device and len(held) == groups
        return held if fits else None

    def keep(self, expected: Tensor | None) -> None:
        """Take up other prices, or forget all."""
        held = self._expected
        if expected is None or held is None or (held.shape, held.device) != (expected.shape, expected.device):
            self._expected = None if expected is None else expected.clone()
        else:
            held.copy_(expected)


def is_on_device(scores: Any) -> bool:
    """Whether scores are a tensor on a GPU."""
    return isinstance(scores, Tensor) and al.is_on_device(scores)


def padded_matches(scores: Tensor, start: PaddedStart | None = None, **limits: Any) -> PaddedMatches:
    """The best of a batch under the limits of `allocation.select_fixed`, without reading any number."""
    groups = 1 if limits.get("budget") is not None else scores.shape[0 if "token_caps" in limits else 1]
    expected = None if start is None else start.of(scores, groups)
    selected = al.select_fixed(scores, **limits, warm_start=expected)
    positions, count, prices = (_tensor(part) for part in (selected.positions, selected.count, selected.refused))
    if selected.line_prices is not None:
        prices = prices + _tensor(selected.line_prices)
    width = max(scores.shape[1], 1)
    reaching = None if selected.reaching is None else _tensor(selected.reaching)
    matches = positions // width, positions % width, count.reshape(())
    return PaddedMatches(*matches, prices, _tensor(selected.warm_start), reaching)
