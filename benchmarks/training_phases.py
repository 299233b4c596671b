"""Where the time of a training step goes, phase by phase, beside the encoder's product alone."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

import sae_torch as st
from benchmarks.harness import arguments, report
from benchmarks.training_step import SIZES, Ours, activations
from sae_torch.exact_products import ExactProducts
from sae_torch.training.usage import FeatureUsage

# What is timed: the owner, the attribute, the phase. Phases inside others are subtracted from them.
OWNERS: list[tuple[Any, str, str]] = [
    (st.SparseAutoencoder, "scores_or_blocks", "encoder product"),
    (ExactProducts, "at", "exact scores"),
    (st.Choice, "select", "selection"),
    (st.TokenChoice, "select", "selection"),
    (st.MutualChoice, "observe", "statistics"),
    (st.FeatureChoice, "observe", "statistics"),
    (st.BalancedChoice, "observe", "statistics"),
    (FeatureUsage, "observe", "statistics"),
    (FeatureUsage, "auxiliary_loss", "auxiliary loss"),
    (torch.autograd, "backward", "backward"),
    (torch.nn.utils, "clip_grad_norm_", "clipping"),
    (torch.optim.Adam, "step", "Adam"),
]


class Phases:
    """Seconds by phase, each without the phases inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: list[str] = []
        self.since = 0.0

    def _switch(self) -> None:
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to `name`."""
        self._switch()
        self.running.append(name)
        try:
            yield
        finally:
            self._switch()
            self.running.pop()

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, charged to `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return call


def profile(step: Ours, repeats: int) -> dict[str, float]:
    """Median seconds by phase."""
    turns: list[dict[str, float]] = []
    for _ in range(repeats):
        phases = Phases()
        with ExitStack() as stack:
            for owner, name, phase in OWNERS:
                timed = phases.timed(getattr(owner, name), phase)
                stack.enter_context(mock.patch.object(owner, name, timed))
            with phases.phase("decode, loss, unit norm"):
                step()
        turns.append(phases.seconds)
    names = {name for turn in turns for name in turn}
    return {name: statistics.median(turn.get(name, 0.0) for turn in turns) for name in names}


def main() -> None:
    """The larger phases first."""
    options = arguments(__doc__ or "").parse_args()
    rows = []
    for sizes in SIZES:
        batches, k = activations(*sizes[:2]), sizes[3]
        choices = (st.TokenChoice(k), st.MutualChoice(k), st.FeatureChoice(k))
        for choice in (*choices, st.BalancedChoice(k, feature_floors=k / sizes[2] / 4)):
            found = profile(Ours(choice, "auto", sizes, batches), options.repeats)
            parts = sorted(found.items(), key=lambda part: -part[1])
            rows += [[str(sizes), type(choice).__name__, name, 1e3 * seconds] for name, seconds in parts]
    notes = "(tokens, d_model, features, k), float32, TrainConfig as shipped; medians, phases without those inside"
    report("training_phases", ["size", "choice", "phase", "ms"], rows, notes)


if __name__ == "__main__":
    main()
