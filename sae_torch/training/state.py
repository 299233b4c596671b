"""What a choice carries from step to step besides its buffers, as tensors and plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import allocation as al
from sae_torch.choices.choice import Choice, TokenChoice
from sae_torch.choices.feature import FeatureChoice


def choice_state(choice: Choice) -> dict[str, Any]:
    """The prices from which the next search starts, and the fitted curve.

    One-sided answers do not depend on where the search starts; of several optimal prices of a two-sided problem, the
    one that is found may.
    """
    state: dict[str, Any] = {"prices": None, "zipf": None}
    if choice._last_prices is not None:
        prices = vars(choice._last_prices)
        state["prices"] = {name: torch.from_numpy(np.array(price.value)) for name, price in prices.items()}
    if isinstance(choice, FeatureChoice) and choice.zipf is not None:
        state["zipf"] = vars(choice.zipf) | {"ranks": torch.from_numpy(np.array(choice.zipf.ranks))}
    return state


def load_choice_state(choice: Choice, state: dict[str, Any]) -> None:
    """Take up what `choice_state` gave."""
    prices, zipf = state["prices"], state["zipf"]
    if prices is not None:
        values = {name: value.numpy() if value.ndim else float(value) for name, value in prices.items()}
        found = al.Prices(**{name: al.Price(value) for name, value in values.items()})
        choice._last_prices = found.without_intervals()
    if isinstance(choice, FeatureChoice) and zipf is not None:
        choice.zipf = al.ZipfFit(**(zipf | {"ranks": zipf["ranks"].numpy()}))


def set_budget(choice: Choice, k: float) -> None:
    """Another mean number of features per token, for a while; token choice takes whole ones."""
    choice.k = max(1, round(k)) if isinstance(choice, TokenChoice) else k
    if isinstance(choice, FeatureChoice):
        choice.mutual.k = choice.k
