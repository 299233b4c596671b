"""One training in a process of its own, ours or a peer's: a request in, weights and what it cost out.

The folder that is named on the command line holds `request.json`; `weights.safetensors` and `training.json` are
written beside it. The environment decides which libraries there are.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import sae_torch as st
from benchmarks.study.cell import Cell
from benchmarks.study.methods import METHODS
from benchmarks.study.request import DECAY, WARM_UP, Request, blank
from sae_torch.files import write_text

WEIGHTS, TRAINING = "weights.safetensors", "training.json"
PACKAGES = ("numpy", "scipy", "torch", "dictionary-learning", "eai-sparsify")


def config(cell: Cell) -> st.TrainConfig:
    """How ours are trained: what differs between runs, and what this study fixes whatever the defaults become."""
    return st.TrainConfig(
        learning_rate=cell.learning_rate,
        betas=(0.8, 0.99),
        warm_up=WARM_UP,
        decay=DECAY,
        clip=1.0,
        auxiliary=cell.auxiliary,  # type: ignore[arg-type]
        auxiliary_every=1,
        progress=False,
    )


def trained(cell: Cell, folder: Path) -> st.SparseAutoencoder:
    """The autoencoder of a run after training, in eval mode."""
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    sae = blank(cell, tensors["W_dec"].shape[1])
    sae.load_state_dict(tensors)
    return sae.eval()


def ours(request: Request) -> tuple[st.SparseAutoencoder, dict[str, Any]]:
    """Train one of our choices."""
    batches = request.batches()
    sae = blank(request.cell, batches.activations.d_model)
    used = config(request.cell)
    st.Trainer(sae, used).fit(batches)
    return sae, asdict(used)


def train(folder: Path) -> None:
    """Train what the folder asks for."""
    from safetensors.torch import save_file

    request = Request.read(folder)
    peer = METHODS[request.cell.method].peer
    start = time.perf_counter()
    if peer is None:
        sae, used = ours(request)
    else:
        from benchmarks.study.peers import PEERS

        sae, used = PEERS[peer](request)
    seconds = time.perf_counter() - start
    save_file({name: tensor.contiguous() for name, tensor in sae.state_dict().items()}, folder / WEIGHTS)
    steps = len(request.batches())
    about = {
        "seconds": round(seconds, 1),
        "tokens_per_second": round(steps * request.batch / seconds),
        "config": used,
        "python": platform.python_version(),
        "versions": _versions(),
        "threads": torch.get_num_threads(),
    }
    write_text(folder / TRAINING, json.dumps(about))


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
