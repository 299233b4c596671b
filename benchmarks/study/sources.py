"""Activations by the name of their source: a site of the language model, or the model with known features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from benchmarks.study.synthetic import Truth
from sae_torch.activations import Activations, HarvestConfig, LanguageModel, harvest, load_language_model
from sae_torch.activations.harvesting import cache_folder, plan
from sae_torch.activations.shards import read_shard, write_shard

SYNTHETIC = "synthetic"
SPLITS = ("train", "dev", "test")
# The usual bound would drop the sink tokens of this site, which it is there for.
NORM_MULTIPLES: Mapping[str, float] = {"hidden_states[6]": 1e4}


@dataclass(frozen=True)
class Scale:
    """How much is trained on and judged.

    Parameters
    ----------
    train_tokens
        Each seen once.
    judged_tokens
        Of the development and of the test split.
    batch
        Tokens per step.
    windows
        Windows of the test split on which the language model's loss is measured.
    truth
        The model behind ``"synthetic"``.
    """

    train_tokens: int = 400_000
    judged_tokens: int = 40_000
    batch: int = 2048
    windows: int = 32
    truth: Truth = field(default_factory=Truth)

    def tokens(self, split: str) -> int:
        """Activations of a split."""
        return self.train_tokens if split == "train" else self.judged_tokens


@dataclass(frozen=True)
class Sources:
    """Activations, made when first asked for and kept on disk.

    Parameters
    ----------
    scale
        How many.
    cache
        Where they are kept.
    """

    scale: Scale
    cache: Path = field(default_factory=cache_folder)
    _means: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def language_model(self) -> LanguageModel:
        """Loaded once."""
        return load_language_model()

    @staticmethod
    def site(source: str) -> str:
        """Where in the language model a source is."""
        return source

    def tokens(self, source: str, split: str, times: float = 1.0) -> int:
        """Activations of a split, with so many times the tokens of the scale."""
        del source
        return round(times * self.scale.tokens(split))

    def folder(self, source: str, split: str, times: float = 1.0) -> Path:
        """Folder of the finished shards of a split, with so many times the tokens of the scale."""
        tokens = self.tokens(source, split, times)
        if source == SYNTHETIC:
            return self._synthetic(split, tokens)
        config = _harvest(source)
        if not plan(config, split, tokens, self.cache).complete:
            harvest(config, split, tokens, self.cache, self.language_model, progress=True)
        return plan(config, split, tokens, self.cache).folder

    def activations(self, source: str, split: str) -> Activations:
        """Activations of a split."""
        return read(self.folder(source, split), self.tokens(source, split))

    def mean(self, source: str) -> Tensor:
        """Mean training activation."""
        if source not in self._means:
            self._means[source] = self.activations(source, "train").mean()
        return self._means[source]

    def _synthetic(self, split: str, tokens: int) -> Path:
        truth = self.scale.truth
        described = f"{truth.d_model}-{truth.n_features}-{truth.active:g}-{truth.alpha:g}-{truth.beta:g}"
        folder = self.cache / "activations" / f"synthetic-{described}-{truth.noise:g}-{truth.seed}-{split}-{tokens}"
        file = folder / "00000.safetensors"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_shard(file, truth.shard(tokens, seed=1000 + SPLITS.index(split)))
        return folder


def read(folder: Path, tokens: int) -> Activations:
    """The first activations in a folder of shards."""
    shards, held = [], 0
    for file in sorted(folder.glob("*.safetensors")):
        if held >= tokens:
            break
        shards.append(read_shard(file, verify=False))
        held += len(shards[-1])
    return Activations(tuple(shards), tokens)


def _harvest(source: str) -> HarvestConfig:
    multiple = NORM_MULTIPLES.get(source)
    return HarvestConfig(site=source) if multiple is None else HarvestConfig(site=source, norm_multiple=multiple)
