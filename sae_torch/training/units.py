"""Units of training: activations of mean norm sqrt(d_model), and a transcoder's inputs around their mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_torch.errors import InputError
from sae_torch.sparse_coder import SparseCoder
from sae_torch.transcoder import Transcoder

# Norms below this, and above its inverse, are taken in float64.
TINY = 1e-15


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


@dataclass(frozen=True, eq=False)
class Units:
    """What a module reads and writes in training, against raw activations.

    ::

        y' = y * scale,   x' = y' of an autoencoder, or as `inputs` of a transcoder reads it

    Attributes
    ----------
    scale : float
        What brings the mean norm of the targets to sqrt(d_out).
    inputs : InputUnits or None
        Those of a transcoder.
    """

    scale: float
    inputs: InputUnits | None = None

    @classmethod
    def of(cls, sae: SparseCoder, probe: Tensor) -> Units:
        """Those of the first raw activations.

        Raises
        ------
        InputError
            If the module's type cannot bring them to their norm.
        """
        x, y = sae.sides_of(probe)
        scale = _scale(sae, y)
        if not sae.takes_pairs:
            return cls(scale)
        if not all(weight.requires_grad for weight in sae.parameters()):
            return cls(scale, InputUnits(2.0 ** round(math.log2(_scale(sae, x))), None))
        shift = sae.world.mean(x)
        return cls(scale, InputUnits(_scale(sae, x - shift), shift))

    def read(self, x: Tensor) -> Tensor:
        """Raw inputs in these units."""
        return x * self.scale if self.inputs is None else self.inputs.read(x)

    def batch(self, sae: SparseCoder, rows: Tensor) -> Tensor:
        """A raw batch in these units, targets beside inputs."""
        if self.inputs is None:
            return rows * self.scale
        x, y = sae.sides_of(rows)
        return torch.cat([self.inputs.read(x), y * self.scale], dim=1)

    @torch.no_grad()
    def enter(self, sae: SparseCoder) -> None:
        """Bring weights and thresholds into these units: the same function on inputs and targets in them.

        ::

            b_enc <- (b_enc + W_enc shift) s,   b_dec <- (b_dec + W_skip shift) s,   W <- W s / s_in,   theta <- theta s
        """
        if self.inputs is not None:
            _shift(sae, self.inputs.shift, 1.0)
            _scale_maps(sae, self.scale / self.inputs.scale)
        _scale_biases(sae, self.scale)

    @torch.no_grad()
    def leave(self, sae: SparseCoder) -> None:
        """The way back to raw activations."""
        _scale_biases(sae, 1.0 / self.scale)
        if self.inputs is not None:
            _scale_maps(sae, self.inputs.scale / self.scale)
            _shift(sae, self.inputs.shift, -1.0)

    def state_dict(self) -> dict[str, Any]:
        """Both, as a checkpoint holds them."""
        return {"scale": self.scale, "inputs": None if self.inputs is None else self.inputs.state_dict()}

    @classmethod
    def of_state(cls, state: dict[str, Any], like: Tensor) -> Units:
        """Take up what `state_dict` gave."""
        return cls(state["scale"], InputUnits.of_state(state.get("inputs"), like))


def _scale(sae: SparseCoder, probe: Tensor) -> float:
    """What brings the mean norm to sqrt(d_model); 1 where all is 0."""
    mean = sae.world.mean
    norm = float(mean(probe.norm(dim=1)))
    if not TINY < norm < 1 / TINY:  # squares in the activations' own type have over- or underflowed
        norm = float(mean(probe.double().norm(dim=1)))
    if norm == 0:
        return 1.0
    usual = math.sqrt(probe.shape[1])
    scale = usual / norm
    limits = torch.finfo(sae.W_dec.dtype)
    if not limits.tiny <= scale <= limits.max:
        raise InputError(
            f"batches: expected activations that {sae.W_dec.dtype} can bring to norm "
            f"{usual:.3g}, found a mean norm of {norm:.3g}"
        )
    weights = sae.parameters() if sae.takes_pairs else (sae.b_enc, sae.b_dec)
    if not all(weight.requires_grad for weight in weights):
        scale = 2.0 ** round(math.log2(scale))  # there and back changes no bit of a bias that is frozen
    return scale


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
