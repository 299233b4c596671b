"""Memory of a training step with the dictionary cut between processes, beside one process with all of it."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import sae_torch as st
from benchmarks.harness import arguments, report
from benchmarks.parallel import CHOICES, batch

NAME = "parallel_memory"
# Tokens, width, features, features per token.
SIZE = (1024, 512, 131072, 32)
STEPS = 3
HEADINGS = ["choice", "processes", "weights, gradients, moments, scores MiB", "peak MiB a process", "x bound"]
NOTES = (
    f"{SIZE}: (tokens of the global batch, d_model, features, k), float32, auxiliary loss off, {STEPS} steps. Peak: "
    "most resident memory of a process while it makes the autoencoder and trains, less what it had before. Bound: the "
    "peak of one process over the number of processes."
)


def resident() -> int:
    """Bytes of this process in main memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Peak:
    """The most resident memory while the context lasts, beyond that at its start."""

    def __enter__(self) -> Peak:
        self.before, self.most, self.ended = resident(), 0, False
        self.watch = threading.Thread(target=self._look)
        self.watch.start()
        return self

    def _look(self) -> None:
        while not self.ended:
            self.most = max(self.most, resident() - self.before)
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self.watch.join()


def measure(pipe: Connection, rank: int, count: int, folder: str, choice: str) -> None:
    """Train a few steps as one of so many processes, which share the features."""
    tokens, d_model, features, k = SIZE
    torch.set_num_threads(1)
    if count > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    mesh = st.parallel.mesh(features=count) if count > 1 else None
    x = batch(tokens, d_model)
    # what the first use of everything costs is not part of the dictionary
    small = st.SparseAutoencoder(d_model, 16 * count, CHOICES[choice](4, 16 * count), mesh=mesh)
    st.Trainer(small, st.TrainConfig(progress=False, auxiliary="none")).fit([x] * 2)
    del small
    with Peak() as peak:
        sae = st.SparseAutoencoder(d_model, features, CHOICES[choice](k, features), mesh=mesh)
        trainer = st.Trainer(sae, st.TrainConfig(progress=False, auxiliary="none"))
        trainer.begin(x, 100, 100 * tokens)
        for _ in range(STEPS):
            trainer.step(x)
    pipe.send(peak.most)


def main() -> None:
    """Token and mutual choice and floors, in one, two and four processes."""
    arguments(__doc__ or "").parse_args()
    tokens, d_model, features, _ = SIZE
    needed = 4 * (4 * (2 * features * d_model) + tokens * features) / 2**20
    context = multiprocessing.get_context("spawn")
    rows: list[list[Any]] = []
    for choice in ("token", "mutual", "floors"):
        alone = 0.0
        for count in (1, 2, 4):
            with tempfile.TemporaryDirectory() as folder:
                pipes = []
                for rank in range(count):
                    ours, theirs = context.Pipe()
                    context.Process(target=measure, args=(theirs, rank, count, folder, choice), daemon=True).start()
                    pipes.append(ours)
                most = max(pipe.recv() for pipe in pipes) / 2**20
            alone = alone or most
            rows.append([choice, count, needed / count, most, most * count / alone])
            print(*(f"{part:.3g}" if isinstance(part, float) else part for part in rows[-1]), flush=True)
    report(NAME, HEADINGS, rows, NOTES)


if __name__ == "__main__":
    main()
