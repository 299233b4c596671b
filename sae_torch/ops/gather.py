"""The selected pre-activations of an encoder, with the gradient of those alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sae_torch.codes import SparseCodes
from sae_torch.ops.segments import segment_sums, weighted_row_sums


def selected_preactivations(
    codes: SparseCodes, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None = None
) -> Tensor:
    """Attach the encoder's gradient to pre-activations that a dense product has computed already.

    ::

        z_ij = (x_i - b_dec) . W_enc_(:, j) + b_enc_j   for the matches (i, j) of `codes` only

    The forward value is `codes.values`. The backward never forms a (tokens, features) matrix; with g the upstream
    gradient,

    ::

        d W_enc_(:, j) = sum_i g_ij (x_i - b_dec),   d b_enc_j = sum_i g_ij,
        d x_i = sum_j g_ij W_enc_(:, j),             d b_dec = -W_enc d b_enc

    Parameters
    ----------
    codes : SparseCodes
        Matches, with the pre-activations as values.
    x : (tokens, d_model)
    W_enc : (d_model, features)
    b_enc : (features,)
    b_dec : (d_model,), optional
        Left out where the encoder reads `x` itself.

    Returns
    -------
    (matches,)

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> sae.encode(torch.randn(3, 4)).values.requires_grad
    True
    """
    result: Tensor = _SelectedPreactivations.apply(codes.values, x, W_enc, b_enc, b_dec, codes)  # type: ignore[no-untyped-call]
    return result


class _SelectedPreactivations(Function):
    """Weight gradients are sums over matches sorted by feature, the pre-bias gradient is one matrix-vector product."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None, codes: SparseCodes
    ) -> Tensor:
        ctx.codes = codes.detach()
        ctx.save_for_backward(x, W_enc, b_dec)  # None is allowed
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, b_dec = ctx.saved_tensors
        codes: SparseCodes = ctx.codes
        order = codes.feature_order
        by_feature = upstream[order]
        d_x = d_W_enc = d_b_dec = None
        d_b_enc = _sums_by_feature(by_feature, codes, order)
        if ctx.needs_input_grad[1]:
            d_x = weighted_row_sums(W_enc.T.contiguous(), codes.features, upstream.contiguous(), codes.token_offsets)
        if ctx.needs_input_grad[2]:
            read = x if b_dec is None else x - b_dec
            # W_enc lies in memory feature by feature, and so does its gradient
            d_W_enc = weighted_row_sums(read, codes.tokens[order], by_feature, codes.feature_offsets).T
        if ctx.needs_input_grad[4]:
            d_b_dec = -(W_enc @ d_b_enc)
        return None, d_x, d_W_enc, d_b_enc if ctx.needs_input_grad[3] else None, d_b_dec, None


def _sums_by_feature(values: Tensor, codes: SparseCodes, order: Tensor) -> Tensor:
    """Sums of values in order of their features; a GPU would add up by index in whatever order its threads run."""
    if values.device.type != "cpu":
        return segment_sums(values, codes.feature_offsets)
    return values.new_zeros(codes.shape[1]).index_add_(0, codes.features[order], values)
