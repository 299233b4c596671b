"""Thresholds for activations never trained on, measured on those that were: they score higher once they have been."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import allocation as al
from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.calibration import calibrate
from sae_torch.matches import is_on_device, padded_matches

# Tokens of a batch whose price is taken, and entries of their scores at most.
TOKENS, ENTRIES = 512, 1 << 23


class FirstSight:
    """Prices of the last batches just before they are trained on.

    ::

        theta_j <- theta_j * sum_t price(x_t before step t) / sum_t price(x_t at the end)

    with `price` that of the budget, k per token. The same tokens on both sides, so that few of them say enough; the
    rate is nearly 0 by then, so that little but their own step lies between.

    Parameters
    ----------
    k : float
        Features per token.

    Attributes
    ----------
    prices : dict of int and float or () tensor
        By step, in units of raw activations.
    """

    def __init__(self, k: float) -> None:
        self.k = k
        self.prices: dict[int, float | Tensor] = {}

    def observe(self, sae: SparseAutoencoder, x: Tensor, step: int, scale: float) -> None:
        """Take the price of a batch, in training units, before its step."""
        self.prices[step] = self._price(sae, x) / scale

    def calibrate(self, sae: SparseAutoencoder, batches: Mapping[int, Tensor]) -> None:
        """Set the thresholds on batches of raw activations, by the step in which they were trained on.

        Raises
        ------
        InputError
            If there is no batch.
        """
        calibrate(sae, batches.values())
        both = [
            (self.prices[step], self._price(sae, x.to(sae.W_enc))) for step, x in batches.items() if step in self.prices
        ]
        first, now = (sum(map(float, prices)) for prices in zip(*both, strict=True)) if both else (0.0, 0.0)
        if first > 0 and now > 0:
            sae.choice.rescale(first / now)

    def state_dict(self) -> dict[int, float]:
        """The prices as plain numbers."""
        return {step: float(price) for step, price in self.prices.items()}

    def load_state_dict(self, state: Mapping[int, float]) -> None:
        """Take up what `state_dict` gave."""
        self.prices = dict(state)

    @torch.no_grad()
    def _price(self, sae: SparseAutoencoder, x: Tensor) -> float | Tensor:
        x = x[: max(1, min(TOKENS, ENTRIES // sae.n_features))]
        mode, sae.training = sae.training, False  # in the precision that decides later
        try:
            scores = sae.scores(x)
        finally:
            sae.training = mode
        budget = round(self.k * len(x))
        if is_on_device(scores):
            return padded_matches(scores, budget=budget).prices[0]
        return float(al.solve(al.mutual_choice(scores, budget)).prices.budget.value)
