"""Quotas for feature choice: how many tokens each feature may take.

Feature densities of trained sparse autoencoders follow a Zipf-like curve except at the low end. The curve here is
Zipf-Mandelbrot, `(r + beta)^-alpha` over ranks r = 1, 2, ...: a choice of this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allocation.arguments import array_of, count_of, number_of
from allocation.arrays import Indices, Reals
from allocation.errors import InfeasibleError, InvalidProblemError

# Below this total times entries, float64 shares rounded down never sum to more than the total.
EXACT = 1 << 53
ZIPF_ALPHA = 1.0
"""Exponent of the Zipf-Mandelbrot curve that stands for densities not measured yet."""
ZIPF_BETA = 150.0
"""Rank offset of that curve."""


def uniform_quotas(total: int, features: int, tokens: int | None = None) -> Indices:
    """Equal quotas, the first features taking one more where `total` does not divide.

    ::

        m_j = total / features,   rounded so that sum_j m_j = total

    Parameters
    ----------
    total : int
        Matches to share out, usually k times the number of tokens.
    features : int
    tokens : int, optional
        Most matches of one feature.

    Returns
    -------
    (features,) int64

    Raises
    ------
    InfeasibleError
        If ``total > features * tokens``.

    Examples
    --------
    >>> import allocation as al
    >>> al.uniform_quotas(7, 3)
    array([3, 2, 2])
    """
    total, features, tokens = _sizes(total, features, tokens)
    return apportion(np.ones(features), total, tokens)


def zipf_quotas(total: int, features: int, alpha: float, beta: float, tokens: int | None = None) -> Indices:
    """Zipf-Mandelbrot quotas in order of rank, the largest first.

    ::

        m_r = total (r + beta)^-alpha / sum_s (s + beta)^-alpha,   m_r <= tokens,   sum_r m_r = total

    Parameters
    ----------
    total : int
        Matches to share out.
    features : int
    alpha : float
        Exponent, 0 or more; 0 is uniform.
    beta : float
        Offset of the ranks, above -1. Plain Zipf (alpha 1, beta 0) asks more than all tokens of the first features.
    tokens : int, optional
        Most matches of one feature; what lies above is shared among the others in proportion.

    Returns
    -------
    (features,) int64

    Examples
    --------
    >>> import allocation as al
    >>> al.zipf_quotas(20, 4, alpha=1.0, beta=0.0, tokens=8)
    array([8, 5, 4, 3])
    """
    total, features, tokens = _sizes(total, features, tokens)
    return apportion(zipf_weights(features, alpha, beta), total, tokens)


def zipf_weights(features: int, alpha: float = ZIPF_ALPHA, beta: float = ZIPF_BETA) -> Reals:
    """Zipf-Mandelbrot weights in order of rank, with sum 1.

    ::

        w_r = (r + beta)^-alpha / sum_s (s + beta)^-alpha

    Parameters
    ----------
    features : int
    alpha : float, default 1
        Exponent, 0 or more; 0 is uniform.
    beta : float, default 150
        Offset of the ranks, above -1.

    Returns
    -------
    (features,) float64

    Examples
    --------
    >>> import allocation as al
    >>> al.zipf_weights(3, alpha=1.0, beta=0.0).round(3)
    array([0.545, 0.273, 0.182])
    """
    features = count_of(features, "features")
    if (alpha := number_of(alpha, "alpha")) < 0:
        raise InvalidProblemError(f"alpha: expected 0 or more, found {alpha}")
    if (beta := number_of(beta, "beta")) <= -1:
        raise InvalidProblemError(f"beta: expected a number above -1, found {beta}")
    log_weights = -alpha * np.log(np.arange(1, features + 1) + beta)
    weights = np.exp(log_weights - log_weights.max(initial=-np.inf))
    return np.asarray(weights / weights.sum())


def apportion(weights: ArrayLike, total: int, most: int | None = None) -> Indices:
    """Integers in proportion to weights, by largest remainders.

    ::

        m_j = total w_j / sum w,   rounded so that sum_j m_j = total,   m_j <= most

    What exceeds `most` goes to the other entries in proportion before rounding. Ties go to the smaller index.

    Parameters
    ----------
    weights : vector of 0 or more
    total : int
    most : int, optional

    Returns
    -------
    int64 vector
        With a smaller sum only if `total` exceeds `most` times the number of entries.

    Examples
    --------
    >>> import allocation as al
    >>> al.apportion([3.0, 1.0, 1.0], total=7)
    array([4, 2, 1])
    """
    weights, total = _vector(weights, "weights", "a finite number of 0 or more"), count_of(total, "total")
    most = None if most is None else count_of(most, "most")
    if total * weights.size > EXACT:
        raise InvalidProblemError(f"total: expected at most 2^53 / {weights.size} entries, found {total}")
    weights = weights / weights.max() if weights.any() else np.ones_like(weights)
    limit = np.inf if most is None else float(most)
    shares = np.zeros(weights.size)
    capped = np.zeros(weights.size, bool)
    while True:
        left = total - limit * np.count_nonzero(capped) if capped.any() else float(total)
        mass = weights[~capped].sum()
        if mass == 0:  # only entries of weight 0 are left: they share what remains equally
            weights = np.where(capped, weights, 1.0)
            mass = weights[~capped].sum()
        shares[~capped] = left * weights[~capped] / mass if mass else 0.0
        over = ~capped & (shares > limit)
        if not over.any():
            break
        capped |= over
        shares[over] = limit
    quotas = np.floor(shares).astype(np.int64)
    short = total - int(quotas.sum())
    by_remainder = np.argsort(-(shares - quotas), kind="stable")
    room = by_remainder[quotas[by_remainder] < limit] if short > 0 else by_remainder
    while short > 0 and room.size:
        quotas[room[:short]] += 1
        short -= min(short, room.size)
        room = room[quotas[room] < limit]
    return quotas


@dataclass(frozen=True)
class ZipfFit:
    """A Zipf-Mandelbrot curve fitted to feature densities.

    Attributes
    ----------
    alpha, beta : float
        Exponent and rank offset.
    r_squared : float
        Share of the variance of log density that the curve explains, over the ranks kept.
    excluded : float
        Share of features left out: the dead ones and the low tail.
    ranks : (features,) int64
        Rank of every feature, 0 for the densest; equal densities by index.
    """

    alpha: float
    beta: float
    r_squared: float
    excluded: float
    ranks: Indices

    def densities(self, mean_active: float) -> Reals:
        """The curve's density of every feature, with sum `mean_active` (features per token)."""
        return mean_active * zipf_weights(self.ranks.size, self.alpha, self.beta)[self.ranks]

    def quotas(self, total: int, tokens: int | None = None) -> Indices:
        """Integer quotas of every feature, in feature order, with sum `total` and none above `tokens`."""
        return zipf_quotas(total, self.ranks.size, self.alpha, self.beta, tokens)[self.ranks]


