"""Who gets the features: the number on a token against how hard it is to reconstruct."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sae_torch.activations.rows import Rows
from sae_torch.choices.token import TokenChoice
from sae_torch.evaluation.metrics import batch_free
from sae_torch.sparse_coder import SparseCoder

GROUPS = 10


@dataclass(frozen=True)
class Difficulty:
    """Tokens in ten equal groups, the easiest first.

    Parameters
    ----------
    k : int
        Features that every token gets where difficulty is measured.
    difficulty : tuple of float
        Mean squared error of each group when every token gets its best k features, over the tokens' mean squared
        distance from their mean.
    l0 : tuple of float
        Mean number of features on the tokens of each group.
    error : tuple of float
        Mean squared error of each group as the autoencoder runs, over the same distance.
    correlation : float or None
        Spearman's rank correlation of difficulty and number of features; None if all tokens have the same number.
    """

    k: int
    difficulty: tuple[float, ...]
    l0: tuple[float, ...]
    error: tuple[float, ...]
    correlation: float | None


def token_difficulty(
    sae: SparseCoder, activations: Rows, *, tokens: int | None = None, batch_size: int = 2048
) -> Difficulty:
    """Compare the number of features on a token with how hard the token is.

    ``d_i = ||x_i - (reconstruction from its k best features)||^2``, `k` the same for every token

    Difficulty is measured with an equal share for every token, so that it does not depend on what the choice gave it.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        The autoencoder; it is put in evaluation mode and back.
    activations : Rows
        Held-out activations.
    tokens : int, optional
        How many of them, the first; None takes all.
    batch_size : int
        Tokens per forward pass.

    Returns
    -------
    Difficulty
    """
    count = len(activations) if tokens is None else min(tokens, len(activations))
    # half of 2.5 is 3 here, and at least 1
    equal = TokenChoice(max(1, math.floor(sae.choice.k + 0.5)))
    found: list[list[torch.Tensor]] = [[], [], []]
    total = torch.zeros(sae.d_out, dtype=torch.float64)
    squares = 0.0
    with batch_free(sae):
        for start in range(0, count, batch_size):
            rows = torch.arange(start, min(start + batch_size, count))
            x, y = sae.sides_of(activations.gather(rows, sae.W_enc.dtype).to(sae.W_enc.device))
            scores = sae.scores(x)
            same = sae.codes_at(x, scores, *equal.select(scores))
            own = sae.codes_at(x, scores, *sae.choice.select(scores))
            found[0].append((y - sae.decode(same, x)).double().square().sum(1))
            found[1].append(torch.bincount(own.tokens[own.values > 0], minlength=len(rows)).double())
            found[2].append((y - sae.decode(own, x)).double().square().sum(1))
            total += y.double().sum(0).cpu()
            squares += float(y.double().square().sum())
    hard, features, error = (torch.cat(part).cpu().numpy() for part in found)
    variance = (squares - float(total.square().sum()) / count) / count
    groups = np.array_split(np.argsort(hard, kind="stable"), min(GROUPS, count))
    return Difficulty(
        k=int(equal.k),
        difficulty=tuple(float(hard[group].mean() / variance) for group in groups),
        l0=tuple(float(features[group].mean()) for group in groups),
        error=tuple(float(error[group].mean() / variance) for group in groups),
        correlation=_rank_correlation(hard, features),
    )


def _rank_correlation(one: np.ndarray, two: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(spearmanr(one, two).statistic)
