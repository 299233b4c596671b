"""A training step as one CUDA graph: captured once, then launched as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae_torch.choices.choice import Choice
from sae_torch.choices.feature import DENSITY_RATE
from sae_torch.errors import InputError
from sae_torch.matches import is_on_device
from sae_torch.sparse_coder import SparseCoder
from sae_torch.training.usage import FeatureUsage

# Until then the weight of a batch in the moving densities changes, which a graph would hold fast.
SETTLED = round(1 / DENSITY_RATE)


class StepGraph:
    """Launches of a trainer on a GPU: as they come at first, then as a graph.

    A graph holds sizes fast. So it is captured when two steps in a row have the same batch size and budget, and
    forgotten when either changes. What changes besides is read by the graph where it lies: batch and learning rate.
    """

    def __init__(
        self, launch: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, choice: Choice, usage: FeatureUsage
    ) -> None:
        self.launch, self.optimizer, self.choice, self.usage = launch, optimizer, choice, usage
        self._sizes: tuple[int, float] | None = None
        self._replay: Callable[[], None] | None = None
        self._x = self._numbers = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        """One step, as `launch`."""
        sizes = (x.shape[0], self.choice.k)
        if self.usage.steps < SETTLED or sizes != self._sizes:
            self._sizes, self._replay = sizes, None
            return self.launch(x)
        if self._replay is None:
            self._capture(x)
            assert self._replay is not None
        self._x.copy_(x)
        self._replay()
        self.usage.steps += 1
        return self._numbers.clone()  # the next replay writes over them

    def _capture(self, x: Tensor) -> None:
        """Capture executes nothing: the batch is only a place."""
        steps, self._x = self.usage.steps, x.clone()
        groups = self.optimizer.param_groups
        for group in groups:
            rate = group["lr"]
            if not (isinstance(rate, Tensor) and rate.device == x.device):
                group["lr"] = torch.full((), float(rate), dtype=torch.float32, device=x.device)
            group["capturable"] = x.device.type == "cuda"
        self._replay, self._numbers = captured(lambda: self.launch(self._x))
        for group in groups:
            group["capturable"] = False  # it would warn in steps outside a graph
        self.usage.steps = steps


def require_graph(sae: SparseCoder) -> None:
    """Refuse what a graph cannot hold.

    Raises
    ------
    InputError
        If it is not on a CUDA device, its choice does not support graphs, it works in blocks of features, or with other
        processes.
    """
    choice = sae.choice
    if not is_on_device(sae.W_dec):
        raise InputError(f"graph: expected an autoencoder on a CUDA device, found one on {sae.W_dec.device}")
    if not choice.supports_graph:
        raise InputError(
            "graph: expected a choice whose steps all have one size, such as token or mutual choice, found "
            f"{type(choice).__name__}"
        )
    if sae.world.ranks is not None:
        raise InputError(
            "graph: expected one process; on several a batch is allocated in main memory, outside any graph"
        )
    if sae.feature_chunk is not None:
        raise InputError("graph: with feature_chunk the candidates are solved in main memory, outside any graph")


def captured(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """What launches the work anew, on the memory it was captured on, and where its answer will lie."""
    graph = torch.cuda.CUDAGraph()
    # threads that read ahead go on copying to the GPU
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        answer = work()
    return graph.replay, answer
