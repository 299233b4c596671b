"""Whole training steps on a card: that none waits for a number, and that a captured one is the step itself."""

from __future__ import annotations

import torch

import sae_torch as st
from benchmarks.gpu_card import Card
from benchmarks.gpu_training import SIZES, SMALL, OurStep
from benchmarks.training_step import activations
from sae_torch.training.graph import SETTLED


def steps_without_waiting(card: Card) -> str:
    """Every choice that promises it, before and after its switch, under torch's watch; the losses are finite."""
    sizes = (1024, 256, 4096, 16) if card.is_real else SMALL
    done = 0
    for dtype in (torch.float32, torch.bfloat16) if card.is_real else (torch.float32,):
        batches = [batch.to(card.device, dtype) for batch in activations(*sizes[:2], count=3)]
        k = sizes[3]
        for choice in (st.TokenChoice(k), st.MutualChoice(k), st.FeatureChoice(k), st.FeatureChoice(k, switch=0)):
            step = OurStep(choice, sizes, batches)
            for _ in range(3):  # compile
                step()
            with card.refusing_to_wait():
                for _ in range(4):
                    step()
            step.trainer.look()
            done += 1
    return f"{done} kinds of steps"


def captured_steps(card: Card) -> str:
    """Replayed steps against launched ones: the same losses, and the time of both."""
    if not card.is_real:
        return "not run: the card is missing"
    said = []
    for sizes in ((1024, 256, 4096, 16), SIZES[0]):
        batches = [batch.to(card.device) for batch in activations(*sizes[:2], count=3)]
        for kind in (st.TokenChoice, st.MutualChoice):
            sides = {
                name: OurStep(kind(sizes[3]), sizes, batches, graph=name == "graph") for name in ("launched", "graph")
            }
            for _ in range(SETTLED + 20):
                records = [step() for step in sides.values()]
            losses = torch.tensor([record.read() for record in records])
            torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=1e-3)
            times = card.times(dict(sides.items()))
            said.append(
                f"{sizes} {kind.__name__}: {times['launched']:.2f} ms launched, {times['graph']:.2f} ms replayed"
            )
    return "; ".join(said)
