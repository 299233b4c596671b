"""How much every feature is used, and what the auxiliary loss makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_torch.choices.feature import DENSITY_RATE
from sae_torch.choices.zipf import zipf_densities
from sae_torch.losses import aux_k_loss, aux_zipf_loss, shortfall
from sae_torch.sparse_coder import Output, SparseCoder
from sae_torch.training.config import TrainConfig


class FeatureUsage:
    """Moving firing densities, and the tokens since each feature last fired."""

    def __init__(self, sae: SparseCoder, config: TrainConfig, planned_tokens: int) -> None:
        device = sae.W_dec.device
        self.densities = torch.zeros(sae.n_features, device=device)
        self.silent_for = torch.zeros(sae.n_features, dtype=torch.int64, device=device)
        self.steps = 0
        self.config = config
        self.dead_after = config.dead_after or max(1, min(10_000_000, planned_tokens // 10))
        self.auxiliary: str = config.auxiliary
        if config.auxiliary == "auto":
            self.auxiliary = "none" if sae.choice.feeds_every_feature else "zipf"
        usual = sae.d_out // 2 if config.auxiliary == "k" else round(sae.choice.k)
        self.k_aux = config.k_aux or max(1, usual)
        # a fixed curve: one refitted to the same densities in each step would make the shortfall vanish by construction
        shape = (sae.n_features, config.zipf_alpha, config.zipf_beta)
        self.curve = zipf_densities(sae.choice.k, *shape, dtype=torch.float32, device=device).clamp_max(1.0)

    @property
    def dead(self) -> Tensor:
        """Which features have not fired for so long that they count as dead."""
        return self.silent_for >= self.dead_after

    def state_dict(self) -> dict[str, Any]:
        """What has been counted."""
        return {"densities": self.densities, "silent_for": self.silent_for, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.densities.copy_(state["densities"])
        self.silent_for.copy_(state["silent_for"])
        self.steps = state["steps"]

    @torch.no_grad()
    def observe(self, out: Output, tokens: int) -> None:
        """Count a training batch of so many tokens in all."""
        fired = out.world.of_features(out.codes.feature_counts)
        self.steps += 1
        self.densities.lerp_(fired / tokens, max(1.0 / self.steps, DENSITY_RATE))
        self.silent_for.add_(tokens).masked_fill_(fired > 0, 0)

    def target(self, sae: SparseCoder) -> Tensor:
        """The density that every feature shall have: the choice's own, or that of the curve by current rank."""
        targets = sae.choice.density_targets(self.curve.device)
        if targets is not None:
            return targets.to(self.curve)
        target = torch.empty_like(self.curve)
        target[torch.argsort(self.densities, descending=True, stable=True)] = self.curve
        return target

    def auxiliary_loss(self, out: Output, x: Tensor, sae: SparseCoder, y: Tensor | None = None) -> Tensor:
        """The loss that is used, `aux_k_loss` or `aux_zipf_loss`; 0 where no feature lacks use."""
        if self.auxiliary == "k":
            return aux_k_loss(out, x, sae, self.dead, self.k_aux, self.config.auxiliary_every, y)
        weights = shortfall(self.densities, self.target(sae))
        return aux_zipf_loss(out, x, sae, weights, self.k_aux, self.config.auxiliary_every, y)
