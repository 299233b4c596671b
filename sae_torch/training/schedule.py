"""What changes over the steps of a run: the learning rate, and the budget where it is annealed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, decay to 0, linear or along half a cosine.

    ::

        rate(t) = peak * min(1, (t + 1) / (warm_up T), fall((T - t) / (decay T))),
        fall(u) = u,   or   (1 - cos(pi u)) / 2   for u < 1

    Examples
    --------
    >>> from sae_torch.training.schedule import Schedule
    >>> [Schedule(1.0, steps=10, warm_up=0.2, decay=0.2).rate(t) for t in (0, 5, 9)]
    [0.5, 1.0, 0.5]
    """

    peak: float
    steps: int
    warm_up: float
    decay: float
    cosine: bool = False

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = (step + 1) / max(self.warm_up * self.steps, 1.0)
        falling = (self.steps - step) / max(self.decay * self.steps, 1.0)
        if self.cosine:
            falling = (1.0 - math.cos(math.pi * min(falling, 1.0))) / 2.0
        return self.peak * min(1.0, rising, falling)


@dataclass(frozen=True)
class Annealing:
    """A budget that moves linearly to its final value and stays there.

    ::

        k(t) = k + (start - k) * max(0, 1 - t / (share T))

    Examples
    --------
    >>> from sae_torch.training.schedule import Annealing
    >>> [Annealing(start=64, k=32, steps=10, share=0.4).at(t) for t in (0, 2, 4, 9)]
    [64.0, 48.0, 32.0, 32.0]
    """

    start: float
    k: float
    steps: int
    share: float

    def at(self, step: int) -> float:
        """Features per token at a step, counted from 0."""
        remaining = max(0.0, 1.0 - step / max(self.share * self.steps, 1.0))
        return self.k + (self.start - self.k) * remaining
