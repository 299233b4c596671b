"""One training in a process of its own, ours or a peer's: a request in, weights and what it cost out.

The folder that is named on the command line holds `request.json`; `weights.safetensors` and `training.json` are
written beside it. The environment decides which libraries there are.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import sae_torch as st
from benchmarks.study.grid import Cell
from benchmarks.study.methods import METHODS
from benchmarks.study.sources import read
from sae_torch.activations import ActivationReader

REQUEST, WEIGHTS, TRAINING = "request.json", "weights.safetensors", "training.json"
PACKAGES = ("numpy", "scipy", "torch", "dictionary-learning", "eai-sparsify")
# What the shape of every schedule is, the peers' too.
WARM_UP, DECAY = 0.05, 0.2


@dataclass(frozen=True)
class Request:
    """What to train.

    Parameters
    ----------
    cell
        The run.
    activations
        Folder of the training activations.
    tokens, batch
        How many of them, and how many per step.
    """

    cell: Cell
    activations: str
    tokens: int
    batch: int

    def batches(self) -> ActivationReader:
        """In the order of the run's seed, the same for every method."""
        activations = read(Path(self.activations), self.tokens)
        return ActivationReader(activations, batch_size=self.batch, seed=self.cell.seed)

    @property
    def dead_after(self) -> int:
        """Tokens without firing after which an auxiliary loss takes a feature for dead, as `TrainConfig` has it."""
        return max(1, len(self.batches()) * self.batch // 10)

    def write(self, folder: Path) -> None:
        """As a file that the process reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REQUEST).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Request:
        """From that file."""
        found = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        return cls(**{**found, "cell": Cell(**found["cell"])})


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


def blank(cell: Cell, d_model: int) -> st.SparseAutoencoder:
    """The autoencoder of a run before training."""
    choice = METHODS[cell.method].choice(cell.k, cell.n_features)
    return st.SparseAutoencoder(d_model, cell.n_features, choice, seed=cell.seed)


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
    (folder / TRAINING).write_text(json.dumps(about), encoding="utf-8")


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