def fit_zipf(densities: ArrayLike, tail: float = 0.1) -> ZipfFit:
    """Fit a Zipf-Mandelbrot curve to measured feature densities.

    ::

        minimise over alpha, beta, c   sum_r (log p_r - c + alpha log(r + beta))^2,   r over ranks above the low tail

    Each rank weighs 1 / r, so that every octave of the log-log plot counts alike.

    Parameters
    ----------
    densities : (features,) floats
        Share of tokens on which each feature fires.
    tail : float, default 0.1
        Share of the firing features, the rarest, that is left out.

    Returns
    -------
    ZipfFit

    Raises
    ------
    InvalidProblemError
        If densities are negative, not finite, or fewer than three features fire.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> fit = al.fit_zipf(0.5 / (np.arange(1, 1001) + 20.0) ** 0.9)
    >>> round(fit.alpha, 3), round(fit.beta, 2)
    (0.9, 20.0)
    """
    from scipy.optimize import minimize_scalar

    p = _vector(densities, "densities", "a finite number of 0 or more")
    if not 0 <= (tail := number_of(tail, "tail")) < 1:
        raise InvalidProblemError(f"tail: expected a share from 0 up to 1, found {tail}")
    order = np.argsort(-p, kind="stable")
    ranks = np.empty(p.size, np.int64)
    ranks[order] = np.arange(p.size)
    firing = int(np.count_nonzero(p))
    ranked = int(np.ceil(firing * (1.0 - tail)))
    if ranked < 3:
        raise InvalidProblemError(f"densities: expected at least 3 firing features above the tail, found {ranked}")
    r = np.arange(1, ranked + 1, dtype=np.float64)
    log_p = np.log(p[order[:ranked]])
    weight = 1.0 / r
    weight /= weight.sum()

    def line(log_beta: float) -> tuple[float, float]:
        """Slope and weighted squared error of the best line for one offset."""
        x = np.log(r + np.exp(log_beta))
        x_mean, y_mean = weight @ x, weight @ log_p
        slope = (weight @ ((x - x_mean) * (log_p - y_mean))) / (weight @ (x - x_mean) ** 2)
        return slope, float(weight @ (log_p - y_mean - slope * (x - x_mean)) ** 2)

    # one coarse scan, since the error need not be unimodal, then a refinement around the best offset
    grid = np.linspace(np.log(1e-3), np.log(10.0 * ranked), 120)
    best = int(np.argmin([line(b)[1] for b in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)])
    log_beta = float(
        minimize_scalar(lambda b: line(b)[1], bounds=bracket, method="bounded", options={"xatol": 1e-10}).x
    )
    slope, error = line(log_beta)
    variance = float(weight @ (log_p - weight @ log_p) ** 2)
    r_squared = 1.0 - error / variance if variance > 0 else 1.0
    return ZipfFit(max(-float(slope), 0.0), float(np.exp(log_beta)), r_squared, 1.0 - ranked / p.size, ranks)


