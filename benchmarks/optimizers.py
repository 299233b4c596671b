"""Optimisers that were tried beside Adam, in the form in which `Trainer` uses one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import sae_torch as st


class Lion(torch.optim.Optimizer):
    """The sign of a moving mean of gradients (Chen et al. 2023, arXiv 2302.06675), without weight decay."""

    def __init__(self, parameters: Any, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(parameters, {"lr": 0.0, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter."""
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                parameter.add_(torch.lerp(parameter.grad, mean, fast).sign_(), alpha=-group["lr"])
                mean.lerp_(parameter.grad, 1.0 - slow)


class MuonWithAdam(torch.optim.Optimizer):
    """torch's Muon (Jordan et al. 2024) for the two matrices, Adam for the biases."""

    def __init__(self, sae: st.SparseAutoencoder) -> None:
        matrices, biases = [sae.encoder, sae.W_dec], [sae.b_enc, sae.b_dec]
        self.parts = [
            torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(biases),
        ]
        super().__init__([*matrices, *biases], {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter, at the rate of the first group."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step()


OPTIMIZERS: dict[str, Callable[[st.SparseAutoencoder], torch.optim.Optimizer]] = {
    "Lion": lambda sae: Lion(sae.parameters()),
    "Muon": MuonWithAdam,
}
