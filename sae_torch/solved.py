"""Matches as tensors, where the scores are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import dlpack

import allocation as al
from allocation import scores as score_types


def matches_of(solution: al.Solution) -> tuple[Tensor, Tensor]:
    """Tokens and features of the matches: from NumPy, or on the device by DLPack, without a copy."""
    return _tensor(solution.tokens), _tensor(solution.features)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else dlpack.from_dlpack(array)


@dataclass(frozen=True, eq=False)
class FixedMatches:
    """The best matches of a batch on its device, in as much room as the limits allow: nothing waits for their number.

    Attributes
    ----------
    tokens, features : (most,) int64
        Sorted; those from `count` on are no matches.
    count : () int64
    refused : (groups,) float64
        Of every token, or of the batch, the best score that is no match; 0 where none is positive.
    """

    tokens: Tensor
    features: Tensor
    count: Tensor
    refused: Tensor


def is_on_device(scores: Any) -> bool:
    """Whether scores are a tensor on a card."""
    return isinstance(scores, Tensor) and score_types.is_on_device(scores)


def fixed_matches(scores: Tensor, budget: int | None = None, token_caps: int | None = None) -> FixedMatches:
    """The best of a batch under a budget, or the best of every token, without a look at any number."""
    from allocation.cuda.scores import device_scores

    matrix = device_scores(scores, looked_at=False)
    tokens, width = matrix.shape
    axis, caps = (None, [budget]) if token_caps is None else (0, [token_caps] * tokens)
    with matrix.scope():
        found = matrix.engine.fixed(matrix, axis, np.array(caps, np.int64))
        positions, count, refused = (_tensor(part) for part in (found.positions, found.count, found.refused))
    return FixedMatches(positions // max(width, 1), positions % max(width, 1), count.reshape(()), refused)
