"""What is shown of single features."""

from __future__ import annotations

from dataclasses import dataclass

from sae_torch.activations.language_model import LanguageModel
from sae_torch.activations.shards import Activations
from sae_torch.evaluation.collapse import DecoderCosines
from sae_torch.evaluation.contexts import TokenContext, feature_contexts, spread_features
from sae_torch.evaluation.lens import logit_lens
from sae_torch.evaluation.metrics import Quality
from sae_torch.sparse_coder import SparseCoder


@dataclass(frozen=True)
class FeaturePage:
    """What is shown of one feature.

    Parameters
    ----------
    feature : int
        Index of the feature.
    rank : int
        Rank by density, from 1.
    density : float
        Share of the tokens on which it fires.
    nearest : int
        The feature with the closest decoder row.
    cosine : float
        Cosine with that row.
    promotes, suppresses : tuple of str
        Tokens by the logit lens, strongest first.
    contexts : tuple of TokenContext
        Where it is largest.
    """

    feature: int
    rank: int
    density: float
    nearest: int
    cosine: float
    promotes: tuple[str, ...]
    suppresses: tuple[str, ...]
    contexts: tuple[TokenContext, ...]


def feature_pages(
    sae: SparseCoder,
    quality: Quality,
    activations: Activations,
    language_model: LanguageModel,
    cosines: DecoderCosines,
    pages: int,
    contexts: int,
) -> tuple[FeaturePage, ...]:
    """Pages of features spread over the ranks of density.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        The autoencoder.
    quality : Quality
        Measured on `activations`.
    activations : Activations
        Held-out activations, whose shards hold the text.
    language_model : LanguageModel
        The model they come from.
    cosines : DecoderCosines
        Of the autoencoder's decoder.
    pages, contexts : int
        Features to show, and contexts of each.
    """
    features = spread_features(quality, pages)
    words = logit_lens(language_model, sae.W_dec, features)
    shown = feature_contexts(quality, activations, language_model.tokenizer, features, contexts)
    return tuple(
        FeaturePage(
            feature=one.feature,
            rank=one.rank,
            density=one.density,
            nearest=int(cosines.nearest[one.feature]),
            cosine=float(cosines.cosine[one.feature]),
            promotes=promotes,
            suppresses=suppresses,
            contexts=one.contexts,
        )
        for one, (promotes, suppresses) in zip(shown, words, strict=True)
    )