class QuotaLedger:
    """Turns densities into integer quotas batch by batch, carrying the fractions over.

    ::

        |sum of a feature's grants - density_j * tokens so far| <= 2,   |sum of a batch's grants - k * tokens| <= 1

    A feature that is due 0.1 tokens per batch gets one token every tenth batch. What a batch leaves unused expires.

    Parameters
    ----------
    densities : (features,) floats
        Expected share of tokens of each feature, at most 1; their sum is the mean number of features per token.
    owed : (features,) floats, optional
        State of an earlier ledger: the matches that each feature is owed.

    Examples
    --------
    >>> import allocation as al
    >>> ledger = al.QuotaLedger([0.5, 0.25, 0.25])
    >>> sum(ledger.allot(2) for _ in range(4))
    array([4, 2, 2])
    """

    def __init__(self, densities: ArrayLike, owed: ArrayLike | None = None) -> None:
        self.densities = _vector(densities, "densities", "a share from 0 to 1", highest=1.0)
        # what is owed to each feature, in matches; it lies within one match of 0 between batches
        self.owed = np.zeros_like(self.densities) if owed is None else _vector(owed, "owed", "a finite number", -np.inf)
        if self.owed.shape != self.densities.shape:
            raise InvalidProblemError(f"owed: expected {self.densities.size} numbers, found shape {self.owed.shape}")

    def allot(self, tokens: int) -> Indices:
        """Quotas of the next batch of `tokens` tokens: an int64 vector, none above `tokens`."""
        tokens = count_of(tokens, "tokens")
        self.owed = self.owed + self.densities * tokens
        whole = np.clip(np.floor(self.owed), 0, tokens).astype(np.int64)
        left = self.owed - whole
        # the fractions still owed, rounded to whole matches, go to those that would next be owed a whole one (Tijdeman
        # 1980, the chairman assignment problem): every feature stays within a match of its due
        short = max(0, int(np.rint(np.maximum(self.owed.sum(), 0.0))) - int(whole.sum()))
        with np.errstate(all="ignore"):
            deadline = np.where((left > 0) & (whole < tokens), (1.0 - left) / self.densities, np.inf)
        due = np.argsort(deadline, kind="stable")[:short]
        whole[due[np.isfinite(deadline[due])]] += 1
        self.owed = self.owed - whole
        return whole


def _vector(values: Any, name: str, each: str, lowest: float = 0.0, highest: float = np.inf) -> Reals:
    """A float64 vector of finite numbers within bounds, which `each` puts into words."""
    array = array_of(values, name, "a vector of numbers")
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise InvalidProblemError(
            f"{name}: expected a vector of numbers, found shape {array.shape}, dtype {array.dtype}"
        )
    vector = array.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(vector) & (vector >= lowest) & (vector <= highest)))
    if wrong.size:
        raise InvalidProblemError(f"{name}[{wrong[0]}]: expected {each}, found {vector[wrong[0]]}")
    return vector


def _sizes(total: Any, features: Any, tokens: Any) -> tuple[int, int, int | None]:
    """The three as integers that fit together."""
    total, features = count_of(total, "total"), count_of(features, "features")
    tokens = None if tokens is None else count_of(tokens, "tokens")
    if features >= 1 << 32:
        raise InvalidProblemError(f"features: expected fewer than 2^32, found {features}")
    most = features * tokens if tokens is not None else (np.inf if features else 0)
    each = "" if tokens is None else f" of {tokens} tokens each"
    if total > most:
        raise InfeasibleError(f"total: expected at most {most} matches of {features} features{each}, found {total}")
    return total, features, tokens
