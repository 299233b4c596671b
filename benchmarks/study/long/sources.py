"""Activations of the texts together: one harvest of four sites, of which runs read the first rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from benchmarks.study.long.texts import ADDRESSES, AUSTEN, BIBLE, PYTHON, WORDNET, Texts
from benchmarks.study.sources import Scale, read
from sae_torch.activations import Activations, HarvestConfig, LanguageModel, harvest_sites, load_language_model
from sae_torch.activations.harvesting import cache_folder, plan

MAIN_SITE, LARGE_NORMS = "hidden_states[11]", "hidden_states[6]"
MLP_IN, MLP_OUT = "model.layers.10.post_attention_layernorm", "model.layers.10.mlp"
SITES = (MAIN_SITE, LARGE_NORMS, MLP_IN, MLP_OUT)
FOUR_TEXTS = (ADDRESSES, BIBLE, AUSTEN, WORDNET)
MILLION = 1_000_000
LONG_SCALE = Scale(judged_tokens=80_000)


@dataclass(frozen=True)
class Mixture:
    """Texts, and how many of their tokens are trained on, each once."""

    texts: tuple[str, ...]
    tokens: int


FIVE, FIVE_SHORT, FOUR, FIFTH = "five texts", "five texts, 1 M", "four texts, 1 M", "python alone"
MIXTURES: Mapping[str, Mixture] = {
    FIVE: Mixture((*FOUR_TEXTS, PYTHON), 8_900_000),  # nearly all there is
    FIVE_SHORT: Mixture((*FOUR_TEXTS, PYTHON), MILLION),
    FOUR: Mixture(FOUR_TEXTS, MILLION),
    FIFTH: Mixture((PYTHON,), MILLION),
}


def source(mixture: str, site: str = MAIN_SITE) -> str:
    """The name of a source: a mixture and a site."""
    return f"{mixture}/{site}"


def mixture_of(name: str) -> Mixture:
    """The texts of a source."""
    return MIXTURES[name.partition("/")[0]]


@dataclass(frozen=True)
class LongSources:
    """Activations by the name of their source, harvested when first asked for and kept on disk.

    Parameters
    ----------
    scale
        How many are judged, and the batch; how many are trained on is the mixture's.
    texts
        Folder of the texts.
    cache
        Where activations are kept.
    """

    scale: Scale
    texts: Path
    cache: Path = field(default_factory=cache_folder)
    _means: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def language_model(self) -> LanguageModel:
        """Loaded once."""
        return load_language_model()

    @staticmethod
    def site(name: str) -> str:
        """Where in the language model a source is."""
        return name.partition("/")[2]

    def tokens(self, name: str, split: str, times: float = 1.0) -> int:
        """Activations of a split."""
        return round(times * (mixture_of(name).tokens if split == "train" else self.scale.judged_tokens))

    def config(self, name: str) -> HarvestConfig:
        """How a source is harvested: the main site decides which tokens are dropped, at every site the same."""
        texts = Texts(self.texts, mixture_of(name).texts)
        return HarvestConfig(site=self.site(name), text=texts, rows_of=MAIN_SITE)

    def folder(self, name: str, split: str, times: float = 1.0) -> Path:
        """Folder of the finished shards of a split."""
        config, tokens = self.config(name), self.tokens(name, split, times)
        if not plan(config, split, tokens, self.cache).complete:
            harvest_sites(config, SITES, split, tokens, self.cache, self.language_model, progress=True)
        return plan(config, split, tokens, self.cache).folder

    def activations(self, name: str, split: str) -> Activations:
        """Activations of a split."""
        return read(self.folder(name, split), self.tokens(name, split))

    def mean(self, name: str) -> Tensor:
        """Mean training activation."""
        if name not in self._means:
            self._means[name] = self.activations(name, "train").mean()
        return self._means[name]
