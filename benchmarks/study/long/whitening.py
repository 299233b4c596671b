"""Whitened activations, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sae_torch.input_transform import InputTransform

# The share of the covariance's mean eigenvalue that is added to every one.
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Whitening(InputTransform):
    """Activations with mean 0 and the identity as their covariance, up to the ridge.

    ::

        t = (x - shift) P,   P = (C + r I)^(-1/2),   x_hat = t_hat P^(-1) + shift
    """

    shift: Tensor
    matrix: Tensor
    inverse: Tensor
    name: ClassVar[str] = "whitening"

    @classmethod
    def of(cls, x: Tensor) -> Whitening:
        """From activations."""
        shift = x.double().mean(dim=0)
        centred = x.double() - shift
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
        values = values.clamp_min(0) + RIDGE * values.clamp_min(0).mean()
        matrix, inverse = ((vectors * values**power) @ vectors.T for power in (-0.5, 0.5))
        return cls(shift.float(), matrix.float(), inverse.float())

    def __call__(self, x: Tensor) -> Tensor:
        """Whitened activations."""
        return (x - self.shift) @ self.matrix

    def scaled_back(self, t: Tensor, x: Tensor) -> Tensor:
        """A difference, in units of the activations."""
        return t @ self.inverse

    def back(self, t: Tensor, x: Tensor) -> Tensor:
        """A reconstruction, in units of the activations."""
        return self.scaled_back(t, x) + self.shift
