"""What the soft solve returns: shares, prices, and the derivative by implicit differentiation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allocation.arguments import array_of
from allocation.arrays import Indices, Reals
from allocation.errors import InvalidProblemError
from allocation.notebook import card, spread
from allocation.problem import Problem
from allocation.soft.forms import FORMS
from allocation.soft.normal_equations import NormalEquations
from allocation.solution import Prices, Status
from allocation.threads import BLOCK_ENTRIES

# Linear systems of the derivative: relative size of the ridge, accuracy of one solve, and how often it is refined.
RIDGE, PRECISION, REFINEMENTS = 1e-11, 1e-10, 2


@dataclass(frozen=True, eq=False)
class Inner:
    """The problem that a soft solve computes on, and which lines of the whole one it has; None: all of them."""

    problem: Problem
    lines: tuple[Indices, Indices] | None
    shape: tuple[int, int]

    def spread(self, side: int, values: Reals) -> Reals:
        """One value for each token (side 0) or feature (side 1) of the whole problem, 0 where it has no edge."""
        if self.lines is None:
            return values
        everywhere = np.zeros(self.shape[side])
        everywhere[self.lines[side]] = values
        return everywhere


@dataclass(frozen=True, eq=False, repr=False)
class SoftSolution:
    """A soft allocation: shares that meet the limits, their prices, and the derivative.

    Attributes
    ----------
    allocation : float64 array of the shape of problem.scores
        Shares between 0 and 1: a matrix, or one per candidate edge. 0 where a match is forbidden.
    prices : Prices
        Of the budget, the tokens and the features, in the unit of the scores; 0 where a limit is slack, +inf for a
        cap of 0 under ``form="entropy"``. `lower` and `upper` repeat `value`.
    temperature : float
        In the unit of the scores.
    form : str
    status : Status
    stats : mapping
        Newton steps, the residual (largest error of a count, as a share of its cap), seconds.

    Examples
    --------
    >>> import allocation as al
    >>> soft = al.soft_solve(al.token_choice([[3.0, 1.0, 0.0]], k=1), temperature=0.5)
    >>> soft.allocation.round(3)
    array([[0.872, 0.111, 0.017]])
    >>> soft.token_counts.round(9)
    array([1.])
    """

    problem: Problem
    allocation: Reals
    prices: Prices
    temperature: float
    form: str
    status: Status
    stats: Mapping[str, Any]
    _inner: Inner
    _shares: Reals
    _slopes: Reals
    _equations: NormalEquations

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens, number of features."""
        return self.problem.shape

    @property
    def token_counts(self) -> Reals:
        """Sum of the shares of every token."""
        return self._inner.spread(0, self._shares.sum(1))

    @property
    def feature_counts(self) -> Reals:
        """Sum of the shares of every feature."""
        return self._inner.spread(1, self._shares.sum(0))

    @cached_property
    def objective(self) -> float:
        """Sum of score times share: at most the optimal total of the exact problem."""
        shares, scores = self.allocation, self.problem.scores
        shares, scores = shares.reshape(-1), scores.reshape(-1)
        blocks = (slice(start, start + BLOCK_ENTRIES) for start in range(0, shares.size, BLOCK_ENTRIES))
        parts = [float((np.where(shares[b] > 0, scores[b], 0) * shares[b]).sum()) for b in blocks]
        return math.fsum(parts)

    @cached_property
    def value(self) -> float:
        """The maximum of the soft problem, `objective` plus temperature times the concave term.

        At least the optimal total of the exact problem, which has the term 0.
        """
        return self.objective + self.temperature * FORMS[self.form].term(self.allocation)

    def vjp(self, cotangent: ArrayLike) -> Reals:
        """The gradient of ``(cotangent * allocation).sum()`` in the scores.

        ::

            D (G - C^T y),   C D C^T y = C D G        (C: the tight limits, D: slopes of the shares)

        Parameters
        ----------
        cotangent : array of the shape of allocation

        Returns
        -------
        float64 array of the same shape, 0 at forbidden matches

        Raises
        ------
        InvalidProblemError
            If the shape differs or an entry is not finite.

        Source: implicit function theorem on the optimality conditions; Amos and Kolter 2017, arXiv 1703.00443. Where
        a limit only just becomes tight the derivative is one-sided, and this is that of the slack limit.

        Examples
        --------
        >>> import allocation as al
        >>> soft = al.soft_solve(al.mutual_choice([[2.0, 1.0]], budget=1), temperature=1.0)
        >>> soft.vjp([[1.0, 0.0]]).round(4)
        array([[ 0.1175, -0.1175]])
        """
        upstream = _cotangent(cotangent, self.allocation.shape)
        matrix = self._inner.problem.matrix
        return matrix.gathered(self._gradient(matrix.spread(upstream, 0.0)))

    def _gradient(self, upstream: Reals) -> Reals:
        tokens, slopes = self._slopes.shape[0], self._slopes
        weighted = slopes * upstream
        right = np.concatenate([weighted.sum(1), weighted.sum(0), [weighted.sum()]])
        y = self._equations.solve(right, RIDGE, PRECISION, REFINEMENTS)
        gradient: Reals = upstream - (y[:tokens] + y[-1])[:, None]
        gradient -= y[tokens:-1]
        gradient *= slopes
        gradient /= self.temperature
        return gradient

    def __repr__(self) -> str:
        tight = np.count_nonzero(self._equations.free)
        return (
            f"SoftSolution({self.shape[0]} tokens x {self.shape[1]} features, {self.form}, temperature "
            f"{self.temperature:g}, {self._shares.sum():.6g} matches, objective {self.objective:.6g}, {tight} tight "
            f"limits, {self.status.name})"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("shares", f"{self._shares.sum():.6g} matches of {self.shape[0]:,} tokens x {self.shape[1]:,} features"),
            ("objective", f"{self.objective:.10g}"),
            ("value", f"{self.value:.10g}"),
            ("form, temperature", f"{self.form}, {self.temperature:g}"),
            ("budget price", f"{self.prices.budget.value:.6g}"),
            ("per token", spread(self.token_counts)),
            ("per feature", spread(self.feature_counts)),
        ]
        return card("SoftSolution", rows, self.status.value)


def _cotangent(cotangent: Any, shape: tuple[int, ...]) -> Reals:
    array = array_of(cotangent, "cotangent", f"an array of shape {shape}")
    if array.dtype.kind not in "iuf":
        raise InvalidProblemError(f"cotangent: expected real numbers, found dtype {array.dtype}")
    upstream = array.astype(np.float64)
    if upstream.shape != shape:
        raise InvalidProblemError(f"cotangent: expected the allocation's shape {shape}, found {upstream.shape}")
    wrong = ~np.isfinite(upstream)
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), shape))
        raise InvalidProblemError(
            f"cotangent: expected finite entries, found that {int(wrong.sum())} entries are not finite, the first at "
            f"{at} ({upstream[at]})"
        )
    return upstream
