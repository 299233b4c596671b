"""How the learning rate changes over a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, linear decay to 0.

    ::

        rate(t) = peak * min(1, (t + 1) / (warm_up T), (T - t) / (decay T))

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

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = (step + 1) / max(self.warm_up * self.steps, 1.0)
        falling = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return self.peak * min(1.0, rising, falling)
