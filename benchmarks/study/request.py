"""What a training process is asked for: a file of plain values, and the schedule that every method shares."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import sae_torch as st
from benchmarks.study.cell import Cell
from benchmarks.study.methods import method_of
from benchmarks.study.sources import read
from sae_torch.activations import ActivationReader

REQUEST = "request.json"


# The first share of the steps, in which the learning rate rises; the peers' too.
WARM_UP = 0.05


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
    milestones
        Tokens after which the weights are kept too.
    """

    cell: Cell
    activations: str
    tokens: int
    batch: int
    milestones: tuple[int, ...] = ()

    def batches(self) -> ActivationReader:
        """In the order of the run's seed, the same for every method."""
        activations = read(Path(self.activations), self.tokens)
        return ActivationReader(activations, batch_size=self.batch, seed=self.cell.seed)

    @property
    def decay(self) -> float:
        """The last share of the steps, in which the learning rate falls."""
        return method_of(self.cell.method).decay

    @property
    def checksum(self) -> str:
        """Of the activations: of the digests that their shards carry."""
        shards = read(Path(self.activations), self.tokens).shards
        return hashlib.sha256("".join(shard.header["sha256"] for shard in shards).encode()).hexdigest()

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
        return cls(**{**found, "cell": Cell(**found["cell"]), "milestones": tuple(found.get("milestones", ()))})


def blank(cell: Cell, d_model: int) -> st.SparseAutoencoder:
    """The autoencoder of a run before training."""
    method = method_of(cell.method)
    choice, width = method.choice(cell.k, cell.n_features), method.width(cell.n_features)
    return st.SparseAutoencoder(d_model, width, choice, seed=cell.seed)
