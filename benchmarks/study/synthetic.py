"""Activations made of known features that fire independently along a Zipf curve, and whether they are found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_torch.activations.shards import Shard

# A true feature counts as found from this cosine on.
FOUND = 0.9
CHUNK = 8192


@dataclass(frozen=True)
class Truth:
    """A model with known features.

    ::

        x = mean + sum_j b_j v_j d_j + noise,   b_j ~ Bernoulli(p_j),   v_j ~ U(1/2, 3/2),
        p_j proportional to (j + beta)^(-alpha)

    Parameters
    ----------
    d_model, n_features
        Width and number of true features; their directions are random.
    active
        Mean features per token, the sum of p.
    alpha, beta
        Of the curve.
    noise
        Standard deviation of the noise in every coordinate.
    seed
        Of the directions; far from those of runs, since equal seeds would start a dictionary at the truth.
    """

    d_model: int = 256
    n_features: int = 2048
    active: float = 16.0
    alpha: float = 1.0
    beta: float = 20.0
    noise: float = 0.01
    seed: int = 20_241_104

    @cached_property
    def directions(self) -> Tensor:
        """``(n_features, d_model)``, of norm 1."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.nn.functional.normalize(torch.randn(self.n_features, self.d_model, generator=generator), dim=1)

    @cached_property
    def densities(self) -> Tensor:
        """``(n_features,)``, how often each fires."""
        curve = (torch.arange(1, self.n_features + 1, dtype=torch.float64) + self.beta) ** -self.alpha
        return self.active * curve / curve.sum()

    def shard(self, tokens: int, seed: int) -> Shard:
        """Activations of independent tokens."""
        generator = torch.Generator().manual_seed(seed)
        mean = torch.randn(self.d_model, generator=torch.Generator().manual_seed(self.seed + 1)) / self.d_model**0.5
        parts = []
        for start in range(0, tokens, CHUNK):
            shape = (min(CHUNK, tokens - start), self.n_features)
            fires = torch.rand(shape, generator=generator) < self.densities
            values = torch.rand(shape, generator=generator).add_(0.5).mul_(fires)
            x = values @ self.directions + 2.0 * mean
            parts.append((x + self.noise * torch.randn(x.shape, generator=generator)).half())
        # every token is a window of its own
        each = torch.arange(tokens, dtype=torch.int32)
        ids, owners = torch.zeros(2, tokens, 1, dtype=torch.int32).unbind()
        header = {"documents": '["synthetic"]'}
        return Shard(torch.cat(parts), each, torch.zeros_like(each), ids.clone(), owners.clone(), header)


def against_truth(truth: Truth, rows: Tensor, densities: Tensor) -> dict[str, Any]:
    """How well decoder rows are the true features, each matched with at most one.

    ::

        maximise sum_jf cos(d_j, W_f) A_jf   subject to   every true feature and every row at most one match

    Parameters
    ----------
    truth
        The model.
    rows
        ``(features, d_model)`` decoder.
    densities
        ``(features,)``, how often each fires.

    Returns
    -------
    The mean cosine of the matches, the share of true features found, the same among the rarest quarter, and the mean
    factor by which frequencies of found features are off, as ``exp(mean |log ratio|) - 1``.
    """
    cosines = (truth.directions @ torch.nn.functional.normalize(rows.float(), dim=1).T).numpy()
    true, row = linear_sum_assignment(cosines, maximize=True)
    matched = cosines[true, row]
    found = matched >= FOUND
    rare = truth.densities.numpy()[true] <= np.quantile(truth.densities.numpy(), 0.25)
    fires = densities.double().numpy()[row]
    both = found & (fires > 0)
    off = np.abs(np.log(fires[both] / truth.densities.numpy()[true][both]))
    return {
        "matched_cosine": float(matched.sum() / truth.n_features),
        "recovered": float(found.sum() / truth.n_features),
        "recovered_rare": float((found & rare).sum() / max(rare.sum(), 1)),
        "frequency_error": float(np.expm1(off.mean())) if both.any() else None,
    }
