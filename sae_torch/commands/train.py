"""The command `train`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from sae_torch.training.run import Run
from sae_torch.training.run_config import RunConfig


@dataclass(frozen=True)
class Train(RunConfig):
    """Train autoencoders on one stream of activations, several at once if `sweep` lists values.

    The same command again goes on where it was interrupted. On the CPU the result is then the same to the last bit as
    that of a run without interruption.
    """

    config: Path | None = None
    """TOML or YAML file with any of these settings; options beside it count more."""
    allow_inexact: bool = False
    """Go on from a checkpoint although versions, CPU or number of threads have changed."""

    def run(self) -> None:
        """Train, and say where the autoencoders lie."""
        settings = {field.name: getattr(self, field.name) for field in fields(RunConfig)}
        run = Run(RunConfig(**settings), self.allow_inexact)
        for folder in run.execute():
            if run.world.leads:
                print(folder)
