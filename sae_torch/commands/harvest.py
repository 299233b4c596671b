"""The command `harvest`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sae_torch.activations import HarvestOptions, harvest_sites, plan
from sae_torch.errors import InterruptedRunError
from sae_torch.parallel.mesh import started_mesh


@dataclass(frozen=True)
class Harvest(HarvestOptions):
    """Harvest activations of a language model.

    An interrupted harvest continues from its finished shards; more tokens later only add shards. Under `torchrun` the
    processes share the work.
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
        mesh = started_mesh()
        try:
            harvested = harvest_sites(config, tuple(sites), self.split, self.tokens, self.cache, None, True, mesh)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"while harvesting the {self.split} split") from None
        if mesh is not None and mesh.get_rank() > 0:
            return
        for site, activations in harvested.items():
            folder = plan(replace(config, site=site), self.split, 1, self.cache).folder
            print(f"{len(activations)} activations of width {activations.d_model} in {folder}")
