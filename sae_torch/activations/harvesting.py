"""Harvest: text through a language model, activations of one site to shards on disk."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from sae_torch.activations.language_model import (
    SMOLLM2,
    LanguageModel,
    forward_dtype,
    load_language_model,
    model_provenance,
)
from sae_torch.activations.shards import Activations, Shard, read_shard, remove_leftovers, write_shard
from sae_torch.activations.sites import hidden_state, output_at
from sae_torch.activations.text import StateOfTheUnion, TextSource
from sae_torch.activations.windows import Windows, pack_windows
from sae_torch.errors import InputError

# raised when the same provenance gives other activations than before, so that old shards are not taken
_FORMAT = "1"


@dataclass(frozen=True)
class HarvestConfig:
    """What is harvested; everything that changes the activations.

    Parameters
    ----------
    model
        Model name, folder or GGUF file, see `load_language_model`.
    site
        Where activations are taken, see `sae_torch.activations.sites.resolve_site`.
    text
        Text source with splits.
    window
        Tokens per context window.
    seed
        Seed of the shuffle of the windows.
    norm_multiple
        Tokens whose norm exceeds this multiple of their shard's median norm are dropped.
    dtype
        Of the forward pass; None takes bfloat16 where the device has it, else float32.
    windows_per_shard
        Windows in one shard: the unit of resuming.
    windows_per_batch
        Windows in one forward pass.
    device
        Where the forward pass runs.
    """

    model: str = SMOLLM2
    site: str = "hidden_states[11]"
    text: TextSource = field(default_factory=StateOfTheUnion)
    window: int = 128
    seed: int = 0
    norm_multiple: float = 10.0
    dtype: torch.dtype | None = None
    windows_per_shard: int = 128
    windows_per_batch: int = 16
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("window", 2), ("windows_per_shard", 1), ("windows_per_batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not self.norm_multiple > 1:
            raise InputError(f"norm_multiple is {self.norm_multiple}, expected more than 1")

    def provenance(self, split: str) -> dict[str, str]:
        """Identity of the activations of one split, found without loading the model."""
        return {
            **model_provenance(self.model),
            **self.text.provenance,
            "site": self.site,
            "split": split,
            "window": str(self.window),
            "window_seed": str(self.seed),
            "windows_per_shard": str(self.windows_per_shard),
            "windows_per_batch": str(self.windows_per_batch),
            "dropped": f"position 0, norm above {self.norm_multiple:g} x median",
            "forward_dtype": str(self.dtype or forward_dtype(self.device)).removeprefix("torch."),
            "format": _FORMAT,
        }


@dataclass(frozen=True)
class HarvestPlan:
    """Where a harvest lies and how much of it is there.

    Parameters
    ----------
    folder
        Folder of the split's shards.
    tokens
        Tokens asked for.
    finished
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
        """Make the folder and clean it; before the model loads, so that a wrong folder costs no time.

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
            raise InputError(f"cache folder {self.folder} cannot be made ({error.strerror})") from error
        if not writable:
            raise InputError(f"cache folder {self.folder} cannot be written")


def cache_folder() -> Path:
    """``sae-allocation`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sae-allocation"


def plan(config: HarvestConfig, split: str, tokens: int, cache: Path | None = None) -> HarvestPlan:
    """Find the finished shards of a harvest; every one of them is checked.

    Raises
    ------
    CorruptShardError
        If a shard is damaged or comes from another harvest.
    """
    if tokens < 1:
        raise InputError(f"tokens is {tokens}, expected at least 1")
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

    Shards are written one by one, each atomically, so an interrupted harvest continues where it stopped
    and a later call with more tokens only adds shards. Activations are stored as float16; the model
    stops at the site.

    Parameters
    ----------
    config
        What is harvested.
    split
        ``"train"``, ``"dev"`` or ``"test"``.
    tokens
        Number of activations; the answer holds exactly these many.
    cache
        Cache folder; None takes `cache_folder()`.
    language_model
        A model that is already loaded; None loads it only if shards are missing.
    progress
        Whether to show a progress bar with tokens per second.

    Raises
    ------
    CorruptShardError
        If a finished shard is damaged.
    InputError
        If the split holds fewer tokens, the site does not exist, float16 cannot hold the activations, or the
        cache folder cannot be written.
    OSError
        If the disk is full.

    Examples
    --------
    >>> train = harvest(HarvestConfig(), "train", 250_000)  # doctest: +SKIP
    >>> train.tensor().shape  # doctest: +SKIP
    torch.Size([250000, 576])
    """
    found = plan(config, split, tokens, cache)
    if found.complete:
        return Activations(found.finished, tokens)
    found.prepare()
    if language_model is None:
        language_model = load_language_model(config.model, config.dtype, config.device)
    windows = pack_windows(language_model.tokenizer, config.text.documents(split), config.window, config.seed)
    header = {
        **config.provenance(split),
        "documents": json.dumps(windows.names),
        "code": _code_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    shards, rows = list(found.finished), found.tokens_finished
    per_shard = config.windows_per_shard * (config.window - 1)
    total = rows + per_shard * -(-(tokens - rows) // per_shard)
    with tqdm(
        total=total,
        initial=rows,
        desc=f"harvest {split}",
        unit=" tokens",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        while rows < tokens:
            start = len(shards) * config.windows_per_shard
            if start >= len(windows):
                raise InputError(
                    f"the {split} split holds {rows} tokens at {config.site}, expected at least the {tokens} asked for"
                )
            part = slice(start, start + config.windows_per_shard)
            path = _shard_path(found.folder, len(shards))
            write_shard(path, _harvest_shard(config, language_model, windows, part, header, bar))
            shards.append(read_shard(path, verify=False))
            rows += len(shards[-1])
    return Activations(tuple(shards), tokens)


def _harvest_shard(
    config: HarvestConfig,
    language_model: LanguageModel,
    windows: Windows,
    part: slice,
    header: dict[str, str],
    bar: tqdm[NoReturn],
) -> Shard:
    token_ids = windows.token_ids[part]
    found = []
    for batch in torch.split(token_ids, config.windows_per_batch):
        output = output_at(language_model.model, config.site, batch.to(language_model.device))
        found.append(hidden_state(output).to("cpu", torch.float32))
        bar.update(batch.shape[0] * (batch.shape[1] - 1))
    hidden = torch.cat(found)
    norms = hidden[:, 1:].norm(dim=-1)
    kept = torch.zeros(token_ids.shape, dtype=torch.bool)
    # not "norms <= ...": a NaN must reach the check below instead of leaving in silence
    kept[:, 1:] = ~(norms > config.norm_multiple * norms.median())
    window, position = kept.nonzero(as_tuple=True)
    stored = hidden[kept].to(torch.float16)
    if not torch.isfinite(stored).all():
        raise InputError(
            f"activations at {config.site} are not finite or reach {float(hidden[kept].abs().max()):.3g}, "
            "expected at most 65504 so that float16 can hold them; choose another site"
        )
    return Shard(
        activations=stored,
        window=window.to(torch.int32),
        position=position.to(torch.int32),
        token_ids=token_ids.clone(),
        documents=windows.documents[part].clone(),
        header=header,
    )


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


def _code_version() -> str:
    try:
        return f"sae-allocation {version('sae-allocation')}"
    except PackageNotFoundError:  # a source tree that is not installed
        return "sae-allocation (not installed)"
