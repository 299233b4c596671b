"""Everything that is measured of one autoencoder, as plain numbers for a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import allocation as al
from sae_torch.activations.language_model import LanguageModel
from sae_torch.activations.rows import Rows
from sae_torch.activations.shards import Activations
from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.evaluation.batch_mode import BatchMode, batch_sensitivity
from sae_torch.evaluation.collapse import DecoderCosines, decoder_cosines
from sae_torch.evaluation.contexts import TokenContext
from sae_torch.evaluation.difficulty import Difficulty, token_difficulty
from sae_torch.evaluation.edge_swap import EdgeSwapNull, edge_swap_null
from sae_torch.evaluation.feature_pages import FeaturePage, feature_pages
from sae_torch.evaluation.metrics import Quality, measure
from sae_torch.evaluation.model_loss import ModelLoss


@dataclass(frozen=True)
class ZipfCurve:
    """Zipf-Mandelbrot curve through the densities, see `allocation.fit_zipf`."""

    alpha: float
    beta: float
    r_squared: float
    excluded: float
    densities: tuple[float, ...]


@dataclass(frozen=True)
class Cosines:
    """Cosine of every decoder row with the closest other one, see `DecoderCosines`."""

    median: float
    highest_percent: float
    alike: float
    mean_absolute: float
    histogram: tuple[float, ...]


@dataclass(frozen=True)
class ModelFigures:
    """Cross-entropy and divergence of the language model, see `ModelLoss`."""

    n_tokens: int
    ce_clean: float
    ce_spliced: float
    ce_mean: float
    ce_zero: float
    kl_spliced: float
    kl_mean: float
    kl_zero: float

    def recovered(self, baseline: str, of: str = "ce") -> float:
        """Share of what an ablation (``"zero"``, ``"mean"``) adds that the reconstruction avoids."""
        against: float = getattr(self, f"{of}_{baseline}")
        spliced: float = getattr(self, f"{of}_spliced")
        return (against - spliced) / (against - (self.ce_clean if of == "ce" else 0.0))


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one autoencoder; the parts that were not measured are None or empty.

    Parameters
    ----------
    name
        What it is called.
    choice, k
        Its choice and mean number of features per token.
    d_model, n_features, n_tokens
        Sizes.
    nmse, fvu, cosine, l0, dead, underused
        See `Quality`.
    counts
        Tokens on which each feature fires.
    histogram
        ``histogram[n]`` tokens have `n` features.
    zipf, cosines, batch_modes, difficulty, null, model
        See `ZipfCurve`, `Cosines`, `BatchMode`, `Difficulty`, `EdgeSwapNull`, `ModelFigures`.
    features
        Feature pages.
    curve
        Training loss over the tokens seen, two sequences, where it is known.
    """

    name: str
    choice: str
    k: float
    d_model: int
    n_features: int
    n_tokens: int
    nmse: float
    fvu: float
    cosine: float
    l0: float
    dead: int
    underused: int
    counts: tuple[int, ...]
    histogram: tuple[int, ...]
    zipf: ZipfCurve | None = None
    cosines: Cosines | None = None
    batch_modes: tuple[BatchMode, ...] = ()
    difficulty: Difficulty | None = None
    null: EdgeSwapNull | None = None
    model: ModelFigures | None = None
    features: tuple[FeaturePage, ...] = ()
    curve: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @classmethod
    def of(cls, name: str, sae: SparseAutoencoder, quality: Quality) -> Evaluation:
        """The figures that one pass over the activations gives."""
        return cls(
            name=name,
            choice=type(sae.choice).__name__,
            k=float(sae.choice.k),
            d_model=sae.d_model,
            n_features=sae.n_features,
            n_tokens=quality.n_tokens,
            nmse=quality.nmse,
            fvu=quality.fvu,
            cosine=quality.cosine,
            l0=quality.l0,
            dead=quality.dead,
            underused=quality.underused,
            counts=tuple(quality.counts.tolist()),
            histogram=tuple(quality.histogram.tolist()),
            zipf=_zipf(quality),
        )

    def with_model_loss(self, loss: ModelLoss) -> Evaluation:
        """With the figures of the language model, where `loss` knows the autoencoder by its name."""
        figures = ModelFigures(
            n_tokens=loss.n_tokens,
            ce_clean=loss.clean,
            ce_spliced=loss.spliced[self.name],
            ce_mean=loss.mean,
            ce_zero=loss.zero,
            kl_spliced=loss.kl[f"spliced {self.name}"],
            kl_mean=loss.kl["mean"],
            kl_zero=loss.kl["zero"],
        )
        return dataclasses.replace(self, model=figures)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `as_json` wrote.

        Raises
        ------
        KeyError, TypeError
            If the values are of something else.
        """
        given = dict(values)
        parts: dict[str, Any] = {"zipf": ZipfCurve, "cosines": Cosines, "difficulty": Difficulty}
        parts |= {"null": EdgeSwapNull, "model": ModelFigures}
        for name, part in parts.items():
            given[name] = None if given[name] is None else part(**_tuples(given[name]))
        given["batch_modes"] = tuple(BatchMode(**mode) for mode in given["batch_modes"])
        given["features"] = tuple(_page(page) for page in given["features"])
        return cls(**_tuples(given))


def evaluate(
    name: str,
    sae: SparseAutoencoder,
    activations: Rows,
    language_model: LanguageModel | None = None,
    *,
    batch_sizes: Sequence[int] = (256, 1024, 4096),
    batch_tokens: int = 16_384,
    null_tokens: int = 2048,
    pages: int = 200,
    contexts: int = 6,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Measure an autoencoder on held-out activations, all but the language model's loss.

    Batch-free quality (`measure`), the density spectrum with its fit, features against difficulty (`token_difficulty`),
    collapse (`decoder_cosines`), what the batch does (`batch_sensitivity`), the null of matching (`edge_swap_null`),
    and feature pages.

    Parameters
    ----------
    name
        What the autoencoder is called.
    sae
        The autoencoder; its mode and statistics stay as they are.
    activations
        Held-out activations, harvested ones if feature pages are to have contexts.
    language_model
        For the words of contexts and for the logit lens; None leaves feature pages out.
    batch_sizes, batch_tokens
        See `batch_sensitivity`; no sizes leave it out.
    null_tokens
        See `edge_swap_null`; 0 leaves it out.
    pages, contexts
        Feature pages, spread over the ranks of density, and contexts on each.
    seed
        Of the shuffle and the null.
    progress
        Whether to show progress bars.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> from sae_torch.activations import ArrayRows
    >>> sae = st.SparseAutoencoder(4, 16, choice=st.TokenChoice(k=2))
    >>> found = evaluate("untrained", sae, ArrayRows((torch.randn(500, 4).numpy(),)), batch_sizes=(100,))
    >>> found.l0 <= 2, found.batch_modes[0].agreement
    (True, 1.0)
    """
    quality = measure(sae, activations, top=contexts, progress=f"evaluate {name}" if progress else None)
    found = Evaluation.of(name, sae, quality)
    cosines = decoder_cosines(sae.W_dec) if sae.n_features > 1 else None
    shown: tuple[FeaturePage, ...] = ()
    if language_model is not None and isinstance(activations, Activations) and cosines is not None:
        shown = feature_pages(sae, quality, activations, language_model, cosines, pages, contexts)
    return dataclasses.replace(
        found,
        cosines=None if cosines is None else _cosine_figures(cosines),
        difficulty=token_difficulty(sae, activations),
        batch_modes=tuple(batch_sensitivity(sae, activations, batch_sizes=batch_sizes, tokens=batch_tokens, seed=seed)),
        null=edge_swap_null(sae, activations, tokens=null_tokens, seed=seed) if null_tokens else None,
        features=shown,
    )


def _zipf(quality: Quality) -> ZipfCurve | None:
    try:
        fit = al.fit_zipf(quality.densities)
    except al.InvalidProblemError:  # fewer than three features fire
        return None
    curve = sorted(fit.densities(quality.l0).tolist(), reverse=True)
    return ZipfCurve(fit.alpha, fit.beta, fit.r_squared, fit.excluded, tuple(curve))


def _cosine_figures(cosines: DecoderCosines) -> Cosines:
    histogram = torch.histc(cosines.cosine.clamp(0.0, 1.0), bins=50, min=0.0, max=1.0)
    return Cosines(
        median=cosines.quantile(0.5),
        highest_percent=cosines.quantile(0.99),
        alike=cosines.alike,
        mean_absolute=cosines.mean_absolute,
        histogram=tuple((histogram / histogram.sum()).tolist()),
    )


def _page(values: Mapping[str, Any]) -> FeaturePage:
    contexts = tuple(TokenContext(**context) for context in values["contexts"])
    return FeaturePage(**_tuples({**values, "contexts": contexts}))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(item) for item in value) if isinstance(value, list) else value

    return {name: frozen(value) for name, value in values.items()}
