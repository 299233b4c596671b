"""What a run of `train` leaves to who judges its autoencoders: their folders, and text that it never saw."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sae_torch.activations import HarvestOptions, harvest_sites, plan
from sae_torch.config_file import from_plain
from sae_torch.errors import InputError
from sae_torch.training.run import CONFIG

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SPLIT = "test"
# So many are harvested where no number is given; fewer where the held-out documents hold fewer.
TOKENS = 40_000


def autoencoders_in(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The paths, a run's folder replaced by its autoencoders.

    Raises
    ------
    InputError
        If a run has none yet.
    """
    found: list[Path] = []
    for path in paths:
        given = path.expanduser()
        if not (given / CONFIG).is_file():
            found.append(path)
            continue
        inside = sorted(file.parent for file in given.glob("*/cfg.json"))
        if not inside:
            raise InputError(f"{path}: expected a finished run, found one without autoencoders; train goes on with it")
        found += inside
    return tuple(found)


@dataclass(frozen=True)
class HeldOut:
    """Activations of documents that were kept from a run.

    Parameters
    ----------
    folder
        Where they lie.
    tokens
        How many count.
    model
        The language model, by the name or path that the run was given.
    """

    folder: Path
    tokens: int
    model: str


def held_out(autoencoders: Sequence[Path], tokens: int | None, device: str, mesh: DeviceMesh | None = None) -> HeldOut:
    """Activations of documents that were kept from the runs of these autoencoders.

    Parameters
    ----------
    autoencoders
        Folders that `train` wrote.
    tokens
        How many are harvested unless they are there; None for `TOKENS`, or fewer where the documents hold fewer.
    device
        Where the language model runs.
    mesh
        Processes that share the work.

    Raises
    ------
    InputError
        If they are of no run that harvested text, or of runs on different text.
    """
    runs = {folder: _harvested(folder.expanduser().resolve().parent / CONFIG) for folder in autoencoders}
    first, wanted = next(iter(runs.items()))
    for folder, found in runs.items():
        if found is None:
            raise InputError(
                f"activations: expected a folder to judge {folder} on, found none; text is held out only where train "
                "harvested itself"
            )
        if found != wanted:
            raise InputError(f"activations: expected a folder, found none, and {first} and {folder} saw different text")
    assert wanted is not None
    target = wanted.target
    config = replace(replace(wanted, device=device).config(), rows_of=None if target is None else wanted.site)
    sites = (config.site,) if target is None else (config.site, target)

    def harvested(count: int) -> int:
        harvest_sites(config, sites, SPLIT, count, wanted.cache, None, True, mesh)
        return count

    try:
        count = harvested(tokens or TOKENS)
    except InputError:
        held = plan(config, SPLIT, tokens or TOKENS, wanted.cache).tokens_finished
        if tokens is not None or not held:
            raise
        count = harvested(held)  # all that the documents hold
    return HeldOut(plan(config, SPLIT, 1, wanted.cache).folder, count, wanted.model)


def _harvested(file: Path) -> HarvestOptions | None:
    """What a run harvested, but for how much and where; None where it did not."""
    if not file.is_file():
        return None
    settings = tomllib.loads(file.read_text(encoding="utf-8"))
    if "activations" in settings:
        return None
    options = from_plain(HarvestOptions, settings.get("harvest", {}))
    return replace(options, tokens=TOKENS, device="cpu")
