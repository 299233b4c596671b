"""Which features to show, and the text around their largest activations."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from sae_torch.activations.shards import Activations
from sae_torch.evaluation.metrics import Quality
from sae_torch.notebook import card


@dataclass(frozen=True)
class TokenContext:
    """One activation of a feature in its text.

    Parameters
    ----------
    before, token, after : str
        The text before the token, the token itself, the text after it.
    value : float
        Activation of the feature.
    document : str
        Name of the document.
    """

    before: str
    token: str
    after: str
    value: float
    document: str


@dataclass(frozen=True)
class FeatureContexts:
    """A feature, how often it fires, and where it is largest.

    Parameters
    ----------
    feature : int
        Index of the feature.
    rank : int
        Rank by density, from 1.
    density : float
        Share of tokens on which it fires.
    contexts : tuple of TokenContext
        Its largest activations, largest first.
    """

    feature: int
    rank: int
    density: float
    contexts: tuple[TokenContext, ...]

    def _repr_html_(self) -> str:
        told = f", rank {self.rank:,} by density, on {100 * self.density:.3g} % of the tokens"
        lines = (
            (f"{c.value:.3g}", f"{escape(c.before)}<mark>{escape(c.token)}</mark>{escape(c.after)}")
            for c in self.contexts
        )
        return card(f"Feature {self.feature}", told, lines)


def spread_features(quality: Quality, count: int) -> list[int]:
    """Features at ranks of density that are evenly spread on a log scale: no feature is picked by hand.

    Only features that fire at least as often as contexts are remembered take part; all of them where `count` allows.

    Parameters
    ----------
    quality : Quality
        Counts and remembered activations of the features.
    count : int
        Features asked for; equal ranks make fewer.

    Returns
    -------
    list of int
        Feature indices, the densest first.
    """
    order = quality.counts.argsort(descending=True, stable=True)
    alive = int((quality.counts >= quality.top_rows.shape[1]).sum())
    if count >= alive:
        return [int(feature) for feature in order[:alive]]
    ranks = torch.logspace(0, float(torch.tensor(alive).log10()), count + 2, dtype=torch.float64)[1:-1]
    chosen = torch.unique((ranks - 1).round().long().clamp(0, alive - 1))
    return [int(order[rank]) for rank in chosen]


def feature_contexts(
    quality: Quality, activations: Activations, tokenizer: Any, features: list[int], count: int = 5
) -> list[FeatureContexts]:
    """Text around the largest activations of some features.

    Parameters
    ----------
    quality : Quality
        Measured on `activations`.
    activations : Activations
        The same activations, whose shards hold the text.
    tokenizer : transformers tokenizer
        Tokenizer of the harvested model.
    features : list of int
        Indices of the features to show.
    count : int
        Contexts per feature, at most as many as `quality` remembers.

    Returns
    -------
    list of FeatureContexts
        In the order of `features`.
    """
    order = quality.counts.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    shown = []
    for feature in features:
        pairs = zip(quality.top_rows[feature].tolist(), quality.top_values[feature].tolist(), strict=True)
        contexts = [_context(activations, tokenizer, row, value) for row, value in pairs if row >= 0]
        shown.append(
            FeatureContexts(
                feature=feature,
                rank=int(rank[feature]),
                density=float(quality.densities[feature]),
                contexts=tuple(contexts[:count]),
            )
        )
    return shown


def _context(activations: Activations, tokenizer: Any, row: int, value: float) -> TokenContext:
    context = activations.context(row)
    ids, at = context.token_ids, context.index
    # prefixes are decoded from the start of the context, so that bytes of one character stay together
    before = tokenizer.decode(ids[:at])
    upto = tokenizer.decode(ids[: at + 1])
    whole = tokenizer.decode(ids)
    return TokenContext(before, upto[len(before) :], whole[len(upto) :], value, context.document)
