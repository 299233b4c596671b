"""The command `harvest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sae_torch.activations import HarvestOptions, harvest, plan
from sae_torch.errors import InterruptedRunError


@dataclass(frozen=True)
class Harvest(HarvestOptions):
    """Harvest activations of a language model.

    An interrupted harvest continues from its finished shards; more tokens later only add shards.
    """

    split: Literal["train", "dev", "test"] = "train"
    """Which documents: whole ones are held out for development and test."""

    def run(self) -> None:
        """Harvest and say where the shards lie."""
        config = self.config()
        try:
            found = harvest(config, self.split, self.tokens, self.cache, progress=True)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"while harvesting the {self.split} split") from None
        folder = plan(config, self.split, 1, self.cache).folder
        print(f"{len(found)} activations of width {found.d_model} in {folder}")
