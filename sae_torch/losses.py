"""Losses on sparse codes. Squared errors are summed over d_model and averaged over tokens, all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import allocation as al
from sae_torch.errors import InputError
from sae_torch.matches import is_on_device, matches_of, padded_matches
from sae_torch.parallel.world import World
from sae_torch.rough_scores import RoughScores
from sae_torch.score_blocks import ChunkedScores, Scores
from sae_torch.sparse_coder import Output, SparseCoder

# Scores weighted at a time on a GPU: beside a matrix that fills it there is no room for another.
BLOCK_ENTRIES = 1 << 26


def reconstruction(out: Output, x: Tensor) -> Tensor:
    """Squared error of the reconstruction.

    ::

        L = (1/N) sum_i ||x_i - x_hat_i||^2

    Parameters
    ----------
    out : Output
        Of the autoencoder on `x`, or of a transcoder on its input.
    x : (tokens, d_out)
        What is reconstructed; of a transcoder its target y.

    Returns
    -------
    scalar

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> x = torch.randn(5, 4)
    >>> bool(st.losses.reconstruction(sae(x), x) > 0)
    True
    """
    return _squared_error(out.x_hat - x, out.world)


def matryoshka_loss(
    out: Output, x: Tensor, sae: SparseCoder, prefixes: Sequence[int], y: Tensor | None = None
) -> Tensor:
    """Squared error of every nested prefix of the dictionary, on the same codes: early features learn what is general.

    ::

        L = (1/P) sum_p (1/N) sum_i ||x_i - b_dec - sum_(j < m_p) a_ij W_dec_j||^2

    Parameters
    ----------
    out : Output
        Of the autoencoder on `x`.
    x : (tokens, d_model)
    sae : SparseAutoencoder or Transcoder
    prefixes : increasing ints
        Sizes m_p of the prefixes; the last is the number of features.
    y : (tokens, d_out), optional
        Of a transcoder: the target.

    Returns
    -------
    scalar
        With the whole dictionary as the only prefix, `reconstruction`.

    Source: Bussmann et al. 2025, arXiv 2503.17547.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.MutualChoice(k=2))
    >>> x = torch.randn(5, 4)
    >>> bool(st.losses.matryoshka_loss(sae(x), x, sae, prefixes=[2, 8]) > 0)
    True
    """
    require_prefixes(prefixes, sae.n_features)
    sizes = [0, *prefixes]
    total = x.new_zeros(())
    x_hat, target = sae.rest(x), _target(x, y, sae)
    for start, stop in itertools.pairwise(sizes):
        codes = out.codes
        if (start, stop) != (0, sae.n_features):
            first = sae.world.cut(sae.n_features).start
            codes = codes.feature_range(start - first, stop - first)
        x_hat = x_hat + sae.contribution(codes)
        total = total + _squared_error(x_hat - target, sae.world)
    return total / len(prefixes)


def require_prefixes(prefixes: Sequence[int], n_features: int) -> None:
    """Refuse sizes that `matryoshka_loss` does not take.

    ::

        0 < m_1 < ... < m_P = features

    Raises
    ------
    InputError
        If they do not increase from above 0 to the number of features.

    Examples
    --------
    >>> import sae_torch as st
    >>> st.losses.require_prefixes([2, 8], n_features=8)
    """
    sizes = [0, *prefixes]
    if any(low >= high for low, high in itertools.pairwise(sizes)) or sizes[-1] != n_features:
        raise InputError(
            f"prefixes: expected increasing positive sizes that end with all {n_features} features, found "
            f"{list(prefixes)}"
        )


def aux_k_loss(
    out: Output, x: Tensor, sae: SparseCoder, dead: Tensor, k_aux: int, every: int = 1, y: Tensor | None = None
) -> Tensor:
    """What dead features could add: they reconstruct the error that the others leave.

    ::

        L = (1/N) sum_i ||e_i - sum_j z_ij W_dec_j||^2,   e = stop_gradient(x - x_hat),
            j over the k_aux dead features of token i with the largest positive scores

    Parameters
    ----------
    out : Output
        Of ``sae(x, return_pre=True)``.
    x : (tokens, d_model)
    sae : SparseAutoencoder or Transcoder
    dead : (features,) bool
    k_aux : int
        Dead features per token; about half of d_model.
    every : int
        Look at every n-th token only, which estimates the same mean at a fraction of the cost.
    y : (tokens, d_out), optional
        Of a transcoder: the target, of which the error is what the others leave.

    Returns
    -------
    scalar
        0 where nothing is dead. The gradient reaches encoder and decoder.

    Source: Gao et al. 2024, arXiv 2406.04093, appendix A.2.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> x = torch.randn(5, 4)
    >>> float(st.losses.aux_k_loss(sae(x, return_pre=True), x, sae, torch.zeros(8, dtype=torch.bool), k_aux=2))
    0.0
    """
    return aux_zipf_loss(out, x, sae, dead.to(x.dtype), k_aux, every, y)


def aux_zipf_loss(
    out: Output, x: Tensor, sae: SparseCoder, weights: Tensor, k_aux: int, every: int = 1, y: Tensor | None = None
) -> Tensor:
    """`aux_k_loss` for dead and under-used features: each takes part by how far it fires below its curve.

    ::

        L = (1/N) sum_i ||e_i - sum_j w_j relu(z_ij) W_dec_j||^2,   w_j = clip(1 - p_j / pi_r(j), 0, 1),
            j over the k_aux features of token i with the largest w_j relu(z_ij) ||W_dec_j||

    Weight 1 is a dead feature, 0 one on the curve; with the indicator of dead features as weight this is `aux_k_loss`
    to the last bit. This project's reading of "generalises aux_k_loss to dead and under-used features" (arXiv
    2411.02124).

    Parameters
    ----------
    out : Output
        Of ``sae(x, return_pre=True)``.
    x : (tokens, d_model)
    sae : SparseAutoencoder or Transcoder
    weights : (features,)
        Shortfalls from 0 to 1, without gradient; see `shortfall`.
    k_aux : int
        Features per token.
    every : int
        Look at every n-th token only, which estimates the same mean at a fraction of the cost.
    y : (tokens, d_out), optional
        Of a transcoder: the target, of which the error is what the others leave.

    Returns
    -------
    scalar
        0 where every weight is 0.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> x = torch.randn(5, 4)
    >>> st.losses.aux_zipf_loss(sae(x, return_pre=True), x, sae, torch.ones(8), k_aux=2).requires_grad
    True
    """
    if out.scores is None:
        raise InputError("out: the auxiliary losses read all scores; pass sae(x, return_pre=True)")
    if weights.shape != (sae.n_features,):
        raise InputError(f"weights: expected {sae.n_features} numbers, found shape {tuple(weights.shape)}")
    if every < 1:
        raise InputError(f"every: expected 1 or more, found {every}")
    of_all = weights.detach().to(x.dtype)
    weights = sae.world.mine(of_all)
    looked_at = sae.world.every(len(x), every)
    error = (_target(x, y, sae)[looked_at] - out.x_hat[looked_at]).detach()
    x, pre = x[looked_at], out.scores[looked_at]
    if is_on_device(pre):
        codes = sae.codes_at(x, pre, *_best_padded(pre, weights, k_aux))
        added = sae.contribution(codes.with_values(codes.values * weights[codes.features]))
        return _squared_error(error - added, sae.world) * (of_all > 0).any()
    lacking_in_all = int(torch.count_nonzero(of_all))
    if lacking_in_all == 0:
        return x.new_zeros(())
    with torch.no_grad():
        lacking = weights.nonzero().squeeze(1)
        tokens, features = _best(pre, weights, lacking, min(k_aux, lacking_in_all), sae.world.own)
    codes = sae.codes_at(x, pre, tokens, features)
    return _squared_error(error - sae.contribution(codes.with_values(codes.values * weights[features])), sae.world)


def _best(pre: Scores, weights: Tensor, lacking: Tensor, most: int, world: World) -> tuple[Tensor, Tensor]:
    """Tokens and features of the best weighted scores of every token; only the columns that take part are read."""
    if isinstance(pre, ChunkedScores):
        problem = pre.candidates({"token_caps": most}, weights, world.part(pre.shape))
        tokens, features = matches_of(al.solve(problem, ranks=world.ranks))
        return tokens.to(weights.device), features.to(weights.device)
    factors = weights[lacking].to(pre.dtype)
    if world.cuts_features and isinstance(pre, Tensor):
        problem = al.Problem(pre * weights.to(pre.dtype), token_caps=most, part=world.part(pre.shape))
        return matches_of(al.solve(problem, ranks=world.ranks))

    def best(start: int, stop: int) -> tuple[Tensor, Tensor]:
        if isinstance(pre, RoughScores):
            scores: Any = pre.part(slice(start, stop), lacking, factors).rough
        else:
            scores = _weighted(pre[start:stop], lacking, factors)
        tokens, features = matches_of(al.solve(al.token_choice(scores, most), workers=1))
        return tokens + start, lacking[features]

    # gathered and searched while a CPU's cache holds them
    parts = al.map_blocks(best, len(pre), len(pre) * lacking.numel() * pre.dtype.itemsize)
    tokens, features = (torch.cat(parts) for parts in zip((lacking[:0], lacking[:0]), *parts, strict=True))
    return tokens, features


def _best_padded(pre: Tensor, weights: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same on a GPU, with the count, and without waiting for it: columns of weight 0 have nothing positive."""
    blocks = []
    for start, rows in _row_blocks(pre):
        best = padded_matches(rows * weights.to(pre.dtype), token_caps=min(most, pre.shape[1]))
        blocks.append((best.tokens + start, best.features, best.within))
    tokens, features, within = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    order = torch.argsort(within.logical_not(), stable=True)  # the matches of all blocks first
    return tokens[order], features[order], within.sum()


