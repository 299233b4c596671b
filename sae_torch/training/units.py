"""Units of training: a transcoder's inputs have some of their own, and its encoder starts from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_torch.sparse_coder import SparseCoder
from sae_torch.transcoder import Transcoder

# Of the mean variance of an input, added to that of each: directions in which inputs hardly vary predict nothing.
RIDGE = 1e-2


@dataclass(frozen=True, eq=False)
class InputUnits:
    """How a transcoder reads its inputs in training.

    ::

        x' = (x - shift) * scale

    Adam moves all coordinates alike. A common mean would be most of every gradient of the encoder.

    Attributes
    ----------
    scale : float
        What brings the mean norm of ``x - shift`` to sqrt(d_in).
    shift : (d_in,) tensor or None
        Mean input; None where weights are frozen, which the way there and back must not change.
    """

    scale: float
    shift: Tensor | None

    def read(self, x: Tensor) -> Tensor:
        """Inputs in these units."""
        return (x if self.shift is None else x - self.shift) * self.scale

    def state_dict(self) -> dict[str, Any]:
        """Both, as a checkpoint holds them."""
        return {"scale": self.scale, "shift": self.shift}

    @classmethod
    def of_state(cls, state: dict[str, Any] | None, like: Tensor) -> InputUnits | None:
        """Take up what `state_dict` gave."""
        if state is None:
            return None
        return cls(state["scale"], None if state["shift"] is None else state["shift"].to(like))


@torch.no_grad()
def enter(sae: SparseCoder, scale: float, inputs: InputUnits | None) -> None:
    """Bring weights and thresholds into training units: the same function on inputs and targets in these.

    ::

        b_enc <- (b_enc + W_enc shift) s,   b_dec <- (b_dec + W_skip shift) s,   W <- W s / s_in,   thresholds times s
    """
    if inputs is not None:
        _shift(sae, inputs.shift, 1.0)
        _scale_maps(sae, scale / inputs.scale)
    _scale_biases(sae, scale)


@torch.no_grad()
def leave(sae: SparseCoder, scale: float, inputs: InputUnits | None) -> None:
    """The way back to raw activations."""
    _scale_biases(sae, 1.0 / scale)
    if inputs is not None:
        _scale_maps(sae, inputs.scale / scale)
        _shift(sae, inputs.shift, -1.0)


@torch.no_grad()
def start(transcoder: Transcoder, x: Tensor, y: Tensor) -> None:
    """Point the encoder of a fresh transcoder to what predicts the decoder's directions, in training units.

    ::

        b_enc = 0,   W_enc_(:, j) = c B^T W_dec_j,   B = argmin (1/N) sum_i ||y_i - mean(y) - B x_i||^2 + ridge

    With y = x that is the decoder's transpose, where an autoencoder starts. Of several processes all take part.
    """
    transcoder.b_enc.zero_()
    world = transcoder.world
    wide, centred = x.double(), y.double() - world.mean(y).double()
    squares, products = world.sum_tokens(wide.T @ wide), world.sum_tokens(centred.T @ wide)
    ridge = RIDGE * squares.diagonal().mean()
    if not bool(ridge > 0):  # inputs that do not vary predict nothing
        return
    squares.diagonal().add_(ridge)
    B = torch.cholesky_solve(products.T, torch.linalg.cholesky(squares)).T
    local = world.local
    encoder = local(transcoder.encoder)
    encoder.copy_(transcoder.encoder_scale * (local(transcoder.W_dec) @ B.to(encoder)))


def _scale_biases(sae: SparseCoder, factor: float) -> None:
    sae.b_enc.mul_(factor)
    sae.b_dec.mul_(factor)
    sae.choice.rescale(factor)


def _scale_maps(sae: SparseCoder, factor: float) -> None:
    for weight in _maps(sae):
        weight.mul_(factor)


def _shift(sae: SparseCoder, shift: Tensor | None, sign: float) -> None:
    if shift is None:
        return
    for weight, bias in zip(_maps(sae), (sae.b_enc, sae.b_dec), strict=False):
        sae.world.local(bias).add_(sae.world.local(weight) @ shift, alpha=sign)


def _maps(sae: SparseCoder) -> list[Tensor]:
    """What multiplies the inputs: the encoder, and a skip connection if there is one."""
    skip = sae.W_skip if isinstance(sae, Transcoder) else None
    return [sae.encoder] if skip is None else [sae.encoder, skip]
