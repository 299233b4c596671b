"""What of a row of activations is read and what is reconstructed: the same, but for transcoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sae_torch.activations.rows import Rows
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.sparse_coder import SparseCoder


def sides(sae: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets in rows: both are the rows, but for a transcoder, whose rows are those of `Pairs`."""
    return sae.sides_of(rows) if isinstance(sae, SparseCoder) else (rows, rows)


def reconstruction(sae: Any, codes: SparseCodes, x: Tensor) -> Tensor:
    """What codes of some inputs decode to; a skip connection needs these inputs."""
    decoded: Tensor = sae.decode(codes, x) if isinstance(sae, SparseCoder) else sae.decode(codes)
    return decoded


def takes_pairs(sae: Any) -> bool:
    """Whether it is a transcoder."""
    return isinstance(sae, SparseCoder) and sae.takes_pairs


def require_width(sae: Any, activations: Rows) -> int:
    """Width of what is reconstructed.

    Raises
    ------
    InputError
        If the activations are not as wide as what is read, or for a transcoder as both sides together.
    """
    d_out: int = sae.W_dec.shape[1]
    if not takes_pairs(sae):
        if activations.d_model != d_out:
            raise InputError(f"activations: expected the autoencoder's width of {d_out}, found {activations.d_model}")
    elif activations.d_model != sae.d_in + d_out:
        raise InputError(
            f"activations: expected pairs of widths {sae.d_in} and {d_out} for a transcoder, found "
            f"{activations.d_model}"
        )
    return d_out
