"""Harvest: text through a language model, activations of one site to shards on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sae_torch.activations.config import HarvestConfig
from sae_torch.activations.forward import require_length, shards_of
from sae_torch.activations.language_model import (
    LanguageModel,
    load_language_model,
)
from sae_torch.activations.pairs import Pairs
from sae_torch.activations.shards import Activations, Shard, read_shard, remove_leftovers, write_shard
from sae_torch.activations.window_parts import window_parts
from sae_torch.environment import code_version
from sae_torch.errors import InputError, ShortTextError
from sae_torch.parallel.ranked import workers_of
from sae_torch.parallel.world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class HarvestPlan:
    """Where a harvest lies, and how much of it is there.

    Parameters
    ----------
    folder : path
        Folder of the split's shards.
    tokens : int
        Tokens asked for.
    finished : tuple of Shard
        Activations in the finished shards, in order from the first.
    """

    folder: Path
    tokens: int
    finished: tuple[Shard, ...]

    @property
    def tokens_finished(self) -> int:
        """Rows in the finished shards."""
        return sum(map(len, self.finished))

    @property
    def complete(self) -> bool:
        """Whether the finished shards hold all tokens asked for."""
        return self.tokens_finished >= self.tokens

    def prepare(self) -> None:
        """Make the folder and clean it.

        Called before the model loads, so that a wrong folder costs no time.

        Raises
        ------
        InputError
            If it cannot be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            writable = os.access(self.folder, os.W_OK)
        except OSError as error:
            raise InputError(
                f"cache: expected a folder that can be made, found {self.folder} ({error.strerror})"
            ) from error
        if not writable:
            raise InputError(f"cache: expected a folder that can be written, found {self.folder}, which cannot")


