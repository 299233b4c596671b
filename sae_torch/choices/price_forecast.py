"""Where to start the search for the next batch's prices: a good guess halves its time and never changes its answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A guess starts at this share of a known price, and moves by this power of how far its count is off.
START, POWER = 0.9, 0.15

Vector = NDArray[np.float64]


class PriceForecast:
    """A value per feature that somewhat more scores of a batch reach than its quota takes.

    ::

        guess_j <- guess_j * ((reaching_j + 1) / (due_j + 3 sqrt(due_j) + 5))^0.15

    Prices of single batches are too volatile to start from: a feature with a quota of two has a price among its
    strongest matches in one batch and among the noise in the next. Counts are not.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_torch.choices.price_forecast import PriceForecast
    >>> forecast = PriceForecast()
    >>> forecast.observe(np.array([2.0]), due=np.array([4.0]), reaching=None)
    >>> forecast.guess
    array([1.8])
    >>> forecast.observe(np.array([2.0]), due=np.array([4.0]), reaching=np.array([100]))
    >>> bool(forecast.guess > 1.8)  # too many reached it
    True
    """

    def __init__(self) -> None:
        self.guess: Vector | None = None

    def observe(self, prices: NDArray[Any], due: Vector, reaching: NDArray[np.int64] | None) -> None:
        """Learn from a batch: its prices, its quotas in scores, and how many scores reached the guess."""
        if self.guess is None or reaching is None:
            self.guess = START * prices.astype(np.float64)
        else:
            self.guess *= ((reaching + 1.0) / (due + 3.0 * np.sqrt(due) + 5.0)) ** POWER
        # a price of 0 is no place to start from: it means that there is no bracket
        self.guess = np.maximum(self.guess, np.finfo(np.float32).tiny)
