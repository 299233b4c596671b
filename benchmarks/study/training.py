"""One training in a process of its own, ours or a peer's: a request in, weights and what it cost out.

The folder that is named on the command line holds `request.json`; `weights.safetensors` and `training.json` are
written beside it. The environment decides which libraries there are.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import sae_torch as st
from benchmarks.study.cell import Cell
from benchmarks.study.long.variants import fit
from benchmarks.study.methods import method_of
from benchmarks.study.milestones import Milestones
from benchmarks.study.request import WARM_UP, Request, blank
from benchmarks.study.snapshots import Snapshots
from benchmarks.study.weights import WEIGHTS, read_weights, write_weights
from sae_torch.files import write_text

TRAINING = "training.json"
PACKAGES = ("numpy", "scipy", "torch", "dictionary-learning", "eai-sparsify")


def config(cell: Cell) -> st.TrainConfig:
    """How ours are trained: what differs between runs, and what this study fixes whatever the defaults become."""
    return st.TrainConfig(
        learning_rate=cell.learning_rate,
        betas=(0.8, 0.99),
        warm_up=WARM_UP,
        decay=method_of(cell.method).decay,
        clip=1.0,
        auxiliary=cell.auxiliary,  # type: ignore[arg-type]
        auxiliary_every=1,
        progress=False,
    )


def trained(cell: Cell, folder: Path) -> st.SparseAutoencoder:
    """The autoencoder of a run after training, in eval mode."""
    return read_weights(cell, folder / WEIGHTS)


def ours(request: Request, folder: Path, snapshots: Snapshots) -> tuple[st.SparseAutoencoder, dict[str, Any]]:
    """Train one of our choices."""
    batches = request.batches()
    sae = blank(request.cell, batches.activations.d_model)
    used = config(request.cell)
    variant = method_of(request.cell.method).variant
    return fit(variant, sae, used, batches, Milestones(folder, request), snapshots), asdict(used)


def train(folder: Path) -> None:
    """Train what the folder asks for."""
    request = Request.read(folder)
    peer = method_of(request.cell.method).peer
    about = {"python": platform.python_version(), "versions": _versions(), "threads": torch.get_num_threads()}
    snapshots = Snapshots(folder, request, {**about, "config": asdict(config(request.cell))})
    if peer is None:
        sae, used = ours(request, folder, snapshots)
    else:
        from benchmarks.study.peers import PEERS

        sae, used = PEERS[peer](request, Milestones(folder, request), snapshots)
    seconds = snapshots.seconds
    write_weights(sae, folder / WEIGHTS)
    about |= {
        "seconds": round(seconds, 1),
        "tokens_per_second": round(len(request.batches()) * request.batch / seconds),
        "config": used,
        "activations_sha256": request.checksum,
        "code": snapshots.code,
    }
    write_text(folder / TRAINING, json.dumps(about))
    snapshots.done()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    train(Path(sys.argv[1]))
