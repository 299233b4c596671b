"""Everything that is measured of one autoencoder, as plain numbers for a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import allocation as al
from sae_torch.activations.language_model import LanguageModel
from sae_torch.activations.pairs import Pairs
from sae_torch.activations.rows import Rows
from sae_torch.activations.shards import Activations
from sae_torch.evaluation.batch_mode import BatchMode, batch_sensitivity
from sae_torch.evaluation.collapse import DecoderCosines, decoder_cosines
from sae_torch.evaluation.contexts import TokenContext
from sae_torch.evaluation.dashboard.dashboard import write_dashboard
from sae_torch.evaluation.difficulty import Difficulty, token_difficulty
from sae_torch.evaluation.edge_swap import EdgeSwapNull, edge_swap_null
from sae_torch.evaluation.feature_pages import FeaturePage, feature_pages
from sae_torch.evaluation.metrics import Quality, measure
from sae_torch.evaluation.model_loss import ModelLoss
from sae_torch.sparse_coder import SparseCoder


@dataclass(frozen=True)
class ZipfCurve:
    """Zipf-Mandelbrot curve through the densities, see `allocation.fit_zipf`.

    Parameters
    ----------
    alpha, beta : float
        Exponent and offset of the curve.
    r_squared : float
        Share of the variance of the log densities that it explains.
    excluded : float
        Share of the features that the fit leaves out.
    densities : tuple of float
        The curve, one density per feature, the largest first.
    """

    alpha: float
    beta: float
    r_squared: float
    excluded: float
    densities: tuple[float, ...]


@dataclass(frozen=True)
class Cosines:
    """Cosine of every decoder row with the closest other one, see `DecoderCosines`.

    Parameters
    ----------
    median, highest_percent : float
        Quantiles of the cosine at 0.5 and 0.99.
    alike : float
        Share of the rows with another one at a cosine above 0.9.
    mean_absolute : float
        Mean of the absolute cosine over all pairs.
    histogram : tuple of float
        Shares of the rows in 50 equal bins of the cosine from 0 to 1, negative cosines counted as 0.
    """

    median: float
    highest_percent: float
    alike: float
    mean_absolute: float
    histogram: tuple[float, ...]


@dataclass(frozen=True)
class ModelFigures:
    """Cross-entropy and divergence of the language model in nats per token, see `ModelLoss`.

    Parameters
    ----------
    n_tokens : int
        Predicted tokens.
    ce_clean, ce_spliced, ce_mean, ce_zero : float
        Cross-entropy with the model's own activations, the reconstructions, the mean activation, zeros.
    kl_spliced, kl_mean, kl_zero : float
        Divergence of the predictions from the clean ones.
    """

    n_tokens: int
    ce_clean: float
    ce_spliced: float
    ce_mean: float
    ce_zero: float
    kl_spliced: float
    kl_mean: float
    kl_zero: float

    def recovered(self, baseline: str, of: str = "ce") -> float:
        """Share of what an ablation adds that the reconstruction avoids.

        Parameters
        ----------
        baseline : {"zero", "mean"}
            The ablation.
        of : {"ce", "kl"}
            Cross-entropy or divergence.
        """
        against: float = getattr(self, f"{of}_{baseline}")
        spliced: float = getattr(self, f"{of}_spliced")
        return (against - spliced) / (against - (self.ce_clean if of == "ce" else 0.0))


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one autoencoder; the parts that were not measured are None or empty.

    Parameters
    ----------
    name : str
        Name of the autoencoder in tables and on pages.
    choice : str
        Class of its choice.
    k : float
        Mean number of features per token that it was made for.
    d_model, n_features, n_tokens : int
        Width, number of features, number of tokens it was measured on.
    nmse, fvu, cosine, l0 : float
        See `Quality`.
    dead, underused : int
        See `Quality`.
    counts : tuple of int
        Tokens on which each feature fires.
    histogram : tuple of int
        ``histogram[n]`` tokens have `n` features.
    zipf : ZipfCurve, optional
        Curve through the densities, where at least three features fire.
    cosines : Cosines, optional
        How close the decoder rows lie to each other.
    batch_modes : tuple of BatchMode
        What the batch does.
    difficulty : Difficulty, optional
        Features against the difficulty of tokens.
    null : EdgeSwapNull, optional
        The null of matching.
    model : ModelFigures, optional
        Loss of the language model.
    features : tuple of FeaturePage
        Feature pages.
    curve : (tuple of float, tuple of float), optional
        Tokens seen, and the training loss there, where it is known.
    dashboard : path, optional
        File with the pages of all features, see `write_dashboard`.
    variant : str, optional
        What tells its choice apart from others of its class, see `Choice.in_words`; files of before do not say.
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
    dashboard: Path | None = None
    variant: str | None = None

    @classmethod
    def of(cls, name: str, sae: SparseCoder, quality: Quality) -> Evaluation:
        """The figures that one pass over the activations gives.

        Parameters
        ----------
        name : str
            Name of the autoencoder.
        sae : SparseAutoencoder or Transcoder
            The autoencoder.
        quality : Quality
            What `measure` gave.
        """
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
            variant=sae.choice.in_words(),
        )

    def with_model_loss(self, loss: ModelLoss) -> Evaluation:
        """The same evaluation with the figures of the language model, which `loss` holds under its name."""
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
        return dataclasses.asdict(self) | {"dashboard": None if self.dashboard is None else self.dashboard.as_posix()}

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
        given["dashboard"] = None if given.get("dashboard") is None else Path(given["dashboard"])
        return cls(**_tuples(given))


def evaluate(
    name: str,
    sae: SparseCoder,
    activations: Rows,
    language_model: LanguageModel | None = None,
    *,
    batch_sizes: Sequence[int] = (256, 1024, 4096),
    batch_tokens: int = 16_384,
    null_tokens: int = 2048,
    pages: int = 200,
    contexts: int = 6,
    dashboard: Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Measure an autoencoder on held-out activations, all but the language model's loss.

    Batch-free quality (`measure`), the density spectrum with its fit, features against difficulty (`token_difficulty`),
    collapse (`decoder_cosines`), what the batch does (`batch_sensitivity`), the null of matching (`edge_swap_null`),
    and feature pages.

    Parameters
    ----------
    name : str
        Name of the autoencoder in tables and on pages.
    sae : SparseAutoencoder or Transcoder
        The autoencoder; its mode and statistics stay as they are.
    activations : Rows
        Held-out activations, harvested ones if feature pages are to have contexts.
    language_model : LanguageModel, optional
        Model for the words of contexts and for the logit lens; None leaves feature pages out.
    batch_sizes : sequence of int
        See `batch_sensitivity`; none leave it out.
    batch_tokens : int
        Tokens for it.
    null_tokens : int
        Tokens for `edge_swap_null`; 0 leaves it out.
    pages, contexts : int
        Feature pages, spread over the ranks of density, and contexts on each: those that the evaluation holds itself.
    dashboard : path, optional
        File to write the pages of all features to, see `write_dashboard`; None writes none.
    seed : int
        Seed of the shuffle and of the null.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If the activations do not have the autoencoder's width, or do not vary.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> from sae_torch.activations import ArrayRows
    >>> sae = st.SparseAutoencoder(4, 16, choice=st.TokenChoice(k=2))
    >>> evaluation = evaluate("untrained", sae, ArrayRows((torch.randn(500, 4).numpy(),)), batch_sizes=(100,))
    >>> evaluation.l0 <= 2, evaluation.batch_modes[0].agreement
    (True, 1.0)
    """
    quality = measure(sae, activations, top=contexts, progress=f"evaluate {name}" if progress else None)
    evaluation = Evaluation.of(name, sae, quality)
    cosines = decoder_cosines(sae.W_dec) if sae.n_features > 1 else None
    shown: tuple[FeaturePage, ...] = ()
    written: Path | None = None
    read = activations.inputs if isinstance(activations, Pairs) else activations
    if language_model is not None and isinstance(read, Activations):
        if cosines is not None:
            shown = feature_pages(sae, quality, read, language_model, cosines, pages, contexts)
        if dashboard is not None:
            label = f"features {name}" if progress else None
            write_dashboard(dashboard, sae, quality, read, language_model, progress=label)
            written = dashboard
    return dataclasses.replace(
        evaluation,
        cosines=None if cosines is None else _cosine_figures(cosines),
        difficulty=token_difficulty(sae, activations),
        batch_modes=tuple(batch_sensitivity(sae, activations, batch_sizes=batch_sizes, tokens=batch_tokens, seed=seed)),
        null=edge_swap_null(sae, activations, tokens=null_tokens, seed=seed) if null_tokens else None,
        features=shown,
        dashboard=written,
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
    """The values with tuples for lists, since JSON knows lists only."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(item) for item in value) if isinstance(value, list) else value

    return {name: frozen(value) for name, value in values.items()}
