"""How many scores exceed their feature's threshold, in one pass over the dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import allocation as al
from sae_torch.ops.rounding import rounded_down
from sae_torch.ops.segments import runs_triton

# Rows whose matches a byte can count.
BYTE_ROWS = 255


class Counted(Protocol):
    """Scores that are no matrix, and count by themselves."""

    dtype: torch.dtype

    def count_above(self, theta: Tensor, count: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """As the function of that name, which they may call on matrices of theirs."""
        ...


def count_above(scores: Tensor | Counted, theta: Tensor) -> Tensor:
    """Entries of every column above its threshold; in all, if the threshold is one number.

    ::

        c_j = sum_i [S_ij > theta_j]

    Parameters
    ----------
    scores : (tokens, features)
    theta : (features,) or scalar

    Returns
    -------
    (features,) or scalar int64

    Examples
    --------
    >>> import torch
    >>> from sae_torch.ops import count_above
    >>> count_above(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([1.0, 1.0])).tolist()
    [1, 1]
    """
    theta = rounded_down(theta, scores.dtype)
    if not isinstance(scores, Tensor):
        return scores.count_above(theta, count_above)
    if runs_triton(scores) and scores.numel():
        from sae_torch.ops import triton_kernels

        counts = triton_kernels.count_above(scores, theta.expand(scores.shape[1]))
        return counts if theta.ndim else counts.sum()
    if scores.device.type != "cpu" or scores.numel() == 0 or bool((theta < 0).any()):
        above = scores > theta
        return above.sum(dim=0) if theta.ndim else above.sum()
    if scores.dtype in (torch.bfloat16, torch.float16):  # from 0 upwards their bit patterns are in order
        scores, theta = scores.view(torch.int16), theta.abs().view(torch.int16)
    matrix, limit = scores.numpy(), theta.numpy()

    def count(start: int, stop: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        above = matrix[start:stop] > limit
        if not theta.ndim:
            return np.array(np.count_nonzero(above))
        parts = [above[row : row + BYTE_ROWS].view(np.uint8) for row in range(0, len(above), BYTE_ROWS)]
        # bytes add up in vector registers; BYTE_ROWS of them cannot overflow
        return np.asarray(sum(part.sum(axis=0, dtype=np.uint8).astype(np.int64) for part in parts))

    return torch.from_numpy(np.asarray(np.sum(al.map_blocks(count, matrix.shape[0], matrix.nbytes), axis=0)))
