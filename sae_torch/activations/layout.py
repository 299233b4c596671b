"""Activations of every axis order as windows of tokens, one row a token."""

from __future__ import annotations

import math

from torch import Tensor

from sae_torch.errors import InputError


def token_rows(hidden: Tensor, windows: int, length: int) -> Tensor:
    """Activations as ``(windows, length, d_model)``.

    Parameters
    ----------
    hidden : (windows, length, d_model), (windows * length, d_model), (windows, length, heads, width) or \
(windows, heads, length, width) tensor
        What a site holds; with heads a token's row is that of all its heads, ``d_model = heads * width``.
    windows, length : int
        Of the token ids that the model is given.

    Returns
    -------
    (windows, length, d_model) tensor

    Raises
    ------
    InputError
        If there is not one row for each token, or there are as many heads as tokens, so that the axes look the same.
    """
    shape = tuple(hidden.shape)
    if shape[:2] == (windows, length) and hidden.ndim == 3:
        return hidden
    if hidden.ndim == 2 and shape[0] == windows * length:
        return hidden.view(windows, length, -1)
    if hidden.ndim == 4 and shape[0] == windows and length in shape[1:3]:
        if shape[1] == shape[2] != 1:
            raise InputError(
                f"site: expected another number of tokens in a window than the {length} heads, found shape {shape}, "
                "of which the token axis cannot be told; take windows of another length"
            )
        return (hidden if shape[1] == length else hidden.transpose(1, 2)).flatten(2)
    raise InputError(
        f"site: expected activations with a row for each of {windows} x {length} tokens, found shape {shape}; name "
        "another module"
    )


def with_token_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """`hidden` with other rows, in its own axis order: the inverse of `token_rows`."""
    if hidden.ndim == 4 and hidden.shape[1] != rows.shape[1]:
        heads = hidden.transpose(1, 2)
        return rows.view(heads.shape).transpose(1, 2).contiguous()  # as the model may take a view of it
    assert math.prod(rows.shape) == hidden.numel()
    return rows.view(hidden.shape)
