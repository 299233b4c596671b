"""Every choice that training makes, with the reason for its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import allocation as al
from sae_torch.choices.choice import Choice
from sae_torch.errors import InputError
from sae_torch.plain_numbers import is_number, plain, positive, whole


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    The defaults were chosen on held-out development text by `benchmarks/training_choices.py`, the decay by
    `benchmarks/long_choices.py`.

    Raises
    ------
    InputError
        If a value lies outside its range.

    Examples
    --------
    >>> import sae_torch as st
    >>> st.TrainConfig(learning_rate=1e-3).decay
    0.4
    """

    learning_rate: float = 4e-3
    """Of Adam, at its peak, in units where activations have norm sqrt(d_model)."""
    betas: tuple[float, float] = (0.8, 0.99)
    """Adam's decay rates: short memories suit runs of a few hundred steps."""
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    decay: float = 0.4
    """Share of the steps, the last, in which the learning rate falls to 0."""
    decay_shape: Literal["linear", "cosine"] = "linear"
    """How it falls."""
    k_start: float | None = None
    """Features per token at the first step, from where the budget moves to the choice's own k; None to stay there."""
    k_annealing: float = 0.1
    """Share of the steps, the first, in which it moves."""
    clip: float = 1.0
    """Largest global gradient norm: without it Adam remembers the first, large gradients."""
    auxiliary: Literal["auto", "zipf", "k", "none"] = "auto"
    """`aux_zipf_loss` for under-used features, `aux_k_loss` for dead ones, or neither; "auto" is "zipf", but "none" for
    a choice whose floors keep every feature in use."""
    auxiliary_coefficient: float = 1 / 32
    """Weight of the auxiliary loss beside the reconstruction."""
    auxiliary_every: int = 1
    """The auxiliary loss reads every n-th token of a batch: faster steps, more dead features."""
    k_aux: int | None = None
    """Features per token in the auxiliary loss; by default half of d_model for "k", otherwise k."""
    zipf_alpha: float = al.ZIPF_ALPHA
    """Exponent of the density curve below which a feature counts as under-used."""
    zipf_beta: float = al.ZIPF_BETA
    """Rank offset of that curve."""
    prefixes: tuple[int, ...] | None = None
    """Sizes of nested prefixes for `matryoshka_loss`, the last all features; None for the whole dictionary alone."""
    dead_after: int | None = None
    """Tokens without firing after which a feature is dead; min(10 M, a tenth of the planned tokens) by default."""
    calibration: float = 0.1
    """Share of the steps, the last, whose inputs set the thresholds at the end."""
    calibration_tokens: int = 1 << 17
    """Most tokens kept for that."""
    graph: bool = False
    """On a CUDA device, with token or mutual choice: capture the step in a CUDA graph and replay it."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        shares = ("warm_up", "decay", "k_annealing", "calibration")
        for name in shares:
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected a share of the steps from 0 to 1, found {getattr(self, name)!r}")
        if self.warm_up + self.decay > 1:
            raise InputError(f"warm_up + decay: expected at most 1 in all, found {self.warm_up + self.decay:g}")
        for name in ("learning_rate", "clip", "k_start"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        for name in ("auxiliary_coefficient", "zipf_alpha", "zipf_beta"):
            if not is_number(getattr(self, name)) or not math.isfinite(getattr(self, name)):
                raise InputError(f"{name}: expected a number, found {getattr(self, name)!r}")
        betas = self.betas if isinstance(self.betas, (tuple, list)) else ()
        if len(betas) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in betas):
            raise InputError(f"betas: expected two numbers from 0 to below 1, found {self.betas!r}")
        if self.auxiliary not in ("auto", "zipf", "k", "none"):
            raise InputError(f'auxiliary: expected "auto", "zipf", "k" or "none", found {self.auxiliary!r}')
        if self.decay_shape not in ("linear", "cosine"):
            raise InputError(f'decay_shape: expected "linear" or "cosine", found {self.decay_shape!r}')
        for name in ("auxiliary_every", "k_aux", "dead_after", "calibration_tokens"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), what="1 or more")
        for each in fields(self):
            object.__setattr__(self, each.name, plain(getattr(self, each.name)))

    def require_room(self, choice: Choice, n_features: int) -> None:
        """The features hold the budget, and it has arrived when a choice fixes it, as feature choice does by quotas."""
        choice.require_room(n_features)
        choice.require_room(n_features, self.k_start, "k_start")
        fixed_at = choice.budget_fixed_at
        if self.k_start is not None and fixed_at is not None and fixed_at < self.k_annealing:
            raise InputError(
                f"k_annealing: expected a budget that has arrived when {type(choice).__name__} fixes it at "
                f"{fixed_at:g} of the steps, found one that moves until {self.k_annealing:g}"
            )

    def calibration_batches(self, steps: int, tokens_per_batch: int) -> int:
        """How many of the last batches set the thresholds: those of the last steps that fit the tokens kept."""
        return max(1, min(math.ceil(self.calibration * steps), self.calibration_tokens // max(tokens_per_batch, 1)))
