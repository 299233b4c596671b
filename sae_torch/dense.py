"""From a dense matrix to its selected entries and back: two maps of which each is the other's gradient.

Both need a matrix of zeros as large as the scores, and on a CPU handing out that memory takes longer than the rest.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

# From so many bytes the C library always asks for new pages, below it hands out what was given back; torch starts its
# own on this boundary.
LARGE, BOUNDARY = 1 << 25, 64


def selected(scores: Tensor, tokens: Tensor, features: Tensor) -> Tensor:
    """The entries of a matrix at the places of matches, of which no two are the same.

    ::

        out_e = S_(tokens[e], features[e]),   d S = G with G_(tokens[e], features[e]) = g_e and 0 elsewhere

    Parameters
    ----------
    scores : (tokens, features)
    tokens, features : (matches,) int64

    Returns
    -------
    (matches,)

    Examples
    --------
    >>> import torch
    >>> from sae_torch.dense import selected
    >>> selected(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1])).tolist()
    [2.0]
    """
    if scores.device.type != "cpu" or not scores.requires_grad or torch.compiler.is_compiling():
        return scores[tokens, features]
    values: Tensor = _Selected.apply(scores, tokens, features)  # type: ignore[no-untyped-call]
    return values


def spread(values: Tensor, tokens: Tensor, features: Tensor, shape: tuple[int, ...], adding: bool = False) -> Tensor:
    """The matrix that has these values at the places of matches, and 0 elsewhere; with gradient.

    Parameters
    ----------
    values : (matches,)
    tokens, features : (matches,) int64
    shape : (tokens, features)
    adding : bool
        Whether places may repeat, whose values are then added up.

    Returns
    -------
    (tokens, features)

    Examples
    --------
    >>> import torch
    >>> from sae_torch.dense import spread
    >>> spread(torch.tensor([2.0]), torch.tensor([0]), torch.tensor([1]), (1, 2)).tolist()
    [[0.0, 2.0]]
    """
    if _is_wrapped(values):  # a batch of gradients, which is not written into what has no batch
        return values.new_zeros(shape).index_put((tokens, features), values, accumulate=adding)
    # in place: a copy would be one more matrix of fresh memory
    return zeros(shape, values).index_put_((tokens, features), values, accumulate=adding)


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the type of another tensor, where that is.

    Large ones of a CPU come from NumPy, which asks for them in large pages and does not write the zeros that the
    system has written already: a tenth of the time.
    """
    size = math.prod(shape) * like.element_size()
    plain = type(like) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    if like.device.type != "cpu" or size < LARGE or not plain:
        return like.new_zeros(shape)
    memory = np.zeros(size + BOUNDARY, np.uint8)
    start = -memory.ctypes.data % BOUNDARY
    matrix = torch.from_numpy(memory[start : start + size]).view(like.dtype).view(shape)
    return matrix.detach()  # no view to autograd, which copies the gradient of what is written into a view


def _is_wrapped(values: Tensor) -> bool:
    """Whether it stands for several tensors, as under `torch.func` and for batched gradients."""
    inside = torch._C._functorch
    return inside.is_functorch_wrapped_tensor(values) or inside.is_legacy_batchedtensor(values)


class _Selected(Function):
    """The gradient is spread in one write; torch's own adds up, for indices that might repeat."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, tokens: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, features)
        ctx.save_for_forward(tokens, features)
        ctx.shape = tuple(scores.shape)
        return scores[tokens, features]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        tokens, features = ctx.saved_tensors
        return tangent[tokens, features]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        tokens, features = ctx.saved_tensors
        return spread(upstream, tokens, features, ctx.shape), None, None
