"""The null for any claim about matching: swapped edges, every count kept."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_torch.activations.rows import Rows
from sae_torch.evaluation.metrics import batch_free
from sae_torch.sparse_coder import SparseCoder

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class EdgeSwapNull:
    """What is left when only the counts of tokens and features are kept.

    Parameters
    ----------
    nmse, total_score : float
        Figures of the matches as they are; the score is the sum of ``S_ij`` over the matches, per token.
    null_nmse, null_total_score : float
        Mean over the draws of the null.
    null_nmse_deviation, null_total_score_deviation : float
        Standard deviation over the draws.
    unmoved : float
        Mean share of the matches that a draw left where it was, for instance because a feature fires on every token.
    draws : int
        Number of draws.
    """

    nmse: float
    total_score: float
    null_nmse: float
    null_total_score: float
    null_nmse_deviation: float
    null_total_score_deviation: float
    unmoved: float
    draws: int


def swap_edges(tokens: Indices, features: Indices, n_features: int, rounds: int = 20, seed: int = 0) -> Indices:
    """Features of a random allocation with the same number of matches on every token and on every feature.

    ``(i, j), (k, l)  ->  (i, l), (k, j)``   where neither is a match already

    Each round pairs all matches at random and makes every swap that is possible.

    Parameters
    ----------
    tokens, features : (matches,) int64
        Token and feature of every match, no match twice.
    n_features : int
        Number of features.
    rounds : int
        Rounds of swaps; every match takes part in each.
    seed : int
        Seed of the pairing.

    Returns
    -------
    (matches,) int64
        The new feature of every match; the tokens stay.

    Examples
    --------
    >>> import numpy as np
    >>> swap_edges(np.array([0, 1]), np.array([0, 1]), n_features=2, rounds=1)
    array([1, 0])
    """
    draw = np.random.default_rng(seed)
    new = features.astype(np.int64).copy()
    half = len(new) // 2
    for _ in range(rounds):
        order = draw.permutation(len(new))
        one, two = order[:half], order[half : 2 * half]
        proposed = np.stack([tokens[one] * n_features + new[two], tokens[two] * n_features + new[one]])
        known, times = np.unique(proposed, return_counts=True)
        alone = (times == 1)[np.searchsorted(known, proposed)].all(axis=0)
        taken = np.isin(proposed, tokens * n_features + new).any(axis=0)
        swapped = alone & ~taken
        one, two = one[swapped], two[swapped]
        new[one], new[two] = new[two], new[one]
    return new


def edge_swap_null(
    sae: SparseCoder, activations: Rows, *, tokens: int = 2048, draws: int = 5, seed: int = 0
) -> EdgeSwapNull:
    """Compare the matches with random ones of the same counts.

    ``sum_ij S_ij A_ij`` and the NMSE of ``sum_j max(z_ij, 0) W_dec_j + b_dec`` over the matches, for `A` and for draws
    of the null

    A method that only decides how many features a token gets, and how many tokens a feature, but not which, would do
    no better than the null.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        The autoencoder; its batch-free matches are judged.
    activations : Rows
        Held-out activations.
    tokens : int
        How many of them, spread evenly.
    draws : int
        Random allocations, at least 1.
    seed : int
        Seed of the draws.

    Returns
    -------
    EdgeSwapNull
    """
    count = min(tokens, len(activations))
    rows = torch.linspace(0, len(activations) - 1, count, dtype=torch.float64).long()
    x, y = sae.sides_of(activations.gather(rows, sae.W_enc.dtype).to(sae.W_enc.device))
    variation = float((y.double() - y.double().mean(0)).square().sum())
    with batch_free(sae):
        scores = sae.scores(x)
        chosen, features = sae.choice.select(scores)

        def judged(new: torch.Tensor) -> tuple[float, float]:
            order = (chosen * sae.n_features + new).argsort()
            codes = sae.codes_at(x, scores, chosen[order], new[order])
            error = (y - sae.decode(codes, x)).double().square().sum()
            return float(error) / variation, float(scores[chosen, new].double().sum()) / count

        nmse, total = judged(features)
        figures, unmoved = [], []
        for draw in range(draws):
            swapped = swap_edges(chosen.cpu().numpy(), features.cpu().numpy(), sae.n_features, seed=seed + draw)
            new = torch.from_numpy(swapped).to(features)
            figures.append(judged(new))
            unmoved.append(float((new == features).double().mean()) if len(new) else 1.0)
    errors, totals = zip(*figures, strict=True)
    return EdgeSwapNull(
        nmse=nmse,
        total_score=total,
        null_nmse=statistics.fmean(errors),
        null_total_score=statistics.fmean(totals),
        null_nmse_deviation=statistics.pstdev(errors),
        null_total_score_deviation=statistics.pstdev(totals),
        unmoved=statistics.fmean(unmoved),
        draws=draws,
    )
