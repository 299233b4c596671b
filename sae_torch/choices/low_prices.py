"""How low the prices of features were of late: where a search under floors starts."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

import allocation as al

# How fast a price that was low is forgotten: by this share of its distance from the budget's, from batch to batch.
FORGOTTEN = 0.05
# Prices nearer to the budget's than this share count as that: nearly all are.
NEAR = 0.03


class LowPrices:
    """The least of each feature's last prices, as a share of the budget's.

    ::

        low_j <- min(max(1 + nu_j / lambda, 0), low_j + (1 - low_j) / 20)

    A floor of a few tokens a batch binds in one batch and not in the next. Whoever expects the last price alone looks
    for too few matches wherever it binds again. It changes the time of a search, never its answer, and is no state.
    """

    def __init__(self) -> None:
        self._low: NDArray[np.float64] | None = None

    def observe(self, prices: al.Prices) -> None:
        """Take up the prices of a batch."""
        budget = float(prices.budget.value)
        if not budget > 0:
            return
        now = np.maximum(1 + np.asarray(prices.features.value) / budget, 0.0)
        if self._low is None or self._low.shape != now.shape:
            self._low = now
        else:
            self._low = np.minimum(now, self._low + FORGOTTEN * (1 - self._low))

    def expected(self, prices: al.Prices) -> al.Prices:
        """The last prices, those of features as low as they were of late."""
        if self._low is None or self._low.shape != np.shape(prices.features.value):
            return prices
        low = np.where(self._low < 1 - NEAR, self._low - 1, 0.0)
        return dataclasses.replace(prices, features=al.Price(float(prices.budget.value) * low))
