"""Quality of an autoencoder on held-out activations, in batch-free mode."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_torch.activations.rows import Rows
from sae_torch.errors import InputError
from sae_torch.evaluation.sides import reconstruction, require_width, sides, takes_pairs
from sae_torch.plain_numbers import whole
from sae_torch.sparse_coder import SparseCoder


@dataclass(frozen=True)
class Quality:
    """How an autoencoder does on a set of activations.

    Parameters
    ----------
    nmse : float
        ``sum ||x - x_hat||^2 / sum ||x - mean(x)||^2`` over all tokens, the two sums taken separately.
    counts : (n_features,) int64
        Tokens on which each feature fires.
    histogram : (most + 1,) int64
        ``histogram[n]`` is the number of tokens with `n` features, up to the most that a token has.
    top_rows : (n_features, top) int64
        Rows of the activations on which each feature is largest, -1 where it fires on fewer; ties go to the smaller
        row.
    top_values : (n_features, top) float32
        Its activations there.
    fvu : float
        Fraction of variance unexplained, ``sum ||e - mean(e)||^2 / sum ||x - mean(x)||^2`` with ``e = x - x_hat``: the
        NMSE without what a constant shift would mend.
    cosine : float
        Mean over the tokens of the cosine between ``x`` and ``x_hat``, 0 where one of them is zero.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> from sae_torch.activations import ArrayRows
    >>> from sae_torch.evaluation import measure
    >>> sae = st.SparseAutoencoder(4, 16, choice=st.TokenChoice(k=2))
    >>> quality = measure(sae, ArrayRows((torch.randn(500, 4).numpy(),)))
    >>> quality.n_tokens, quality.l0 <= 2
    (500, True)
    """

    nmse: float
    counts: Tensor
    histogram: Tensor
    top_rows: Tensor
    top_values: Tensor
    fvu: float = math.nan
    cosine: float = math.nan

    @property
    def n_tokens(self) -> int:
        """Tokens it was measured on."""
        return int(self.histogram.sum())

    @property
    def l0(self) -> float:
        """Mean number of features per token."""
        return int(self.counts.sum()) / self.n_tokens

    @property
    def densities(self) -> Tensor:
        """``(n_features,)`` float64, share of the tokens on which each feature fires."""
        return self.counts.double() / self.n_tokens

    @property
    def dead(self) -> int:
        """Number of features that never fire on these tokens."""
        return int((self.counts == 0).sum())

    @property
    def underused(self) -> int:
        """Number of features that fire less than a tenth as often as the mean feature, dead ones included."""
        return int((self.counts < self.counts.double().mean() / 10).sum()) if self.l0 > 0 else len(self.counts)


@contextlib.contextmanager
def batch_free(sae: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients while the context lasts; the mode is restored afterwards.

    Examples
    --------
    >>> from torch import nn
    >>> from sae_torch.evaluation import batch_free
    >>> layer = nn.Linear(2, 2)
    >>> with batch_free(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    training = sae.training
    sae.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        sae.train(training)


def measure(
    sae: SparseCoder,
    activations: Rows,
    *,
    batch_size: int = 2048,
    top: int = 8,
    progress: str | None = None,
) -> Quality:
    """Measure an autoencoder on held-out activations, one token at a time as it would be deployed.

    ``NMSE = sum_i ||x_i - x_hat_i||^2 / sum_i ||x_i - mean(x)||^2``

    Sums are in float64, so the batch size does not matter.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        The autoencoder; it is put in evaluation mode and back.
    activations : Rows
        Held-out activations; for a transcoder `Pairs`, whose targets take the part of `x` in all figures.
    batch_size : int
        Tokens per forward pass.
    top : int
        Largest activations to remember per feature.
    progress : str, optional
        Label of a progress bar; None shows none.

    Returns
    -------
    Quality
        In main memory.

    Raises
    ------
    InputError
        If the activations do not have the autoencoder's width, hold NaN or infinite values, or do not vary.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> from sae_torch.activations import ArrayRows
    >>> sae = st.SparseAutoencoder(4, 16, choice=st.TokenChoice(k=2))
    >>> measure(sae, ArrayRows((torch.randn(500, 4).numpy(),)), top=3).top_rows.shape
    torch.Size([16, 3])
    """
    from tqdm import tqdm

    batch_size, top = whole("batch_size", batch_size), whole("top", top, 0)
    if not hasattr(activations, "d_model"):
        raise InputError(f"activations: expected rows such as ArrayRows((array,)), found {type(activations).__name__}")
    parameter = next(sae.parameters())
    width = require_width(sae, activations)
    error = 0.0
    squares = 0.0
    total = torch.zeros(width, dtype=torch.float64)
    total_error = torch.zeros(width, dtype=torch.float64)
    cosines = 0.0
    counts: Tensor | None = None
    histogram = torch.zeros(1, dtype=torch.int64)
    best: _Best | None = None
    n = len(activations)
    bar = tqdm(total=n, desc=progress, unit=" tokens", unit_scale=True, disable=progress is None)
    with batch_free(sae), bar:
        for start in range(0, n, batch_size):
            rows = torch.arange(start, min(start + batch_size, n))
            x, y = sides(sae, activations.gather(rows, parameter.dtype).to(parameter.device))
            _require_finite("activations", x, start)
            if y is not x:
                _require_finite("targets", y, start)
            codes = sae.encode(x)
            wide = y.double()
            x_hat = reconstruction(sae, codes, x).double()
            missing = wide - x_hat
            error += float(missing.square().sum())
            total_error += missing.sum(0).cpu()
            cosines += float(nn.functional.cosine_similarity(wide, x_hat, dim=1).sum())
            squares += float(wide.square().sum())
            total += wide.sum(0).cpu()
            # a code whose value is 0 does not count as a firing feature
            fires = codes.values > 0
            tokens, features, values = (part[fires].cpu() for part in (codes.tokens, codes.features, codes.values))
            n_features = codes.shape[1]
            per_feature = torch.bincount(features, minlength=n_features)
            counts = per_feature if counts is None else counts + per_feature
            histogram = _add(histogram, torch.bincount(torch.bincount(tokens, minlength=len(rows))))
            best = best or _Best.empty(n_features, top)
            best = best.merged(tokens + start, features, values)
            bar.update(len(rows))
    assert counts is not None
    assert best is not None
    variation = squares - float(total.square().sum()) / n
    if not variation > 0:
        name = "targets" if takes_pairs(sae) else "activations"
        raise InputError(f"{name}: expected rows that vary, found {n} that are all equal")
    unexplained = error - float(total_error.square().sum()) / n
    return Quality(error / variation, counts, histogram, best.rows, best.values, unexplained / variation, cosines / n)


def _require_finite(name: str, rows: Tensor, start: int) -> None:
    """Name the first row that holds something else; `start` is the number of the first of `rows`."""
    wrong = (~rows.isfinite()).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise InputError(f"{name}: expected finite values, found {float(rows[row, column])} in row {start + row}")


def _add(one: Tensor, other: Tensor) -> Tensor:
    out = torch.zeros(max(len(one), len(other)), dtype=one.dtype)
    out[: len(one)] += one
    out[: len(other)] += other
    return out


@dataclass(frozen=True)
class _Best:
    """The largest activations of each feature so far; memory does not grow with the number of tokens."""

    rows: Tensor
    values: Tensor

    @classmethod
    def empty(cls, n_features: int, top: int) -> _Best:
        return cls(
            rows=torch.full((n_features, top), -1, dtype=torch.int64),
            values=torch.full((n_features, top), -torch.inf),
        )

    def merged(self, rows: Tensor, features: Tensor, values: Tensor) -> _Best:
        n_features, top = self.rows.shape
        # larger value first, then smaller row, then group by feature: stable sorts from the last key to the first
        order = rows.argsort(stable=True)
        order = order[values[order].argsort(stable=True, descending=True)]
        order = order[features[order].argsort(stable=True)]
        rows, features, values = rows[order], features[order], values[order].float()
        sizes = torch.bincount(features, minlength=n_features)
        rank = torch.arange(len(features)) - (sizes.cumsum(0) - sizes)[features]
        chosen = rank < top
        new_rows, new_values = self.empty(n_features, top).rows, self.empty(n_features, top).values
        new_rows[features[chosen], rank[chosen]] = rows[chosen]
        new_values[features[chosen], rank[chosen]] = values[chosen]
        both_rows = torch.cat([self.rows, new_rows], dim=1)
        both_values = torch.cat([self.values, new_values], dim=1)
        # the old ones come first and have smaller rows, so a stable sort keeps the tie rule
        best = both_values.argsort(dim=1, stable=True, descending=True)[:, :top]
        return _Best(both_rows.gather(1, best), both_values.gather(1, best))
