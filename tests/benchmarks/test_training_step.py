"""The benchmark of the training step makes real steps, at a size that says nothing about time."""

from __future__ import annotations

import pytest
import torch

import sae_torch as st
from benchmarks.training_phases import profile
from benchmarks.training_step import PRODUCT, Ours, sides

SIZES = (64, 16, 128, 4)


@pytest.mark.filterwarnings("ignore")  # of the peers, where they are installed
def test_every_side_makes_steps() -> None:
    made = {name: make for name, make in sides(SIZES, count=4).items() if "choice" in name or name == PRODUCT}
    assert {"mutual choice, auxiliary zipf", "feature choice, auxiliary none", "feature choice, cold prices"} <= set(
        made
    )
    for name, make in made.items():
        step = make()
        step()
        if isinstance(step, Ours):
            assert step.trainer.schedule is not None, name
            assert step.trainer.schedule.rates.rate(step.steps) == step.trainer.config.learning_rate
            sae = step.trainer.sae
            assert torch.isfinite(sae.W_dec).all()
            assert step.trainer.step(step.batches[0]).loss > 0


def test_the_phases_of_a_step_add_up_to_something_of_each() -> None:
    batches = [torch.randn(SIZES[0], SIZES[1], generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    found = profile(Ours(st.MutualChoice(4), "zipf", SIZES, batches, "auto"), repeats=2)
    assert {"encoder product", "exact scores", "selection", "statistics", "auxiliary loss", "backward", "Adam"} <= set(
        found
    )
    assert all(seconds > 0 for seconds in found.values())
