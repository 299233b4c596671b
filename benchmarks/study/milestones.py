"""Weights in the middle of a training, for learning curves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sae_torch as st
from benchmarks.study.request import Request
from benchmarks.study.weights import write_weights


def milestone_file(folder: Path, tokens: int) -> Path:
    """Where the weights after so many tokens lie."""
    return folder / f"after-{tokens}.safetensors"


@dataclass(frozen=True)
class Milestones:
    """Keeps the weights after the tokens that a request names.

    Parameters
    ----------
    folder
        Where they are written.
    request
        What is trained.
    """

    folder: Path
    request: Request

    def __call__(self, step: int, make: Callable[[], st.SparseAutoencoder]) -> None:
        """Write what `make` gives if these are the steps after which weights are kept."""
        done, batch = step * self.request.batch, self.request.batch
        for tokens in self.request.milestones:
            if done - batch < tokens <= done:
                write_weights(make(), milestone_file(self.folder, tokens))


def in_raw_units(trainer: st.Trainer) -> st.SparseAutoencoder:
    """A copy of what is being trained, for raw activations."""
    sae = copy.deepcopy(trainer.sae)
    assert isinstance(sae, st.SparseAutoencoder)
    assert trainer.units is not None
    trainer.units.leave(sae)
    return sae
