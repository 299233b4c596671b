"""Where to start the search for the next batch's prices: a good guess halves its time and never changes its answer."""

from __future__ import annotations

import torch
from torch import Tensor

# A guess starts at this share of a known price, and moves by this power of how far its count is off.
START, POWER = 0.9, 0.15


class PriceForecast:
    """A value per feature that somewhat more scores of a batch reach than its quota takes.

    ::

        guess_j <- guess_j * ((reaching_j + 1) / (due_j + 3 sqrt(due_j) + 5))^0.15

    Prices of single batches are too volatile to start from: a feature with a quota of two has a price among its
    strongest matches in one batch and among the noise in the next. Counts are not.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.choices.price_forecast import PriceForecast
    >>> forecast = PriceForecast()
    >>> forecast.observe(torch.tensor([2.0]), due=torch.tensor([4.0]), reaching=None)
    >>> forecast.guess.tolist()
    [1.8]
    >>> forecast.observe(torch.tensor([2.0]), due=torch.tensor([4.0]), reaching=torch.tensor([100]))
    >>> bool(forecast.guess > 1.8)  # too many reached it
    True
    """

    def __init__(self) -> None:
        self.guess: Tensor | None = None

    def observe(self, prices: Tensor, due: Tensor, reaching: Tensor | None) -> None:
        """Learn from a batch: its prices, its quotas in scores, and how many scores reached the guess."""
        if self.guess is None or reaching is None:
            self.guess = START * prices.double()
        else:
            self.guess = self.guess.to(prices.device) * ((reaching + 1.0) / (due + 3.0 * due.sqrt() + 5.0)) ** POWER
        # a price of 0 is no place to start from: it means that there is no bracket
        self.guess = self.guess.clamp_min(torch.finfo(torch.float32).tiny)
