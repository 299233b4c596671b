"""The command `harvest`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Literal

from sae_torch.activations import Activations, HarvestOptions, harvest_pairs, harvest_sites, plan
from sae_torch.devices import described_device
from sae_torch.errors import InputError, InterruptedRunError
from sae_torch.launched import leads
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

    def __post_init__(self) -> None:
        if self.target is not None and self.also:
            raise InputError(
                f"also: expected none beside a target, whose tokens are those of {self.site}, found {self.also[0]!r}"
            )

    def run(self) -> None:
        """Harvest, and say where the shards lie.

        Raises
        ------
        InputError
            If something given cannot be used.
        InterruptedRunError
            If the user interrupts it; finished shards stay on disk.
        """
        config, sites = self.config(), tuple(dict.fromkeys((self.site, *self.also)))
        if leads():
            print(f"device: {described_device(config.device)}", file=sys.stderr, flush=True)
        mesh = started_mesh()
        try:
            given = (self.split, self.tokens, self.cache, None, True, mesh)
            harvested: dict[str, Activations]
            if self.target is None:
                harvested = harvest_sites(config, sites, *given)
            else:
                harvested = harvest_pairs(config, self.target, *given).by_site
                config = replace(config, rows_of=self.site)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"while harvesting the {self.split} split") from None
        if mesh is not None and mesh.get_rank() > 0:
            return
        for site, activations in harvested.items():
            folder = plan(replace(config, site=site), self.split, 1, self.cache).folder
            print(f"{len(activations)} activations of width {activations.d_model} in {folder}")
