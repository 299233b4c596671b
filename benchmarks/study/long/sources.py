"""Activations of the texts together: one harvest of which runs read the first rows, at four sites up to a million."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.study.long.texts import ADDRESSES, AUSTEN, BIBLE, PYTHON, WORDNET, Texts
from benchmarks.study.sources import Scale, Sources
from sae_torch.activations import HarvestConfig, harvest_sites
from sae_torch.activations.harvesting import cache_folder, plan

MAIN_SITE, LARGE_NORMS = "hidden_states[11]", "hidden_states[6]"
MLP_IN, MLP_OUT = "model.layers.10.post_attention_layernorm", "model.layers.10.mlp"
SITES = (MAIN_SITE, LARGE_NORMS, MLP_IN, MLP_OUT)
FOUR_TEXTS = (ADDRESSES, BIBLE, AUSTEN, WORDNET)
MILLION = 1_000_000
LONG_SCALE = Scale(judged_tokens=80_000)


@dataclass(frozen=True)
class Mixture:
    """Texts, and how many of their tokens are trained on, each once; of those held out at most so many are judged."""

    texts: tuple[str, ...]
    tokens: int
    judged: int = LONG_SCALE.judged_tokens


FIVE, FIVE_SHORT, FOUR, FIFTH = "five texts", "five texts, 1 M", "four texts, 1 M", "python alone"
MIXTURES: Mapping[str, Mixture] = {
    FIVE: Mixture((*FOUR_TEXTS, PYTHON), 8_900_000),  # nearly all there is
    FIVE_SHORT: Mixture((*FOUR_TEXTS, PYTHON), MILLION),
    FOUR: Mixture(FOUR_TEXTS, MILLION),
    FIFTH: Mixture((PYTHON,), MILLION, judged=45_000),  # of one text alone hardly more is held out
}


def source(mixture: str, site: str = MAIN_SITE) -> str:
    """The name of a source: a mixture and a site."""
    return f"{mixture}/{site}"


def mixture_of(name: str) -> Mixture:
    """The texts of a source."""
    return MIXTURES[name.partition("/")[0]]


@dataclass(frozen=True)
class LongSources(Sources):
    """Activations of mixtures: how many are trained on is the mixture's, not the scale's.

    Parameters
    ----------
    texts
        Folder of the texts.
    """

    texts: Path = field(default_factory=lambda: cache_folder() / "texts")

    @staticmethod
    def site(source: str) -> str:
        """Where in the language model a source is."""
        return source.partition("/")[2]

    def tokens(self, source: str, split: str, times: float = 1.0) -> int:
        """Activations of a split."""
        mixture = mixture_of(source)
        return round(times * (mixture.tokens if split == "train" else min(self.scale.judged_tokens, mixture.judged)))

    def config(self, source: str) -> HarvestConfig:
        """How a source is harvested: the main site decides which tokens are dropped, at every site the same."""
        texts = Texts(self.texts, mixture_of(source).texts)
        return HarvestConfig(site=self.site(source), text=texts, rows_of=MAIN_SITE)

    def folder(self, source: str, split: str, times: float = 1.0) -> Path:
        """Folder of the finished shards of a split."""
        config, tokens = self.config(source), self.tokens(source, split, times)
        if not plan(config, split, tokens, self.cache).complete:
            # all tokens are used at the main site alone, and four sites of them are 41 GB
            sites = SITES if tokens <= MILLION else (config.site,)
            harvest_sites(config, sites, split, tokens, self.cache, self.language_model, progress=True)
        return plan(config, split, tokens, self.cache).folder
