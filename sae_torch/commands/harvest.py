"""The command `harvest`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sae_torch.activations import HarvestOptions, harvest_sites, plan
from sae_torch.errors import InterruptedRunError


@dataclass(frozen=True)
class Harvest(HarvestOptions):
    """Harvest activations of a language model.

    An interrupted harvest continues from its finished shards; more tokens later only add shards.
    """

    split: Literal["train", "dev", "test"] = "train"
    """Which documents: whole ones are held out for development and test."""
    also: tuple[str, ...] = ()
    """More sites, from the same pass through the model."""

    def run(self) -> None:
        """Harvest, and say where the shards lie.

        Raises
        ------
        InputError
            If something given cannot be used.
        InterruptedRunError
            If the user interrupts it; finished shards stay on disk.
        """
        config, sites = self.config(), dict.fromkeys((self.site, *self.also))
        try:
            harvested = harvest_sites(config, tuple(sites), self.split, self.tokens, self.cache, progress=True)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"while harvesting the {self.split} split") from None
        for site, activations in harvested.items():
            folder = plan(replace(config, site=site), self.split, 1, self.cache).folder
            print(f"{len(activations)} activations of width {activations.d_model} in {folder}")
