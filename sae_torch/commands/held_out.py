"""What a run of `train` leaves to who judges its autoencoders: their folders, and text that it never saw."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sae_torch.activations import HarvestConfig, HarvestOptions, Rows, plan
from sae_torch.config_file import from_plain
from sae_torch.environment import difference
from sae_torch.errors import InputError, ShortTextError
from sae_torch.interop.saelens_config import CONFIG as AUTOENCODER
from sae_torch.launched import leads
from sae_torch.training.run_config import RunConfig
from sae_torch.training.run_folder import CONFIG
from sae_torch.training.streams import harvested

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SPLIT = "test"
# So many are harvested where no number is given; fewer where the held-out documents hold fewer.
TOKENS = 40_000


@dataclass(frozen=True)
class HeldOut:
    """Activations of documents that were kept from a run.

    Parameters
    ----------
    folder : Path
        Where they lie.
    rows : Rows
        Those that count; of transcoders with their targets.
    model : str
        The language model, by the name or path that the run was given.
    """

    folder: Path
    rows: Rows
    model: str


def autoencoders_in(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The paths, a run's folder replaced by its autoencoders.

    Raises
    ------
    InputError
        If a run is not finished.
    """
    found: list[Path] = []
    for path in paths:
        folder = path.expanduser()
        run = None if (folder / AUTOENCODER).is_file() else run_in(folder)
        if run is None:
            found.append(path)
            continue
        inside = [folder / name for name in run.autoencoders()]
        missing = [one.name for one in inside if not (one / AUTOENCODER).is_file()]
        if missing:
            raise InputError(f"{path}: expected a finished run, found none of its {missing[0]}; train goes on with it")
        found += inside
    return tuple(found)


def run_in(folder: Path) -> RunConfig | None:
    """The configuration of the run in a folder, on this machine's devices; None where there is no run.

    Raises
    ------
    InputError
        If the configuration of a run cannot be used.
    """
    file = folder / CONFIG
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    if not all(isinstance(settings.get(table), dict) for table in ("harvest", "reader", "sae", "train")):
        return None  # of something else
    settings["device"] = settings["harvest"]["device"] = "cpu"  # what trained it may be no device here
    try:
        return from_plain(RunConfig, settings)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def held_out(
    autoencoders: Sequence[Path],
    tokens: int | None,
    device: str,
    model: str | None = None,
    mesh: DeviceMesh | None = None,
) -> HeldOut:
    """Activations of documents that were kept from the runs of these autoencoders, harvested where they are missing.

    Parameters
    ----------
    autoencoders : sequence of Path
        Folders that `train` wrote.
    tokens : int, optional
        How many; by default `TOKENS`, or all that the documents hold.
    device : str
        Where the language model runs.
    model : str, optional
        The language model, where it is no longer where the run had it.
    mesh : torch.distributed.DeviceMesh, optional
        Processes that share the work.

    Raises
    ------
    InputError
        If they are of no run that harvested text, or of runs on different activations.
    """
    asked = {folder: _harvested(folder, device, model) for folder in autoencoders}
    first, wanted = next(iter(asked.items()))
    for folder, options in asked.items():
        other = "" if options == wanted else difference(_identity(wanted), _identity(options))
        if other:
            raise InputError(
                f"activations: expected a folder, found none, and {first} and {folder} were trained on different ones "
                f"({other})"
            )
    try:
        rows = harvested(wanted, SPLIT, tokens or TOKENS, True, mesh)
    except ShortTextError as short:
        if tokens is not None or not short.tokens:
            raise
        if leads():
            print(f"the documents held out have {short.tokens} tokens, all are judged")
        rows = harvested(wanted, SPLIT, short.tokens, True, mesh)
    return HeldOut(plan(_config(wanted), SPLIT, 1, wanted.cache).folder, rows, wanted.model)


def _harvested(folder: Path, device: str, model: str | None) -> HarvestOptions:
    """What the run of an autoencoder harvested."""
    place = folder.expanduser().resolve()
    run = run_in(place.parent)
    if run is None or run.activations is not None or place.name not in run.autoencoders():
        raise InputError(
            f"activations: expected a folder to judge {folder} on, found none; text is held out only by a run of train "
            "that harvested"
        )
    return replace(run.harvest, device=device, model=model or run.harvest.model, tokens=TOKENS)


def _config(options: HarvestOptions) -> HarvestConfig:
    """What is harvested; of pairs the inputs say which tokens are dropped."""
    return replace(options.config(), rows_of=None if options.target is None else options.site)


def _identity(options: HarvestOptions) -> dict[str, str]:
    """What tells activations apart."""
    return {**_config(options).provenance(SPLIT), "target": str(options.target)}
