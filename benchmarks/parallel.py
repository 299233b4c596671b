"""A training step of one global batch: processes of one thread each against one process with as many threads.

Also what crosses between the processes in a step: rounds, and bytes that each process sends.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import arguments, report
from sae_torch.parallel.torch_ranks import TorchRanks

NAME = "parallel"
# Tokens, width, features, features per token.
SIZES = ((4096, 512, 8192, 32), (2048, 384, 12288, 32))
RANKS, TURN = 2, 5
CHOICES: dict[str, Callable[[int, int], st.Choice]] = {
    "token": lambda k, _: st.TokenChoice(k),
    "mutual": lambda k, _: st.MutualChoice(k),
    "feature": lambda k, _: st.FeatureChoice(k, quotas="uniform", switch=0),
    "floors": lambda k, features: st.BalancedChoice(k, feature_floors=0.25 * k / features),
}
HEADINGS = [
    "size",
    "choice",
    "one process ms",
    f"{RANKS} processes ms",
    "ratio",
    "ratio of CPU time",
    "rounds",
    "MiB of gradients",
    "KiB beside",
]
NOTES = (
    f"(tokens of the global batch, d_model, features, k); medians over turns of {TURN} steps, the sides in turn; "
    f"auxiliary loss off. One process has {RANKS} threads, each of {RANKS} processes one. Rounds: "
    "collective calls of a step."
)


def batch(tokens: int, d_model: int) -> Tensor:
    """Sparse mixtures of random directions."""
    draw = torch.Generator().manual_seed(0)
    active = (torch.rand(tokens, 1024, generator=draw) < 0.02) * torch.rand(tokens, 1024, generator=draw)
    return active @ torch.randn(1024, d_model, generator=draw)


class Crossing:
    """Rounds and bytes of the collective calls while the context lasts."""

    def __enter__(self) -> Crossing:
        self.rounds = self.gradients = self.beside = 0
        self.all, self.start, self.total = TorchRanks._all, TorchRanks.start_sum, TorchRanks.sum

        def counted_all(ranks: TorchRanks, tensor: Tensor) -> list[Tensor]:
            self.rounds, self.beside = self.rounds + 1, self.beside + tensor.nbytes
            return self.all(ranks, tensor)

        def counted_total(ranks: TorchRanks, values: Any) -> Any:
            if values.dtype == np.int64:  # others are gathered, and counted there
                self.rounds, self.beside = self.rounds + 1, self.beside + values.nbytes
            return self.total(ranks, values)

        def counted_sum(ranks: TorchRanks, tensor: Tensor) -> Any:
            self.rounds, self.gradients = self.rounds + 1, self.gradients + tensor.nbytes
            return self.start(ranks, tensor)

        TorchRanks._all, TorchRanks.start_sum = counted_all, counted_sum  # type: ignore[method-assign]
        TorchRanks.sum = counted_total  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        TorchRanks._all, TorchRanks.start_sum = self.all, self.start  # type: ignore[method-assign]
        TorchRanks.sum = self.total  # type: ignore[method-assign]


def serve(pipe: Connection, rank: int, count: int, folder: str) -> None:
    """Train one of so many processes, as many steps as asked."""
    torch.set_num_threads(RANKS // count)
    if count > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    while (asked := pipe.recv()) is not None:
        (tokens, d_model, features, k), choice = asked
        mesh = st.parallel.mesh(data=count) if count > 1 else None
        sae = st.SparseAutoencoder(d_model, features, CHOICES[choice](k, features), mesh=mesh)
        trainer = st.Trainer(sae, st.TrainConfig(progress=False, auxiliary="none"))
        own = batch(tokens, d_model)[rank * tokens // count : (rank + 1) * tokens // count]
        trainer.begin(own, 10_000, 10_000 * tokens)
        for _ in range(TURN):
            trainer.step(own)
        with Crossing() as crossing:
            trainer.step(own)
        pipe.send((crossing.rounds, crossing.gradients / 2**20, crossing.beside / 2**10))
        while pipe.recv():
            started, busy = time.perf_counter(), time.process_time()
            for _ in range(TURN):
                trainer.step(own)
            spent = time.process_time() - busy
            pipe.send(((time.perf_counter() - started) / TURN, spent / TURN))


def main() -> None:
    """Every size and choice."""
    options = arguments(__doc__ or "").parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes: list[Connection] = []
        for rank, count in ((0, 1), *((rank, RANKS) for rank in range(RANKS))):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, rank, count, folder), daemon=True).start()
            pipes.append(ours)
        rows = [row(pipes, size, choice, options.repeats) for size in SIZES for choice in CHOICES]
        for pipe in pipes:
            pipe.send(None)
    report(NAME, HEADINGS, rows, NOTES)


def row(pipes: list[Connection], size: tuple[int, ...], choice: str, repeats: int) -> list[Any]:
    """One setting: medians of both sides, and of the ratios of their turns."""
    sides = (pipes[:1], pipes[1:])
    for side in sides:
        for pipe in side:
            pipe.send((size, choice))
        crossing = next(iter([pipe.recv() for pipe in side]))
    times: list[list[float]] = []
    busy: list[list[float]] = []
    for _ in range(repeats):
        times.append([])
        busy.append([])
        for side in sides:
            for pipe in side:
                pipe.send(True)
            took = [pipe.recv() for pipe in side]
            times[-1].append(max(wall for wall, _ in took))
            busy[-1].append(sum(spent for _, spent in took))
    for pipe in pipes:
        pipe.send(False)
    one, several = (1e3 * statistics.median(turn[side] for turn in times) for side in (0, 1))
    ratio, of_busy = (statistics.median(turn[1] / turn[0] for turn in turns) for turns in (times, busy))
    found = [str(size), choice, one, several, ratio, of_busy, *crossing]
    print(*(f"{part:.3g}" if isinstance(part, float) else part for part in found), flush=True)
    return found


if __name__ == "__main__":
    main()
