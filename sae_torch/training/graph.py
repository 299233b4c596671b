"""A training step as one CUDA graph: captured once, then launched as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.choices.choice import MutualChoice, TokenChoice
from sae_torch.choices.feature import DENSITY_RATE
from sae_torch.errors import InputError
from sae_torch.matches import is_on_device

if TYPE_CHECKING:
    from sae_torch.training.trainer import Course, Trainer

# Until then the weight of a batch in the moving densities changes, which a graph would hold fast.
SETTLED = round(1 / DENSITY_RATE)


class StepGraph:
    """Launches of a trainer on a card: as they come at first, then as a graph.

    A graph holds sizes fast. So it is captured when two steps in a row have the same batch size and budget, and
    forgotten when either changes. What changes besides is read by the graph where it lies: batch and learning rate.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._sizes: tuple[int, float] | None = None
        self._replay: Callable[[], None] | None = None
        self._x = self._numbers = torch.empty(0)

    def __call__(self, x: Tensor, course: Course) -> Tensor:
        """One step, as `Trainer.launch`."""
        sizes = (x.shape[0], self.trainer.sae.choice.k)
        if course.usage.steps < SETTLED or sizes != self._sizes:
            self._sizes, self._replay = sizes, None
            return self.trainer.launch(x, course)
        if self._replay is None:
            self._capture(x, course)
            assert self._replay is not None
        self._x.copy_(x)
        self._replay()
        course.usage.steps += 1
        return self._numbers.clone()  # the next replay writes over them

    def _capture(self, x: Tensor, course: Course) -> None:
        """Capture executes nothing: the batch is only a place."""
        steps, self._x = course.usage.steps, x.clone()
        groups = self.trainer.optimizer.param_groups
        for group in groups:
            rate = group["lr"]
            if not (isinstance(rate, Tensor) and rate.device == x.device):
                group["lr"] = torch.full((), float(rate), dtype=torch.float32, device=x.device)
            group["capturable"] = x.device.type == "cuda"
        self._replay, self._numbers = captured(lambda: self.trainer.launch(self._x, course))
        for group in groups:
            group["capturable"] = False  # it would warn in steps outside a graph
        course.usage.steps = steps


def require_graph(sae: SparseAutoencoder) -> None:
    """Refuse what a graph cannot hold.

    Raises
    ------
    InputError
        If it is not on a CUDA device, chooses otherwise than by token or mutual choice, or in blocks of features.
    """
    choice = sae.choice
    if not is_on_device(sae.W_dec):
        raise InputError(f"graph: expected an autoencoder on a CUDA device, found one on {sae.W_dec.device}")
    if not isinstance(choice, (TokenChoice, MutualChoice)) or choice.observe_fixed is None:
        raise InputError(
            f"graph: expected token or mutual choice, whose steps have one size each, found {type(choice).__name__}"
        )
    if sae.feature_chunk is not None:
        raise InputError("graph: with feature_chunk the candidates are solved in main memory, outside any graph")


def captured(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """What launches the work anew, on the memory it was captured on, and where its answer will lie."""
    graph = torch.cuda.CUDAGraph()
    # threads that read ahead go on copying to the card
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        answer = work()
    return graph.replay, answer