def cache_folder() -> Path:
    """Where harvests lie: ``sae-allocation`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``).

    Examples
    --------
    >>> from sae_torch.activations import cache_folder
    >>> cache_folder().name
    'sae-allocation'
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sae-allocation"


def plan(config: HarvestConfig, split: str, tokens: int, cache: Path | None = None) -> HarvestPlan:
    """Find the finished shards of a harvest, and check every one of them.

    Parameters
    ----------
    config : HarvestConfig
        What is harvested.
    split : {"train", "dev", "test"}
        Of which documents.
    tokens : int
        Number of activations asked for, at least 1.
    cache : path, optional
        Cache folder; None takes `cache_folder()`.

    Returns
    -------
    HarvestPlan

    Raises
    ------
    CorruptShardError
        If a shard is damaged or comes from another harvest.
    InputError
        If `tokens` is below 1.

    Examples
    --------
    >>> from sae_torch.activations import HarvestConfig, plan
    >>> plan(HarvestConfig(), "train", 250_000).complete  # doctest: +SKIP
    False
    """
    if tokens < 1:
        raise InputError(f"tokens: expected at least 1, found {tokens}")
    provenance = config.provenance(split)
    identity = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:12]
    readable = "-".join(
        "".join(c if c.isalnum() else "-" for c in part).strip("-").lower()
        for part in (Path(config.model).name, config.site, split)
    )
    folder = (cache if cache is not None else cache_folder()) / "activations" / f"{readable}-{identity}"
    finished: list[Shard] = []
    rows = 0
    # shards are counted from the first without gaps, since the rows of a later one depend on those before it
    while rows < tokens and (path := _shard_path(folder, len(finished))).exists():
        finished.append(read_shard(path, expect=provenance))
        rows += len(finished[-1])
    return HarvestPlan(folder, tokens, tuple(finished))


def harvest(
    config: HarvestConfig,
    split: str,
    tokens: int,
    cache: Path | None = None,
    language_model: LanguageModel | None = None,
    progress: bool = False,
    mesh: DeviceMesh | None = None,
) -> Activations:
    """Activations of one split, from finished shards where there are any, the rest from the model.

    ``x_i = h(text)_i`` at the site, position 0 of each window and extreme norms left out.

    Shards are written one by one, each atomically: an interrupted harvest continues where it stopped, and a later call
    with more tokens only adds shards. The model stops at the site.

    Parameters
    ----------
    config : HarvestConfig
        What is harvested.
    split : {"train", "dev", "test"}
        Of which documents.
    tokens : int
        Number of activations; the answer holds exactly these many.
    cache : path, optional
        Cache folder; None takes `cache_folder()`.
    language_model : LanguageModel, optional
        A model that is already loaded; None loads it only if shards are missing.
    progress : bool
        Whether to show a progress bar with tokens per second.
    mesh : torch.distributed.DeviceMesh, optional
        Processes of `st.parallel.mesh` that share the work, and a cache folder: each passes other windows through a
        model of its own. The shards are those of one process, and each gets all of them.

    Returns
    -------
    Activations

    Raises
    ------
    CorruptShardError
        If a finished shard is damaged.
    InputError
        If the split holds fewer tokens, the site does not exist, the type in the shards cannot hold the
        activations, or the cache folder cannot be written.
    OSError
        If the disk is full.

    Examples
    --------
    >>> train = harvest(HarvestConfig(), "train", 250_000)  # doctest: +SKIP
    >>> train.tensor().shape  # doctest: +SKIP
    torch.Size([250000, 576])
    """
    return harvest_sites(config, (config.site,), split, tokens, cache, language_model, progress, mesh)[config.site]


def harvest_sites(
    config: HarvestConfig,
    sites: Sequence[str],
    split: str,
    tokens: int,
    cache: Path | None = None,
    language_model: LanguageModel | None = None,
    progress: bool = False,
    mesh: DeviceMesh | None = None,
) -> dict[str, Activations]:
    """Activations of several sites from one pass of the text through the model, as `harvest` gives those of one.

    Every site has shards of its own, the same as a harvest of it alone would write.

    Parameters
    ----------
    config : HarvestConfig
        What is harvested; its own site plays no part.
    sites : sequence of str
        Where activations are taken.
    split, tokens, cache, language_model, progress, mesh : as in harvest
        `tokens` is the number of activations at each site.

    Returns
    -------
    dict of str to Activations
        By site.

    Raises
    ------
    CorruptShardError, InputError, OSError
        As `harvest` does.

    Examples
    --------
    >>> sites = ("hidden_states[11]", "model.layers.10.mlp")
    >>> activations = harvest_sites(HarvestConfig(), sites, "train", 250_000)  # doctest: +SKIP
    """
    world = workers_of(mesh)

    def planned() -> dict[str, HarvestPlan]:
        return {site: plan(replace(config, site=site), split, tokens, cache) for site in dict.fromkeys(sites)}

    plans, _ = world.agreed(planned, len)
    incomplete = [each for each in plans.values() if not each.complete]
    world.same("cache", sum(len(each.finished) for each in plans.values()))
    world.require_alike("harvest", lambda: [tokens, *(sorted(config.provenance(split).items()))])
    if incomplete:

        def prepared() -> LanguageModel:
            if world.leads:
                for each in incomplete:
                    each.prepare()
                _require_space(incomplete)
            model = language_model or load_language_model(config.model, config.dtype, config.device)
            require_length(model, config.window)
            return model

        model, _ = world.agreed(prepared, lambda _: 0)
        plans = _harvest(config, plans, split, model, progress and world.leads, world)
    return {site: Activations(each.finished, tokens) for site, each in plans.items()}


def harvest_pairs(
    config: HarvestConfig,
    target: str,
    split: str,
    tokens: int,
    cache: Path | None = None,
    language_model: LanguageModel | None = None,
    progress: bool = False,
    mesh: DeviceMesh | None = None,
) -> Pairs:
    """Activations of the same tokens at two sites, from one pass: what a transcoder reads and what it computes.

    ``row_i = (x_i, y_i)``, position 0 of each window and extreme norms at the input's site left out.

    Each site has shards of its own. Those of the inputs are what `harvest` writes, so that autoencoders train on them
    and what is there already is not harvested again.

    Parameters
    ----------
    config : HarvestConfig
        What is harvested; its site is that of the inputs, and decides which tokens are dropped.
    target : str
        Site of the targets.
    split, tokens, cache, language_model, progress, mesh : as in harvest

    Returns
    -------
    Pairs

    Raises
    ------
    CorruptShardError, InputError, OSError
        As `harvest` does; InputError also if both sites are one.

    Examples
    --------
    >>> from sae_torch.activations import HarvestConfig, harvest_pairs
    >>> config = HarvestConfig(site="model.layers.10.post_attention_layernorm")
    >>> pairs = harvest_pairs(config, "model.layers.10.mlp", "train", 250_000)  # doctest: +SKIP
    """
    if target == config.site:
        raise InputError(f"target: expected another site than that of the inputs, found {target!r} for both")
    both = replace(config, rows_of=config.site)
    found = harvest_sites(both, (config.site, target), split, tokens, cache, language_model, progress, mesh)
    return Pairs(found[config.site], found[target])


def _harvest(
    config: HarvestConfig,
    plans: dict[str, HarvestPlan],
    split: str,
    language_model: LanguageModel,
    progress: bool,
    world: World,
) -> dict[str, HarvestPlan]:
    from tqdm import tqdm

    folders = [each.folder for each in plans.values()]
    windows = window_parts(config, split, language_model.tokenizer, folders, keep=world.leads)
    code = {"code": code_version(), "torch": torch.__version__, "transformers": version("transformers")}
    headers = {site: replace(config, site=site).provenance(split) | code for site in plans}
    per_shard = config.windows_per_shard * (config.window - 1)
    slowest = min(plans.values(), key=lambda each: each.tokens_finished)
    rows = slowest.tokens_finished
    total = rows + per_shard * -(-(slowest.tokens - rows) // per_shard)
    with tqdm(
        total=total,
        initial=rows,
        desc=f"harvest {split}",
        unit=" tokens",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        while lagging := {site: each for site, each in plans.items() if not each.complete}:
            # each process works on a shard of its own; those further on wait until it is known that they are needed
            first = min(len(each.finished) for each in lagging.values())
            own, shown = first + world.index, bar.n
            together = [site for site, each in lagging.items() if len(each.finished) <= own]

            def work(own: int = own, together: list[str] = together) -> dict[str, Shard]:
                part = windows.part(own) if together else None
                return {} if part is None else shards_of(config, together, language_model, part, headers, bar)

            shards, made = world.agreed(work, lambda made: int(bool(made)))
            if not made[0]:
                world.agreed(partial(_refuse_more, lagging, split, windows.ended), lambda _: 0)
            bar.update((bar.n - shown) * (world.count - 1))
            for rank in range(world.count):
                if made[rank]:  # none where the text has ended, or every site has that shard
                    plans = _kept(plans, first + rank, shards if rank == world.index else None, world)
            _require_space(list(plans.values()))
    return plans


def _refuse_more(lagging: dict[str, HarvestPlan], split: str, ended: str) -> None:
    """The error of a harvest that asks for more than there is."""
    site, short = min(lagging.items(), key=lambda pair: len(pair[1].finished))
    raise ShortTextError(
        f"tokens: expected at most what the {split} split holds, {short.tokens_finished} tokens at {site}, found "
        f"{short.tokens}"
        + (f"; {ended}, which ends a mixture" if ended else "")
        + ("; training can see each several times (reader.passes)" if split == "train" and not ended else ""),
        short.tokens_finished,
    )


def _kept(
    plans: dict[str, HarvestPlan], index: int, shards: dict[str, Shard] | None, world: World
) -> dict[str, HarvestPlan]:
    """The plans with one more shard, which one process has made, at every site that still needs it."""
    needed = [site for site, each in plans.items() if not each.complete and len(each.finished) == index]

    def write() -> None:
        for site in needed if shards is not None else ():
            assert shards is not None
            write_shard(_shard_path(plans[site].folder, index), shards[site])

    world.agreed(write, lambda _: 0)
    plans = dict(plans)
    for site in needed:
        shard = read_shard(_shard_path(plans[site].folder, index), verify=False)
        plans[site] = replace(plans[site], finished=(*plans[site].finished, shard))
    return plans


def _require_space(plans: Sequence[HarvestPlan]) -> None:
    """Require room for what is still to come; the first shard tells how large it is."""
    needed = 0
    for each in plans:
        if each.finished:
            bytes_per_row = each.finished[0].activations[0].nbytes
            needed += (each.tokens - each.tokens_finished) * bytes_per_row
    free = shutil.disk_usage(plans[0].folder).free
    if needed > free:
        raise InputError(
            f"cache: expected {needed / 1e9:.2f} GB free for the activations asked for, found {free / 1e9:.2f} GB in "
            f"{plans[0].folder}"
        )


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"
