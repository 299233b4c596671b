"""What is measured of a trained autoencoder: batch-free, on activations that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
import sae_torch as st
from benchmarks.study.cell import Cell
from benchmarks.study.equal_l0 import at_equal_l0, at_one_price, with_choice
from benchmarks.study.sources import SYNTHETIC, Sources
from benchmarks.study.synthetic import against_truth
from sae_torch.activations import Activations
from sae_torch.evaluation import (
    Quality,
    batch_free,
    batch_sensitivity,
    decoder_cosines,
    edge_swap_null,
    measure,
    model_loss,
    token_difficulty,
)

# A feature is under-used below this share of the mean density k / n_features.
UNDER_USED = 0.1
SPECTRUM_POINTS = 25
# Batches of training whose tokens are allocated again in other batches.
MODE_BATCHES = 8


@dataclass(frozen=True)
class Judged:
    """A trained autoencoder and what it is judged on.

    Parameters
    ----------
    cell
        The run.
    sae
        In eval mode.
    sources
        Where activations come from.
    folder
        Where its weights lie, those in the middle of training too.
    """

    cell: Cell
    sae: st.SparseAutoencoder
    sources: Sources
    folder: Path | None = None

    @cached_property
    def activations(self) -> Activations:
        """The split it is judged on."""
        return self.sources.activations(self.cell.source, self.cell.split)

    @cached_property
    def quality(self) -> Quality:
        """As deployed."""
        return measure(self.sae, self.activations)

    @cached_property
    def at_k(self) -> tuple[st.SparseAutoencoder, float]:
        """At exactly k features per token."""
        return at_equal_l0(self.sae, self.activations)


def quality(judged: Judged) -> dict[str, Any]:
    """Error, features per token, and features that are dead or nearly so, with the trained thresholds."""
    found, cell = judged.quality, judged.cell
    tokens = torch.arange(len(found.histogram), dtype=torch.float64)
    spread = float((found.histogram * (tokens - found.l0).square()).sum() / found.n_tokens) ** 0.5
    few = UNDER_USED * cell.k / cell.n_features
    densities = of_features(judged, found.densities)
    silent = int((densities == 0).sum())
    return {
        "nmse": found.nmse,
        "l0": found.l0,
        "l0_spread": spread,
        "silent": silent,
        "under_used": int((densities < few).sum()) - silent,
    }


def of_features(judged: Judged, densities: Tensor) -> Tensor:
    """Densities of features, some of which are held as two directions."""
    return densities.view(-1, judged.cell.n_features).sum(dim=0)


def equal_l0(judged: Judged) -> dict[str, Any]:
    """Error where exactly k features per token fire on the judged activations."""
    sae, added = judged.at_k
    found = judged.quality if sae is judged.sae else measure(sae, judged.activations)
    silent = int((of_features(judged, found.densities) == 0).sum())
    return {"nmse_at_k": found.nmse, "l0_at_k": found.l0, "silent_at_k": silent, "threshold_added": added}


def spectrum(judged: Judged) -> dict[str, Any]:
    """Densities by rank, and the Zipf-Mandelbrot curve through them."""
    densities = judged.quality.densities.sort(descending=True).values.numpy()
    ranks = np.unique(np.geomspace(1, len(densities), SPECTRUM_POINTS).astype(int))
    fit = al.fit_zipf(densities)
    return {
        "spectrum": [[int(rank), float(densities[rank - 1])] for rank in ranks],
        "zipf": {"alpha": fit.alpha, "beta": fit.beta, "r_squared": fit.r_squared, "excluded": fit.excluded},
    }


def difficulty(judged: Judged) -> dict[str, Any]:
    """Features per token, at k features per token on average, for tenths of the tokens from easy to hard."""
    found = token_difficulty(judged.at_k[0], judged.activations)
    return {
        "difficulty": list(found.l0),
        "difficulty_error": list(found.difficulty),
        "difficulty_rank_correlation": found.correlation,
    }


def other_allocations(judged: Judged) -> dict[str, Any]:
    """Error of the same dictionary where every token has its best k features, and under mutual choice."""
    sae, activations = judged.sae, judged.activations
    equal = with_choice(sae, st.TokenChoice(judged.cell.k))
    return {
        "nmse_equal_tokens": measure(equal, activations).nmse,
        "nmse_one_price": measure(at_one_price(sae, activations), activations).nmse,
    }


def collapse(judged: Judged) -> dict[str, Any]:
    """Decoder rows that point the same way."""
    found = decoder_cosines(judged.sae.W_dec)
    return {
        "cosine_median": found.quantile(0.5),
        "cosine_highest_percent": found.quantile(0.99),
        "cosine_alike": found.alike,
        "cosine_mean_absolute": found.mean_absolute,
    }


def batch_modes(judged: Judged) -> dict[str, Any]:
    """The batch's allocation at half, once and four times the batch of training, shuffled and by document."""
    batch = judged.sources.scale.batch
    found = batch_sensitivity(
        judged.sae, judged.activations, batch_sizes=(batch // 2, batch, 4 * batch), tokens=MODE_BATCHES * batch
    )
    return {"batch_modes": [asdict(mode) for mode in found]}


def null(judged: Judged) -> dict[str, Any]:
    """Error and total score of the matches beside random ones with the same counts."""
    return {"null": asdict(edge_swap_null(judged.sae, judged.activations))}


def language_model_loss(judged: Judged) -> dict[str, Any]:
    """Cross-entropy of the language model with reconstructions at k features per token spliced in."""
    sources, source = judged.sources, judged.cell.source
    sae = judged.at_k[0]
    windows = judged.activations.windows(sources.scale.windows)

    def reconstructed(x: Tensor) -> Tensor:
        return sae(x).x_hat

    with batch_free(sae):
        found = model_loss(
            sources.language_model,
            sources.site(source),
            windows,
            sources.mean(source),
            {"sae": reconstructed},
        )
    return {
        "ce_recovered": found.recovered("sae"),
        "ce_recovered_from_mean": found.recovered("sae", "mean"),
        "ce_added": found.spliced["sae"] - found.clean,
    }


def truth(judged: Judged) -> dict[str, Any]:
    """Against the features that made the activations."""
    return against_truth(judged.sources.scale.truth, judged.sae.W_dec.detach(), judged.quality.densities)


@dataclass(frozen=True)
class Measure:
    """A measure, the figures it gives, and where it applies.

    Parameters
    ----------
    of
        What computes it.
    gives
        Names of its figures.
    splits
        On which it is taken.
    kind
        ``"model"`` where it needs the language model, ``"truth"`` where it needs known features, None for all sources.
    only
        Which runs have it besides.
    """

    of: Callable[[Judged], Mapping[str, Any]]
    gives: tuple[str, ...]
    splits: tuple[str, ...] = ("test",)
    kind: str | None = None
    only: Callable[[Cell], bool] = lambda cell: True

    def applies(self, cell: Cell) -> bool:
        """Whether a run has it."""
        fits = self.kind is None or (self.kind == "truth") == (cell.source == SYNTHETIC)
        return fits and cell.split in self.splits and self.only(cell)


MEASURES = (
    Measure(quality, ("nmse", "l0", "l0_spread", "silent", "under_used"), ("dev", "test")),
    Measure(equal_l0, ("nmse_at_k", "l0_at_k", "silent_at_k", "threshold_added"), ("dev", "test")),
    Measure(spectrum, ("spectrum", "zipf")),
    Measure(difficulty, ("difficulty", "difficulty_error", "difficulty_rank_correlation")),
    Measure(other_allocations, ("nmse_equal_tokens", "nmse_one_price")),
    Measure(collapse, ("cosine_median", "cosine_highest_percent", "cosine_alike", "cosine_mean_absolute")),
    Measure(batch_modes, ("batch_modes",), kind="model"),
    Measure(null, ("null",)),
    Measure(language_model_loss, ("ce_recovered", "ce_recovered_from_mean", "ce_added"), kind="model"),
    Measure(truth, ("matched_cosine", "recovered", "recovered_rare", "frequency_error"), kind="truth"),
)


def lacking(cell: Cell, figures: Mapping[str, Any], measures: tuple[Measure, ...] | None = None) -> list[Measure]:
    """Measures of a run, by default those of every study, that its figures do not hold."""
    return [
        measure
        for measure in measures or MEASURES
        if measure.applies(cell) and not all(name in figures for name in measure.gives)
    ]
