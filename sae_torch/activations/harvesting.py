"""Harvest: text through a language model, activations of one site to shards on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from sae_torch.activations.beginning import beginning
from sae_torch.activations.config import HarvestConfig
from sae_torch.activations.forward import require_length, shards_of
from sae_torch.activations.language_model import (
    LanguageModel,
    load_language_model,
)
from sae_torch.activations.shards import Activations, Shard, read_shard, remove_leftovers, write_shard
from sae_torch.activations.windows import pack_windows
from sae_torch.environment import code_version
from sae_torch.errors import InputError


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
    return harvest_sites(config, (config.site,), split, tokens, cache, language_model, progress)[config.site]


def harvest_sites(
    config: HarvestConfig,
    sites: Sequence[str],
    split: str,
    tokens: int,
    cache: Path | None = None,
    language_model: LanguageModel | None = None,
    progress: bool = False,
) -> dict[str, Activations]:
    """Activations of several sites from one pass of the text through the model, as `harvest` gives those of one.

    Every site has shards of its own, the same as a harvest of it alone would write.

    Parameters
    ----------
    config : HarvestConfig
        What is harvested; its own site plays no part.
    sites : sequence of str
        Where activations are taken.
    split, tokens, cache, language_model, progress : as in `harvest`
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
    plans = {site: plan(replace(config, site=site), split, tokens, cache) for site in dict.fromkeys(sites)}
    incomplete = [each for each in plans.values() if not each.complete]
    if incomplete:
        for each in incomplete:
            each.prepare()
        _require_space(incomplete)
        if language_model is None:
            language_model = load_language_model(config.model, config.dtype, config.device)
        require_length(language_model, config.window)
        plans = _harvest(config, plans, split, language_model, progress)
    return {site: Activations(each.finished, tokens) for site, each in plans.items()}


def _harvest(
    config: HarvestConfig, plans: dict[str, HarvestPlan], split: str, language_model: LanguageModel, progress: bool
) -> dict[str, HarvestPlan]:
    from tqdm import tqdm

    begin = beginning(language_model.tokenizer, config.begins)
    windows = pack_windows(language_model.tokenizer, config.text.documents(split), config.window, config.seed, begin)
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
            index = min(len(each.finished) for each in lagging.values())
            together = [site for site, each in lagging.items() if len(each.finished) == index]
            start = index * config.windows_per_shard
            if start >= len(windows):
                short = plans[together[0]]
                raise InputError(
                    f"tokens: expected at most what the {split} split holds, {short.tokens_finished} tokens at "
                    f"{together[0]}, found {short.tokens}"
                )
            part = slice(start, start + config.windows_per_shard)
            shards = shards_of(config, together, language_model, windows, part, headers, bar)
            for site, shard in shards.items():
                path = _shard_path(plans[site].folder, index)
                write_shard(path, shard)
                finished = (*plans[site].finished, read_shard(path, verify=False))
                plans[site] = replace(plans[site], finished=finished)
            _require_space(list(plans.values()))
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
