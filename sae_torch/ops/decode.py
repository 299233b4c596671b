"""Sparse decoding: from codes to reconstructions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sae_torch.codes import SparseCodes
from sae_torch.ops.segments import sampled_dots, weighted_row_sums


def decode(codes: SparseCodes, W_dec: Tensor, b_dec: Tensor | None = None) -> Tensor:
    """The reconstruction of every token.

    ::

        x_hat_i = sum over matches (i, j) of a_ij W_dec_j  (+ b_dec)

    Parameters
    ----------
    codes : SparseCodes
    W_dec : (features, d_model)
    b_dec : (d_model,), optional

    Returns
    -------
    (tokens, d_model)

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> from sae_torch.ops import decode
    >>> codes = st.TokenChoice(k=1)(torch.tensor([[0.5, 2.0]]))
    >>> decode(codes, torch.eye(2)).tolist()
    [[0.0, 2.0]]
    """
    x_hat: Tensor = _Decode.apply(codes.values, W_dec, codes)  # type: ignore[no-untyped-call]
    return x_hat if b_dec is None else x_hat + b_dec


class _Decode(Function):
    """d values are sampled dot products; d W_dec is a sum over matches sorted by feature."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, codes: SparseCodes) -> Tensor:
        ctx.codes = codes.detach()
        ctx.save_for_backward(values, W_dec)
        return weighted_row_sums(W_dec, codes.features, values, codes.token_offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, W_dec = ctx.saved_tensors
        codes: SparseCodes = ctx.codes
        upstream = upstream.contiguous()
        d_values = d_W_dec = None
        if ctx.needs_input_grad[0]:
            d_values = sampled_dots(upstream, W_dec, codes.tokens, codes.features, codes.token_offsets)
        if ctx.needs_input_grad[1]:
            order = codes.feature_order
            d_W_dec = weighted_row_sums(upstream, codes.tokens[order], values[order], codes.feature_offsets)
        return d_values, d_W_dec, None