def _row_blocks(scores: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows of a matrix with the number of the first, so few that another matrix of them finds room."""
    step = max(1, BLOCK_ENTRIES // max(scores.shape[1], 1))
    for start in range(0, max(len(scores), 1), step):
        yield start, scores[start : start + step]


def _weighted(rows: Tensor, features: Tensor, weights: Tensor) -> Tensor:
    """Only the columns that take part, times their weights."""
    if rows.dtype not in (torch.float32, torch.float64):
        return rows[:, features] * weights
    weighted = rows.numpy().take(features.numpy(), axis=1)
    weighted *= weights.numpy()
    return torch.from_numpy(weighted)


def shortfall(densities: Tensor, curve: Tensor) -> Tensor:
    """How far each feature fires below its place on the curve.

    ::

        w_j = clip(1 - p_j / pi_r(j), 0, 1)

    Parameters
    ----------
    densities : (features,)
        Moving firing densities p.
    curve : (features,)
        The curve's density for each feature.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.losses import shortfall
    >>> shortfall(torch.tensor([0.0, 0.25, 0.9]), torch.tensor([0.5, 0.5, 0.5])).tolist()
    [1.0, 0.5, 0.0]
    """
    return (1.0 - densities / curve.clamp_min(torch.finfo(curve.dtype).tiny)).clamp(0.0, 1.0)


def _target(x: Tensor, y: Tensor | None, sae: SparseCoder) -> Tensor:
    """What is reconstructed."""
    if sae.takes_pairs and y is None:
        raise InputError(f"y: expected the target of a transcoder, (tokens, {sae.d_out}), found none")
    return x if y is None else y


def _squared_error(difference: Tensor, world: World) -> Tensor:
    return world.mean(difference.pow(2).sum(dim=1))
