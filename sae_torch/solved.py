"""Matches of a solution as tensors, where the scores are."""

from __future__ import annotations

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
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else dlpack.from_dlpack(array)
