"""The same bytes as numbers of another type."""

from __future__ import annotations

import torch
from torch import Tensor


def retyped(flat: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of a vector as numbers of another type, on the same memory.

    Torch gives a new empty array of NumPy's stride 0, and then refuses to see it as a type of another width.
    """
    return flat.view(dtype) if flat.numel() else flat.new_empty(0, dtype=dtype)
